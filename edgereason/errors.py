"""Errors for people: what is wrong, where, and the way out.

Every failure that a user can cause or cure is an `EdgeReasonError`. The command line prints it as one sentence and,
where there is one, the cure below it; anything else is a defect of ours and keeps its traceback.
"""

from typing import Any


class EdgeReasonError(Exception):
    """A problem that its reader can act on.

    Args:
        what: One sentence that names the file or argument and what is wrong with it.
        cure: What to do about it; may be empty where the sentence already says so.
    """

    exit_code = 1

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.what}\n  {self.cure}" if self.cure else self.what


class UsageError(EdgeReasonError):
    """An argument that cannot be used as given: an empty question, an unknown engine, a value out of range."""

    exit_code = 2


class BundleError(EdgeReasonError):
    """A bundle or model file that is missing, truncated, altered, hostile, or of an unknown kind."""


class EngineError(EdgeReasonError):
    """An engine that is not installed, cannot run on this machine, or cannot run this model."""


class ExportError(EdgeReasonError):
    """Base and adapters that cannot be exported as asked: wrong pairing, broken values, no space left."""


class FidelityError(ExportError):
    """A bundle that is further from its base and adapters than allowed.

    Attributes:
        report: What was measured, as `edgereason.export.fidelity.FidelityReport.to_json` gives it.
    """

    def __init__(self, what: str, cure: str, report: dict[str, Any]) -> None:
        super().__init__(what, cure)
        self.report = report


class ContextError(UsageError):
    """A prompt that is longer than the model's context."""


class EdgeReasonWarning(UserWarning):
    """Something that works but could be better, with the better way."""


class OutOfTimeError(EdgeReasonError):
    """An answer that was not complete in the time that it was given."""


class CancelledError(EdgeReasonError):
    """A question of a batch that was given up while others are being answered."""
