"""Arithmetic word problems of one to four steps, with guidance and worked answers, made from a seed.

A problem is put together from clauses (`possessions.py`, `money.py`, `journeys.py`, `groups.py`) in the order that a
structure gives (`structures.py`) and told by `story.py`. A fifth of the structures is never trained on: they show
whether a model has learned clauses or whole problems.
"""

from edgereason.problems.word_problems.story import held_out, problems, sample_problem
from edgereason.problems.word_problems.structures import KNOWN, UNKNOWN, Pool, Structure

__all__ = ["KNOWN", "UNKNOWN", "Pool", "Structure", "held_out", "problems", "sample_problem"]
