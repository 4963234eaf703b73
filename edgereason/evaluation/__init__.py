"""How many problems a bundle answers right."""

from edgereason.evaluation.accuracy import Accuracy, Row, measure, same_result
from edgereason.evaluation.problems import Problem, read_problems

__all__ = ["Accuracy", "Problem", "Row", "measure", "read_problems", "same_result"]
