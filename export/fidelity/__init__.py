"""The proof: how close a bundle is to the base and adapters that it was made from, rung by rung.

    report = fidelity.measure(bundle, trained)
    report.finding      # None, or the rung that lost the model, with the likely cause and the cure

docs/fidelity.md tells how to read it.
"""

from edgereason.export.fidelity.causes import Finding
from edgereason.export.fidelity.limits import default_limits, parse_thresholds
from edgereason.export.fidelity.report import Report, Rung, StageReport

__all__ = ["Finding", "Report", "Rung", "StageReport", "default_limits", "parse_thresholds"]
