"""Plans: close to what the export then takes, made without doing it, and refusals before any work."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from random_model import save_adapter, save_base
from typer.testing import CliRunner

from edgereason.cli.app import app
from edgereason.errors import ExportError
from edgereason.export import export, plan, planning
from edgereason.text.prompts import ANSWER, GUIDANCE


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("inputs")
    paths = {name: directory / name for name in ("base", "guidance", "answer")}
    save_base(paths["base"], hidden_size=256, intermediate_size=1024, tie_word_embeddings=False)
    save_adapter(paths["base"], paths["guidance"], GUIDANCE, seed=1)
    save_adapter(paths["base"], paths["answer"], ANSWER, seed=2)
    return paths


@pytest.mark.parametrize(
    "options",
    [
        {"format": "native"},
        {"format": "native", "bits": 8},
        {"format": "native", "bits": 16},
        {"format": "native", "layout": "shared"},
        {"format": "gguf", "gguf_type": "Q4_K_M", "imatrix": False},
        {"format": "gguf", "gguf_type": "F16"},
        {"format": "onnx"},
    ],
    ids=str,
)
def test_a_bundle_is_about_as_large_as_planned(
    inputs: dict[str, Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    planned = plan(*inputs.values(), tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []
    bundle = export(*inputs.values(), tmp_path / "out", verify=False, **options)
    models = (".safetensors", ".gguf", ".onnx", ".data")
    size = sum(record.bytes for name, record in bundle.files.items() if name.endswith(models) and "adapter" not in name)
    assert planned.bytes == pytest.approx(size, rel=0.15)
    assert planned.disk_bytes >= planned.bytes
    assert 0 < planned.seconds < 600


def test_full_precision_takes_more_of_everything(inputs: dict[str, Path], tmp_path: Path) -> None:
    four, sixteen = (plan(*inputs.values(), tmp_path / "out", bits=bits) for bits in (4, 16))
    assert sixteen.bytes > 3 * four.bytes
    verified, not_verified = (plan(*inputs.values(), tmp_path / "out", verify=verify) for verify in (True, False))
    assert verified.memory_bytes > not_verified.memory_bytes


@pytest.mark.parametrize("lacking", ["disk", "memory"])
def test_what_will_not_do_is_refused_before_any_work(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking == "disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        message = "GB of disk free, this export needs about"
    else:
        monkeypatch.setattr(planning, "available_memory", lambda: 1000)
        message = "of memory are free, this export needs about(.|\n)*--no-verify"
    with pytest.raises(ExportError, match=message):
        export(*inputs.values(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_a_table_and_writes_nothing(inputs: dict[str, Path], tmp_path: Path) -> None:
    arguments = [
        f"--{name}={path}"
        for name, path in zip(("base", "guidance-adapter", "answer-adapter"), inputs.values(), strict=True)
    ]
    done = CliRunner().invoke(app, ["export", *arguments, "--out", str(tmp_path / "out"), "--dry-run"])
    assert done.exit_code == 0, done.output
    for word in ("guidance", "answer", "in the bundle", "memory", "free"):
        assert word in done.output
    assert list(tmp_path.iterdir()) == []
