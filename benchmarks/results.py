"""The manual's page of results: what the models of this repository get right, as tables with intervals.

    python benchmarks/results.py [--models DIR ...] [--limit N] [--tables NAME ...] [--threads N]
                                 [--work DIR] [--out FILE]

`make results` writes docs/results.md. Everything that is measured lies in build/results: interrupted, the same command
goes on there, and what has been measured is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from result_lines import measure_table
from result_page import page
from result_tables import TABLES

from edgereason.errors import EdgeReasonError
from edgereason.files import new_file
from edgereason.progress.display import shown_progress

ROOT = Path(__file__).resolve().parent.parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the repository's models and write the page of results.")
    models = [path.parent for path in sorted(ROOT.glob("examples/*/held_out.jsonl"))]
    parser.add_argument("--models", type=Path, nargs="+", default=models, metavar="DIR", help="those in examples")
    parser.add_argument("--limit", type=int, help="take the first N problems of each set only")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), metavar="NAME")
    parser.add_argument("--threads", type=int, help="threads to compute with")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    tables = [TABLES[name](model, chosen.limit) for name in chosen.tables for model in _models(name, chosen.models)]
    with shown_progress("results") as progress:
        found = [(table, measure_table(table, chosen.work, progress, chosen.threads)) for table in tables]
    with new_file(chosen.out) as file:
        file.write_text(page(found), encoding="utf-8")


def _models(table: str, models: list[Path]) -> list[Path]:
    """The methods are trained on one base, the first model's."""
    return models[:1] if table == "methods" else models


if __name__ == "__main__":
    try:
        main()
    except EdgeReasonError as error:
        sys.exit(f"error: {error}")
