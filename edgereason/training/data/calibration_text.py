"""The problems that ship for calibrating quantizers.

python -m edgereason.training.data.calibration_text FILE
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from edgereason.files import new_file
from edgereason.problems.arithmetic.generator import arithmetic_problems, held_out_arithmetic
from edgereason.problems.worked_problem import question_key

COUNT = 128
_FIELDS = ("question", "guidance", "answer")


def write_calibration_text(path: Path) -> None:
    """Write the problems as JSON lines; the same at every call, and none of the data set `example`."""
    exclude = {question_key(problem.question) for problem in held_out_arithmetic(seed=0)}
    with new_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        for problem in islice(arithmetic_problems("calibration", exclude), COUNT):
            values = problem.to_json()
            file.write(json.dumps({name: values[name] for name in _FIELDS}) + "\n")


def main(path: Annotated[Path, typer.Argument(help="The file to write.")]) -> None:
    """Write the problems that ship for calibration."""
    write_calibration_text(path)


if __name__ == "__main__":
    typer.run(main)
