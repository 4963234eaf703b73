"""CONTRIBUTING.md describes the rooms that import-linter checks, and none of them is crowded."""

from __future__ import annotations

import re
import tomllib

import pytest
from places import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
}


def tables() -> list[list[list[str]]]:
    """The rooms in the first column of each table, row by row."""
    found: list[list[list[str]]] = []
    for line in CONTRIBUTING.splitlines():
        if line.startswith("| room |"):
            found.append([])
        elif line.startswith("| `"):
            found[-1].append(re.findall(r"`(\w+)`", line.split("|")[1]))
    return found


@pytest.mark.parametrize(("table", "contract"), [(0, "rooms"), (1, "export-rooms")])
def test_the_tables_are_those_that_import_linter_checks(table: int, contract: str) -> None:
    layers = [layer.split(" | ") for layer in CONTRACTS[contract]["layers"]]
    assert [layer for layer in layers if layer != ["__main__"]] == tables()[table]


def test_only_the_proof_opens_engines() -> None:
    layers = " | ".join(CONTRACTS["export-rooms"]["layers"]).split(" | ")
    rooms = {f"edgereason.export.{room}" for room in layers}
    assert set(CONTRACTS["proof"]["source_modules"]) == rooms - {"edgereason.export.fidelity"}


def test_no_import_is_ignored() -> None:
    assert not any(key.startswith("ignore") for contract in CONTRACTS.values() for key in contract)


def test_the_files_on_the_way_of_a_question_and_of_an_adapter_exist() -> None:
    named = re.findall(r"^\d+\. `([\w/.]+)`", CONTRIBUTING, re.MULTILINE)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_no_folder_is_crowded() -> None:
    folders = [folder for top in ("edgereason", "export", "kernels") for folder in (ROOT / top).rglob("*")]
    modules = {folder: len(list(folder.glob("*.py"))) for folder in folders if folder.is_dir()}
    assert {folder.name: count for folder, count in modules.items() if count > 15} == {}
    assert len(list((ROOT / "edgereason").glob("*.py"))) <= 12


def test_no_two_modules_have_one_name() -> None:
    """A command's file is named as the command, and may be named as what it calls."""
    modules = [
        file.stem
        for top in ("edgereason", "export", "kernels")
        for file in (ROOT / top).rglob("*.py")
        if not file.stem.startswith("__") and file.parent.name != "cli"
    ]
    assert sorted({name for name in modules if modules.count(name) > 1}) == []
