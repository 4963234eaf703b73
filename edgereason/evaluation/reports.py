"""An evaluation's file: figures, settings and transcripts as JSON, written as it goes; read to resume and compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgereason.bundle import MANIFEST
from edgereason.errors import BundleError, UsageError
from edgereason.evaluation.accuracy import Accuracy, Row
from edgereason.evaluation.comparison import Comparison, compare
from edgereason.evaluation.measurement import TWO_STAGE, EvaluationSettings, measure_accuracy
from edgereason.files import new_file, read_json, write_json
from edgereason.pipeline.reasoner import Reasoner
from edgereason.problems.records import Problem

_ANOTHER = "Give another file, or leave --resume out."
_EVERY_S = 5.0  # a file of a thousand transcripts is a megabyte: not written anew for each of them


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation has found, as far as it got.

    Attributes:
        settings: What was asked and how: `bundle`, its manifest's `sha256`, `engine`, `data`, and the fields of
            `EvaluationSettings`.
        accuracy: The figures and rows.
        complete: Whether all problems were asked.
        against: How it compares with another evaluation of the same problems, if that was asked for.
    """

    settings: dict[str, Any]
    accuracy: Accuracy
    complete: bool
    against: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        structures = {name: each.figures() for name, each in self.accuracy.by_structure().items()}
        return {
            **self.accuracy.figures(),
            "complete": self.complete,
            "settings": self.settings,
            **({"against": self.against.to_json()} if self.against else {}),
            **({"structures": structures} if structures else {}),
            "rows": [row.to_json() for row in self.accuracy.rows],
        }

    def write(self, path: Path) -> None:
        """Write the report, whole or not at all.

        Raises:
            UsageError: the file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as file:
                write_json(file, self.to_json())
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.", "Does its directory exist?") from error


def read_report(path: Path) -> EvaluationReport:
    """Read what `EvaluationReport.write` wrote.

    Raises:
        UsageError: the file is missing or is no evaluation.
    """
    cure = "Give a file that `edgereason eval --json` wrote."
    try:
        value = read_json(path)
    except BundleError as error:
        raise UsageError(error.what, cure) from error
    rows, settings = value.get("rows"), value.get("settings")
    if not isinstance(rows, list) or not isinstance(settings, dict):
        raise UsageError(f"{path} is not an evaluation report.", cure)
    read = (Row.from_json(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1))
    return EvaluationReport(settings, Accuracy(tuple(read)), value.get("complete") is True)


def evaluate(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    way: EvaluationSettings = TWO_STAGE,
    *,
    data: str = "",
    path: Path | None = None,
    resume: bool = False,
    against: tuple[str, EvaluationReport] | None = None,
    report: Callable[[list[Row]], object] | None = None,
    **arguments: Any,
) -> EvaluationReport:
    """Measure a bundle, and keep what has been measured.

    Args:
        reasoner: Answers the problems.
        problems: All of them.
        way: How they are asked.
        data: What the problems are called in the report.
        path: The report is written here, every few seconds, at the end, and when something ends it early.
        resume: Take the rows that `path` has already, and ask the problems behind them only.
        against: Another evaluation of the same problems, and what it is called, to compare with.
        report: Called with the rows that are there at the beginning, and after each problem with all so far.
        arguments: Further ones of `measure_accuracy`.

    Raises:
        UsageError: an option is out of its range, `path` cannot be written or holds another evaluation, or `against`
            is one of other problems.
    """
    if against is not None:
        _check_same(problems, *against)
    settings = _settings(reasoner, data, way)
    before = _rows_of(path, settings, problems) if resume and path is not None and path.exists() else []
    log = _Log(settings, len(problems), path, against, before)
    if report:
        report(before)

    def keep(rows: list[Row]) -> None:
        log.keep(rows)
        if report:
            report(rows)

    try:
        measure_accuracy(reasoner, problems, way, before=before, report=keep, **arguments)
    finally:
        log.close()
    return log.report()


class _Log:
    """An evaluation in progress, and the file that is written now and then.

    Args:
        rows: Those that are there at the beginning.
        asked: How many there will be.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        asked: int,
        path: Path | None,
        against: tuple[str, EvaluationReport] | None,
        rows: Sequence[Row],
    ) -> None:
        self._settings, self._asked, self._path, self._against = settings, asked, path, against
        self._rows = tuple(rows)
        self._written = float("-inf")
        # A comparison is new even where all rows were there.
        self._changed = against is not None and len(rows) == asked

    def report(self) -> EvaluationReport:
        """What there is so far."""
        complete = len(self._rows) == self._asked
        beside = None
        if complete and self._against is not None:
            name, other = self._against
            beside = compare(self._rows, other.accuracy.rows, name)
        return EvaluationReport(self._settings, Accuracy(self._rows), complete, beside)

    def keep(self, rows: Sequence[Row]) -> None:
        """Take all rows so far, and write them where that was not done for some seconds."""
        self._rows, self._changed = tuple(rows), True
        if time.monotonic() - self._written > _EVERY_S:
            self.close()
            self._written = time.monotonic()

    def close(self) -> None:
        """Write what has changed."""
        if self._path is not None and self._changed:
            self.report().write(self._path)
            self._changed = False


def paths_of(bundles: Sequence[Path], path: Path | None) -> list[Path | None]:
    """Where each bundle's report belongs: a single one's is `path`, several have one each in the directory `path`.

    Raises:
        UsageError: two bundles have the same name.
    """
    if path is None or len(bundles) == 1:
        return [path] * len(bundles)
    names = [bundle.resolve().name for bundle in bundles]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"Two of the bundles are called {twice}.", "Evaluate them one by one, or leave --json out.")
    return [path / f"{name}.json" for name in names]


def _settings(reasoner: Reasoner, data: str, way: EvaluationSettings) -> dict[str, Any]:
    bundle = reasoner.bundle
    # The manifest holds the hashes of all the bundle's files.
    digest = sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
    engine = reasoner.models["guidance"].engine.name
    told = {"bundle": str(bundle.path), "sha256": digest, "engine": engine, "data": data, **way.to_json()}
    return told | ({} if way.calculator is not None else {"calculator": bundle.stages["answer"].prompt.calculator})


def _rows_of(path: Path, settings: dict[str, Any], problems: Sequence[Problem]) -> list[Row]:
    """The rows that an earlier run has left, of the same model asked the same in the same way."""
    report = read_report(path)
    rows = report.accuracy.rows
    differing = [name for name, value in settings.items() if name != "bundle" and report.settings.get(name) != value]
    if differing:
        raise UsageError(f"{path} holds another evaluation: its {differing[0]} differs.", _ANOTHER)
    if _problems(rows) != _asked(problems)[: len(rows)]:
        raise UsageError(f"{path} holds rows of other problems.", _ANOTHER)
    return [*rows]


def _check_same(problems: Sequence[Problem], name: str, other: EvaluationReport) -> None:
    """Before hours of work, what `compare` would find after them."""
    if _problems(other.accuracy.rows) != _asked(problems):
        raise UsageError(
            f"{name} holds {other.accuracy.total} rows, which are not of these {len(problems)} problems.",
            "Evaluate both on the same --data with the same --limit.",
        )


def _problems(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [(row.question, row.expected) for row in rows]


def _asked(problems: Sequence[Problem]) -> list[tuple[str, str]]:
    return [(problem.text, problem.expected) for problem in problems]
