"""What the page of results is made of: tables of lines, each a bundle that is asked the same problems in one way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgereason.bundle import MANIFEST
from edgereason.evaluation import EvaluationReport, EvaluationSettings, Problem, Row, evaluate
from edgereason.evaluation.comparison import Comparison, compare
from edgereason.evaluation.measurement import TWO_STAGE
from edgereason.export import export
from edgereason.pipeline.reasoner import Reasoner, load

Make = Callable[[Path], Path]
"""Makes a bundle below a directory of work, where it is not there yet, and says where it lies."""
Progress = Callable[[str, int, int], object]
"""Called with a line's name, how many problems are done, and how many there are."""


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        name: What is measured.
        make: Its bundle.
        way: How it is asked.
        against: The name of the line above that it is compared with; empty for none.
    """

    name: str
    make: Make
    way: EvaluationSettings = TWO_STAGE
    against: str = ""


@dataclass(frozen=True)
class Table:
    """Lines that face the same problems.

    Attributes:
        title: The heading.
        text: What the lines are and how to read them, Markdown.
        problems: What is asked, by the name of the data set.
        lines: From top to bottom.
    """

    title: str
    text: str
    problems: dict[str, list[Problem]]
    lines: Sequence[Line]


@dataclass(frozen=True)
class Found:
    """What a line has come to on one data set."""

    line: Line
    report: EvaluationReport
    against: Comparison | None


def measure_table(table: Table, work: Path, progress: Progress, threads: int | None = None) -> dict[str, list[Found]]:
    """All lines of a table on all of its data sets. What an earlier run has measured is not measured again.

    Args:
        work: Bundles and the reports of the lines lie here; interrupted, the next call goes on there.
        threads: To compute with.

    Returns:
        By data set the lines in their order.
    """
    found: dict[str, list[Found]] = {data: [] for data in table.problems}
    for line in table.lines:
        bundle = line.make(work)
        for data, problems in table.problems.items():
            with load(bundle, threads=threads) as reasoner:
                report = _measure(line, reasoner, data, problems, work, progress)
            other = next((each.report for each in found[data] if each.line.name == line.against), None)
            beside = compare(report.accuracy.rows, other.accuracy.rows, line.against) if other else None
            found[data].append(Found(line, report, beside))
    return found


def _measure(
    line: Line, reasoner: Reasoner, data: str, problems: list[Problem], work: Path, progress: Progress
) -> EvaluationReport:
    # A file belongs to this bundle, these problems and this way: what is there and fits can be gone on with.
    manifest = reasoner.bundle.path / MANIFEST
    path = work / "reports" / f"{digest(manifest.read_bytes(), repr((line.way, problems)).encode())}.json"
    name = f"{line.name}, {data}"

    def report(rows: list[Row]) -> None:
        progress(name, len(rows), len(problems))

    return evaluate(reasoner, problems, line.way, data=data, path=path, resume=True, report=report)


def exported(base: Path, guidance: Path, answer: Path, **options: Any) -> Make:
    """The bundle of a base and two adapters; `options` as `edgereason.export.export` takes them."""
    return partial(_export, base, guidance, answer, options)


def _export(base: Path, guidance: Path, answer: Path, options: dict[str, Any], work: Path) -> Path:
    files = sorted({path for directory in (base, guidance, answer) for path in directory.iterdir() if path.is_file()})
    out = work / "bundles" / digest(repr(options).encode(), *(path.read_bytes() for path in files))
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        export(base, guidance, answer, out, verify=False, **options)
    return out


def digest(*parts: bytes) -> str:
    """A name for what the parts together determine."""
    return sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()[:16]
