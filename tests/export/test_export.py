"""Exports: what comes out, and the sentence when nothing can."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from random_model import save_adapter, save_base
from safetensors.torch import load_file, save_file

from edgereason.bundle import STAGES, Bundle
from edgereason.errors import EdgeReasonError, EngineError, ExportError, UsageError
from edgereason.export import export
from edgereason.text.prompts import ANSWER, GUIDANCE

Trio = dict[str, Path]


@pytest.fixture
def copy(trio: Trio, tmp_path: Path) -> Trio:
    """The random base and adapters, free to be broken."""
    return {name: Path(shutil.copytree(path, tmp_path / "in" / name)) for name, path in trio.items()}


def run(trio: Trio, out: Path, **options: object) -> Bundle:
    options = {"verify": False, **options}  # what it takes is tested in tests/export/fidelity/test_fidelity.py
    return export(trio["base"], trio["guidance"], trio["answer"], out, **options)  # type: ignore[arg-type]


def refused(trio: Trio, tmp_path: Path, **options: object) -> str:
    """The message of an export that has to fail and to leave nothing behind."""
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(EdgeReasonError) as caught:
        run(trio, out / "bundle", **options)
    assert list(out.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize(
    ("format", "method"),
    [("native", "rtn"), ("gguf", "rtn"), ("onnx", "rtn"), ("native", "gptq"), ("onnx", "gptq"), ("gptq", "gptq")],
)
def test_the_same_inputs_give_the_same_bytes(trio: Trio, tmp_path: Path, format: str, method: str) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Tom has 12 apples and buys 30 more. " * 20)
    options = {"format": format, "method": method, "calibration_text": text}
    first, second = (run(trio, tmp_path / name, **options) for name in ("first", "second"))
    assert first.files == second.files
    assert (tmp_path / "first/bundle.json").read_bytes() == (tmp_path / "second/bundle.json").read_bytes()


def test_the_manifest_has_prompts_stops_and_origins_and_no_paths(native_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(native_bundle)
    assert (bundle.stages["guidance"].prompt, bundle.stages["answer"].prompt) == (GUIDANCE, ANSWER)
    assert bundle.stages["answer"].stop_ids == {2}
    assert bundle.provenance["answer"]["base"]["family"] == "llama"
    assert str(tmp_path.parent) not in (native_bundle / "bundle.json").read_text()


def test_the_answer_model_may_have_another_base(trio: Trio, tmp_path: Path) -> None:
    save_base(tmp_path / "wide", hidden_size=96)
    save_adapter(tmp_path / "wide", tmp_path / "adapter", ANSWER)
    trained = (trio["base"], trio["guidance"], tmp_path / "adapter")
    bundle = export(*trained, tmp_path / "out", answer_base=tmp_path / "wide", verify=False)
    assert bundle.provenance["guidance"]["base"]["name"] == "base"
    assert bundle.provenance["answer"]["base"]["name"] == "wide"


def test_progress_reaches_its_total(trio: Trio, tmp_path: Path) -> None:
    last: dict[str, tuple[int, int]] = {}
    run(trio, tmp_path / "out", progress=lambda step, done, total: last.update({step: (done, total)}))
    assert set(last) == {f"{stage}: {step}" for stage in STAGES for step in ("checksums", "writing 4-bit native")}
    assert all(done == total for done, total in last.values())


def test_an_adapter_for_another_width_is_refused(copy: Trio, tmp_path: Path) -> None:
    shutil.rmtree(copy["base"])
    save_base(copy["base"], hidden_size=96)
    message = refused(copy, tmp_path)
    assert "was trained on another base" in message
    assert "64 wide, that of base 96" in message


def test_an_adapter_for_more_layers_is_refused(copy: Trio, tmp_path: Path) -> None:
    shutil.rmtree(copy["base"])
    save_base(copy["base"], num_hidden_layers=1)
    assert "changes model.layers.1.mlp.down_proj, which base does not have" in refused(copy, tmp_path)


def test_an_adapter_with_nan_is_refused(copy: Trio, tmp_path: Path) -> None:
    weights = copy["answer"] / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(iter(tensors))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, weights)
    assert f"has NaN or infinite values in {name.removeprefix('base_model.model.')}" in refused(copy, tmp_path)


def break_architecture(trio: Trio) -> None:
    config = json.loads((trio["base"] / "config.json").read_text())
    (trio["base"] / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))


def break_base_weights(trio: Trio) -> None:
    weights = trio["base"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def pickle_base(trio: Trio) -> None:
    (trio["base"] / "model.safetensors").rename(trio["base"] / "pytorch_model.bin")


def remove_adapter_weights(trio: Trio) -> None:
    (trio["guidance"] / "adapter_model.safetensors").unlink()


def remove_tokenizer(trio: Trio) -> None:
    (trio["base"] / "tokenizer.json").unlink()


def break_prompt(trio: Trio) -> None:
    (trio["answer"] / "prompt.json").write_text('{"system": "only"}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_architecture, "names the architecture 'mamba', which cannot be exported"),
        (break_base_weights, "model.safetensors cannot be read"),
        (pickle_base, "has no safetensors weights"),
        (remove_adapter_weights, "has no adapter_model.safetensors"),
        (remove_tokenizer, "has no tokenizer.json"),
        (break_prompt, "prompt.json is not a prompt"),
    ],
)
def test_broken_input_is_named(copy: Trio, tmp_path: Path, damage: Callable[[Trio], None], message: str) -> None:
    damage(copy)
    assert message in refused(copy, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("value", ["1e999", "NaN", '"x"', "[[1]]", "2.5", "true", "-1", "[2, null]", "{}"])
def test_an_end_token_that_is_no_token_is_named(copy: Trio, tmp_path: Path, name: str, value: str) -> None:
    file = copy["base"] / name
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": "here"}).replace('"here"', value))
    message = refused(copy, tmp_path)
    assert message.startswith(f"{file}: eos_token_id is ")
    assert "Correct it there" in message


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_an_end_token_beyond_the_vocabulary_is_named(copy: Trio, tmp_path: Path, name: str) -> None:
    file = copy["base"] / name
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": [2, 99999]}))
    message = refused(copy, tmp_path)
    assert "99999" in message
    assert name in message


def test_a_base_that_is_nowhere_is_named(trio: Trio, tmp_path: Path) -> None:
    message = refused({**trio, "base": Path("nobody/nothing")}, tmp_path)
    assert "nobody/nothing is not a directory here and could not be downloaded" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "exe"}, "There is no format 'exe'."),
        ({"bits": 5}, "bits is 5."),
        ({"format": "gguf", "gguf_type": "Q9"}, "There is no GGUF type 'Q9'."),
        ({"gguf_type": "Q4_0"}, "gguf-type needs --format gguf"),
    ],
)
def test_bad_options_are_named(trio: Trio, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(trio, tmp_path / "out", **options)


def test_a_missing_library_is_named(trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(EngineError, match=r"needs peft(.|\n)*pip install"):
        run(trio, tmp_path / "out")


def test_too_little_disk_is_refused_before_any_work(
    trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "GB of disk free, this export needs about" in refused(trio, tmp_path)


def test_a_disk_that_fills_up_is_a_sentence_and_leaves_nothing(trio: Trio, tmp_path: Path) -> None:
    """On file systems that hold the early check's estimate of free space, but less and less of the bundle."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
import os, shutil, subprocess
from edgereason.export import export
from edgereason.errors import ExportError
usage = shutil.disk_usage
shutil.disk_usage = lambda path: usage("/")  # as if something else had filled the disk after the check
trained = ({str(trio["base"])!r}, {str(trio["guidance"])!r}, {str(trio["answer"])!r})
disk = {str(disk)!r}
for layout in ("merged", "shared"):
    for size in (4, 30, 74, 100, 120, 160):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={{size}}k", "none", disk], check=True)
        try:
            export(*trained, disk + "/out", layout=layout, verify=False)
        except ExportError as error:
            print(error.what)
        assert os.listdir(disk) == []
        subprocess.run(["umount", disk], check=True)
"""
    mount = f"mount -t tmpfs -o size=4k none {disk}"
    if os.name == "nt" or subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    done = subprocess.run(["unshare", "-m", sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sentences = done.stdout.splitlines()
    assert len(sentences) == 12
    assert all(sentence.endswith("be written: No space left on device.") for sentence in sentences), sentences


def test_existing_output_is_kept_unless_forced(trio: Trio, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        run(trio, tmp_path / "out")
    run(trio, tmp_path / "out", replace=True)
    Bundle.open(tmp_path / "out")
