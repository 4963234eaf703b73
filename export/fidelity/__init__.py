"""Fidelity: how close a bundle is to the base and adapters that it was made from, rung by rung.

    report = measure_bundle(bundle, sources)
    report.finding      # None, or the first rung beyond its limits, with the likely cause and the cure

docs/fidelity.md explains the report.
"""

from edgereason.export.fidelity.causes import Finding
from edgereason.export.fidelity.limits import default_limits, parse_thresholds
from edgereason.export.fidelity.report import FidelityReport, Rung, StageReport

__all__ = ["FidelityReport", "Finding", "Rung", "StageReport", "default_limits", "parse_thresholds"]
