"""The fidelity report: measured values and limits of each rung, and the first rung beyond its limits.

A bundle's manifest holds it as JSON; reading and showing it needs none of the libraries that measure it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgereason.errors import BundleError
from edgereason.export.fidelity.causes import Finding, explain
from edgereason.export.fidelity.limits import EXACT, exceeded

if TYPE_CHECKING:
    from rich.table import Table

TITLES = {
    "tokenizer": "token ids",
    "gguf_tokenizer": "ids in llama.cpp",
    "template": "chat template",
    "stops": "end tokens",
    "merged": "merged, fp32",
    "stored": "stored in 16 bits",
    "quantized": "quantized",
    "engine": "on the engine",
}


@dataclass(frozen=True)
class Rung:
    """One step from the reference to the bundle.

    Attributes:
        name: One of `limits.RUNGS`.
        measures: `compared` and `different` on a rung where everything has to be equal, else those of `Distance`, and
            where weights follow those of another rung `weight`, the largest change of one as a share of its norm.
        limits: By measure.
        detail: Details of a loss: the first difference, or the weight that changed most.
        evidence: The cause of a loss and its cure, where a check has found them.
    """

    name: str
    measures: Mapping[str, float]
    limits: Mapping[str, float]
    detail: str = ""
    evidence: tuple[str, str] | None = None

    @property
    def exceeded(self) -> tuple[str, ...]:
        """The measures beyond their limits."""
        return exceeded(self.measures, self.limits)

    def to_json(self) -> dict[str, Any]:
        return {
            "rung": self.name,
            "passed": not self.exceeded,
            "measures": {name: _to_json(value) for name, value in self.measures.items()},
            "limits": dict(self.limits),
            **({"detail": self.detail} if self.detail else {}),
            **({"evidence": list(self.evidence)} if self.evidence else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rung:
        measures = {str(name): _from_json(number) for name, number in value["measures"].items()}
        limits = {str(name): float(number) for name, number in value["limits"].items()}
        if value["rung"] not in TITLES:
            raise ValueError(f"unknown rung {value['rung']!r}")
        cause, cure = value.get("evidence") or ("", "")
        evidence = (str(cause), str(cure)) if cause else None
        return cls(value["rung"], measures, limits, str(value.get("detail", "")), evidence)


@dataclass(frozen=True)
class StageReport:
    """One stage's ladder.

    Attributes:
        prompts: Number of prompts that were measured.
        positions: Number of token positions.
        rungs: In order.
        too_long: Number of prompts that were skipped, since they leave no room in the model's context.
    """

    prompts: int
    positions: int
    rungs: tuple[Rung, ...]
    too_long: int = 0

    def to_json(self) -> dict[str, Any]:
        counts = {"prompts": self.prompts, "positions": self.positions}
        if self.too_long:
            counts["too_long"] = self.too_long
        return {**counts, "rungs": [rung.to_json() for rung in self.rungs]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StageReport:
        rungs = tuple(Rung.from_json(rung) for rung in value["rungs"])
        return cls(int(value["prompts"]), int(value["positions"]), rungs, int(value.get("too_long", 0)))


@dataclass(frozen=True)
class FidelityReport:
    """How close a bundle is to what it was made from.

    Attributes:
        reference: A description of the reference.
        bits: Bits per weight in the bundle.
        stages: Each stage's ladder.
    """

    reference: str
    bits: int
    stages: Mapping[str, StageReport] = field(default_factory=dict)

    @property
    def finding(self) -> Finding | None:
        """The first rung beyond its limits, with the likely cause and the cure; None where all hold."""
        ladder = {name: index for index, name in enumerate(TITLES)}
        broken = [
            (ladder[rung.name], stage, rung)
            for stage, report in self.stages.items()
            for rung in report.rungs
            if rung.exceeded
        ]
        if not broken:
            return None
        _, stage, rung = min(broken, key=lambda each: each[0])  # of equal rungs the first stage's
        loss = (rung.measures, rung.limits, rung.exceeded, rung.detail)
        return explain(stage, rung.name, *loss, self.bits, rung.evidence)

    @property
    def passed(self) -> bool:
        return self.finding is None

    def to_json(self) -> dict[str, Any]:
        finding = self.finding
        return {
            "reference": self.reference,
            "bits": self.bits,
            "passed": finding is None,
            **({"finding": vars(finding)} if finding else {}),
            "stages": {name: stage.to_json() for name, stage in self.stages.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> FidelityReport:
        """Read what `to_json` wrote; `where` names its file in the error of something else.

        Raises:
            BundleError: it is not a report.
        """
        try:
            stages = {str(name): StageReport.from_json(stage) for name, stage in value["stages"].items()}
            return cls(str(value["reference"]), int(value["bits"]), stages)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(
                f"{where} holds no valid fidelity report: {type(error).__name__} {error}.", "Export the bundle again."
            ) from error

    def tables(self) -> list[Table]:
        """A table for each stage."""
        return [_table(name, stage) for name, stage in self.stages.items()]


_COLUMNS = {
    "kl": "KL mean",
    "kl_p99": "KL 99%",
    "step_kl": "step adds",
    "top1": "top-1",
    "perplexity": "ppl ratio",
    "greedy": "same text",
}


def _table(name: str, stage: StageReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = f"{name}: {stage.prompts} prompts, {stage.positions:,} tokens"
    if stage.too_long:
        title += f" ({stage.too_long} longer than the model's context skipped)"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("rung", no_wrap=True)
    for heading in _COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for rung in stage.rungs:
        mark = Text("✗", "red") if rung.exceeded else Text("✓", "green")
        if rung.name in EXACT:
            compared, different = int(rung.measures["compared"]), int(rung.measures["different"])
            text = f"{different:,} of {compared:,} differ" if different else f"{compared:,} equal"
            table.add_row(mark, TITLES[rung.name], Text(text, "red" if different else ""))
            continue
        cells = [
            Text(format_measure(measure, rung.measures[measure]), "bold red" if measure in rung.exceeded else "")
            for measure in _COLUMNS
        ]
        table.add_row(mark, TITLES[rung.name], *cells)
    return table


def format_measure(name: str, value: float) -> str:
    """A measure as text."""
    if not math.isfinite(value):
        return "∞"
    if name in ("top1", "greedy"):
        return f"{value:.1%}"
    if name == "perplexity":
        return f"{value:.4f}" if value < 100 else f"{value:.3g}"
    if name in ("compared", "different"):
        return f"{value:,.0f}"
    return f"{value:.2g}" if value >= 1e-9 else "0"


def _to_json(value: float) -> float | int | None:
    """Six digits, so that the last bits of a sum do not make two reports differ; None for infinity and NaN."""
    if not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() and value > 1 else float(f"{value:.6g}")


def _from_json(value: Any) -> float:
    return math.inf if value is None else float(value)
