"""How many problems a bundle answers right, and whether it is more than another way does."""

from edgereason.evaluation.accuracy import Accuracy, Row
from edgereason.evaluation.comparison import Comparison, compare
from edgereason.evaluation.data_sets import NAMES, problems_of
from edgereason.evaluation.measurement import MODES, EvaluationSettings, measure_accuracy
from edgereason.evaluation.reports import EvaluationReport, evaluate, read_report
from edgereason.problems.equivalence import same_result
from edgereason.problems.records import Problem, read_problems

__all__ = [
    "MODES",
    "NAMES",
    "Accuracy",
    "Comparison",
    "EvaluationReport",
    "EvaluationSettings",
    "Problem",
    "Row",
    "compare",
    "evaluate",
    "measure_accuracy",
    "problems_of",
    "read_problems",
    "read_report",
    "same_result",
]
