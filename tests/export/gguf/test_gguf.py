"""GGUF files: the same keys and tensors as llama.cpp's converter writes, and the same ids from the same text."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_contents import contents, convert, differences
from hypothesis import given
from hypothesis import strategies as st
from merged_model import save_merged
from safetensors.torch import load_file, save_file

from edgereason.errors import ExportError
from edgereason.export.gguf import GGML_FILE_TYPES, write_gguf
from edgereason.export.gguf.rope_conversion import interleave_halves

ROPES: dict[str, dict[str, object]] = {
    "default": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("merged")
    save_merged(directory)
    return directory


@pytest.fixture(scope="module")
def written(merged: Path) -> Path:
    write_gguf(merged, merged / "model.gguf", "F16")
    return merged / "model.gguf"


@pytest.mark.conformance
@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("tied", [True, False])
def test_f16_is_what_the_converter_of_llama_cpp_writes(tmp_path: Path, rope: str, tied: bool) -> None:
    changes = {"attention_bias": not tied, "mlp_bias": not tied, "vocab_size": 320, "rope_parameters": ROPES[rope]}
    save_merged(tmp_path, tie_word_embeddings=tied, **changes)
    write_gguf(tmp_path, tmp_path / "ours.gguf", "F16")
    assert differences(tmp_path / "ours.gguf", convert(tmp_path, tmp_path / "theirs.gguf")) == {}


def test_tensors_are_the_checkpoints_in_half_precision(merged: Path, written: Path) -> None:
    source = load_file(merged / "model.safetensors")
    _, tensors = contents(written)
    assert tensors["token_embd.weight"][2] == source["model.embed_tokens.weight"].half().numpy().tobytes()
    assert tensors["output_norm.weight"][2] == source["model.norm.weight"].float().numpy().tobytes()
    assert len(tensors) == len(source)


@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 3))
def test_interleaving_moves_the_second_half_between_the_first(heads: int, half: int, width: int) -> None:
    rows = torch.arange(heads * 2 * half * width).reshape(heads * 2 * half, width)
    moved = interleave_halves(rows, heads)
    for head in range(heads):
        block, expected = moved[head * 2 * half :], rows[head * 2 * half :]
        assert torch.equal(block[0 : 2 * half : 2], expected[:half])
        assert torch.equal(block[1 : 2 * half : 2], expected[half : 2 * half])


@pytest.mark.parametrize("gguf_type", GGML_FILE_TYPES)
def test_every_type_is_written_whole_with_progress_and_no_leftovers(
    merged: Path, tmp_path: Path, gguf_type: str
) -> None:
    steps: list[tuple[int, int]] = []
    write_gguf(merged, tmp_path / "model.gguf", gguf_type, lambda done, total: steps.append((done, total)))
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1][0] == steps[-1][1]
    keys, _ = contents(tmp_path / "model.gguf")
    assert keys["general.file_type"] == GGML_FILE_TYPES[gguf_type]


def test_the_same_model_gives_the_same_bytes(merged: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        write_gguf(merged, tmp_path / name, "Q4_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_the_chat_template_and_special_tokens_are_the_tokenizers(merged: Path, written: Path) -> None:
    keys, _ = contents(written)
    config = json.loads((merged / "tokenizer_config.json").read_text())
    tokens = keys["tokenizer.ggml.tokens"]
    assert keys["tokenizer.chat_template"] == config["chat_template"]
    assert tokens[keys["tokenizer.ggml.eos_token_id"]] == config["eos_token"]
    assert keys["tokenizer.ggml.token_type"][keys["tokenizer.ggml.eos_token_id"]] == gguf.TokenType.CONTROL


def refused(model_dir: Path, out: Path, gguf_type: str = "F16") -> str:
    """The message of a writing that has to fail and to leave nothing behind."""
    out.mkdir()
    with pytest.raises(ExportError) as caught:
        write_gguf(model_dir, out / "model.gguf", gguf_type)
    assert list(out.iterdir()) == []
    return str(caught.value)


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    save_merged(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert "blk.0.ffn_up.weight" in refused(tmp_path, tmp_path / "out")


def test_other_families_and_types_are_refused(tmp_path: Path) -> None:
    save_merged(tmp_path)
    assert "Choose one of" in refused(tmp_path, tmp_path / "type", "Q9_9")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    assert "the architecture 'gpt2'" in refused(tmp_path, tmp_path / "family")


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    save_merged(tmp_path, vocab_size=200)
    assert "embedding has 200 rows" in refused(tmp_path, tmp_path / "out")


def test_a_disk_that_is_full_leaves_nothing(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    assert "No space left on device" in refused(merged, tmp_path / "out")


def test_half_precision_holds_the_weights_to_its_rounding(merged: Path, written: Path) -> None:
    source = load_file(merged / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].numpy()
    stored = np.frombuffer(contents(written)[1]["blk.1.ffn_down.weight"][2], dtype=np.float16).reshape(source.shape)
    np.testing.assert_allclose(stored, source, rtol=2**-11, atol=2**-24)
