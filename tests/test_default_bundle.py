"""The bundle that ships inside the package: the default model, answering."""

from __future__ import annotations

import json
from pathlib import Path

from places import HELD_OUT, WORD_PROBLEMS

from edgereason import load
from edgereason.bundle import DEFAULT_BUNDLE, Bundle
from edgereason.evaluation import same_result
from edgereason.export import export


def test_it_is_what_export_makes_of_the_example(tmp_path: Path) -> None:
    base, *adapters = (WORD_PROBLEMS / name for name in ("base", "guidance", "answer"))
    export(base, *adapters, tmp_path / "out", format="native", layout="shared", bits=4, verify=False)
    shipped = Bundle.open(DEFAULT_BUNDLE).to_json()
    shipped.pop("fidelity", None)  # whose last digits depend on the machine
    assert Bundle.open(tmp_path / "out").to_json() == shipped, "make default-bundle"


def test_it_answers_held_out_problems() -> None:
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()[:40]
    with load() as reasoner:
        problems = [json.loads(line) for line in lines]
        finals = [reasoner.ask(problem["question"]).final or "" for problem in problems]
    right = sum(same_result(final, problem["result"]) for final, problem in zip(finals, problems, strict=True))
    assert right >= 38  # the bar is 95% of 500 problems
