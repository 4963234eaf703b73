"""What a GGUF file holds, and what llama.cpp's own converters write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest

Contents = tuple[dict[str, Any], dict[str, tuple[int, tuple[int, ...], bytes]]]

_IDENTITY = {"general.name", "general.version", "general.basename", "general.finetune"}


def contents(path: Path) -> Contents:
    """A file's keys and values, and its tensors' types, shapes and bytes."""
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = {
        each.name: (int(each.tensor_type), tuple(map(int, each.shape)), each.data.tobytes()) for each in reader.tensors
    }
    return keys, tensors


def differences(ours: Path, theirs: Path) -> dict[str, Any]:
    """Keys and tensors in which two files differ, name and version aside, with both values (of tensors, the shapes)."""
    (our_keys, our_tensors), (their_keys, their_tensors) = contents(ours), contents(theirs)
    keys = {
        name: (our_keys.get(name), their_keys.get(name))
        for name in {*our_keys, *their_keys} - _IDENTITY
        if our_keys.get(name) != their_keys.get(name)
    }
    tensors = {
        name: tuple(each[name][:2] if name in each else None for each in (our_tensors, their_tensors))
        for name in {*our_tensors, *their_tensors}
        if our_tensors.get(name) != their_tensors.get(name)
    }
    return keys | tensors


def convert(model_dir: Path, out: Path, *options: str, script: str = "convert_hf_to_gguf.py") -> Path:
    """What llama.cpp's converter makes of a model; skips the test where the converter is not there."""
    converter = os.environ.get("EDGEREASON_CONVERTER")
    if converter is None:
        pytest.skip("EDGEREASON_CONVERTER does not name llama.cpp's convert_hf_to_gguf.py")
    # The converter knows tokenizers by a sum over their ids, and so none that is random.
    run = (
        "import sys, runpy; from pathlib import Path; root = str(Path(sys.argv[1]).parent);"
        "sys.path[:0] = [root, root + '/gguf-py']; import conversion.base as base;"
        "base.TextModel.get_vocab_base_pre = lambda self, tokenizer: 'smollm';"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    path = Path(converter).with_name(script)
    command = [
        sys.executable,
        "-c",
        run,
        str(path),
        str(model_dir),
        "--outfile",
        str(out),
        "--outtype",
        "f16",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out
