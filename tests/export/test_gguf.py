"""GGUF files: the same keys and tensors as llama.cpp's converter writes, and the same ids from the same text."""

from __future__ import annotations

import ctypes
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_contents import contents, convert, differences
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_model import save_merged
from safetensors.torch import load_file, save_file
from shared_data import shared
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from edgereason.errors import ExportError
from edgereason.export.gguf import GGUF_TYPES, write_gguf
from edgereason.export.gguf.rope import interleave_halves
from edgereason.export.gguf.tokenizer import pre_tokenizer_name, write_tokenizer
from edgereason.llama_library import llama_library

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
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


@contextmanager
def vocabulary(path: Path) -> Iterator[Any]:
    """llama.cpp's vocabulary of a GGUF file, which need not hold tensors."""
    llama = llama_library()
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(os.fsencode(path), params)
    assert model
    yield llama.llama_model_get_vocab(model)
    llama.llama_model_free(model)


def llama_cpp_ids(vocab: Any, text: str) -> list[int]:
    data = text.encode("utf-8")
    ids = (ctypes.c_int32 * (len(data) + 8))()
    count = llama_library().llama_tokenize(vocab, data, len(data), ids, len(ids), False, True)
    assert count >= 0
    return list(ids[:count])


def write_vocabulary(model_dir: Path, out: Path, vocab_size: int) -> None:
    writer = gguf.GGUFWriter(out, "llama")
    write_tokenizer(writer, model_dir, vocab_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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


@pytest.mark.parametrize("gguf_type", GGUF_TYPES)
def test_every_type_is_written_whole_with_progress_and_no_leftovers(
    merged: Path, tmp_path: Path, gguf_type: str
) -> None:
    steps: list[tuple[int, int]] = []
    write_gguf(merged, tmp_path / "model.gguf", gguf_type, lambda done, total: steps.append((done, total)))
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1][0] == steps[-1][1]
    keys, _ = contents(tmp_path / "model.gguf")
    assert keys["general.file_type"] == GGUF_TYPES[gguf_type]


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


@settings(max_examples=400, deadline=None)
@given(
    text=st.lists(st.sampled_from([" ", "7", "\n", "<|im_end|>", "'s"]) | st.text(max_size=6), max_size=12).map("".join)
)
def test_llama_cpp_splits_text_as_tokenizers_does(small_vocabulary: tuple[Any, Tokenizer], text: str) -> None:
    vocab, tokenizer = small_vocabulary
    text = text.replace("\0", "")  # a C string ends there
    assert llama_cpp_ids(vocab, text) == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def small_vocabulary(merged: Path, written: Path) -> Iterator[tuple[Any, Tokenizer]]:
    with vocabulary(written) as vocab:
        yield vocab, Tokenizer.from_file(str(merged / "tokenizer.json"))


@pytest.mark.parametrize(
    ("name", "pre_tokenizer"),
    [
        ("gpt-2", pre_tokenizers.ByteLevel(add_prefix_space=False)),
        ("llama-bpe", LLAMA3),
        ("qwen2", QWEN2),
    ],
)
def test_real_vocabularies_give_llama_cpps_own_ids(tmp_path: Path, name: str, pre_tokenizer: Any) -> None:
    source = shared(f"data/tokenizers/ggml-vocab-{name}.gguf")
    tokenizer = rebuilt_tokenizer(source, pre_tokenizer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    write_vocabulary(tmp_path, tmp_path / "vocab.gguf", tokenizer.get_vocab_size())
    texts = source.with_suffix(".gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = [list(map(int, line.split())) for line in source.with_suffix(".gguf.out").read_text().splitlines()]
    with vocabulary(tmp_path / "vocab.gguf") as vocab:
        assert [llama_cpp_ids(vocab, text) for text in texts[: len(expected)]] == expected
    assert [tokenizer.encode(text, add_special_tokens=False).ids for text in texts[: len(expected)]] == expected


def array(data: bytes, key: str) -> list[Any]:
    """An array of texts or int32 in a GGUF file's header; the gguf package takes 20 seconds for a large one."""
    at = data.index(key.encode()) + len(key)
    _, kind, count = struct.unpack_from("<IIQ", data, at)
    at += 16
    if kind == gguf.GGUFValueType.INT32:
        return list(struct.unpack_from(f"<{count}i", data, at))
    texts = []
    for _ in range(count):
        end = at + 8 + struct.unpack_from("<Q", data, at)[0]
        texts.append(data[at + 8 : end].decode("utf-8"))
        at = end
    return texts


def rebuilt_tokenizer(source: Path, pre_tokenizer: Any) -> Tokenizer:
    """The tokenizer.json of a vocabulary that is there as GGUF only."""
    data = source.read_bytes()
    tokens, types = array(data, "tokenizer.ggml.tokens"), array(data, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in array(data, "tokenizer.ggml.merges")]
    normal = {token: index for index, token in enumerate(tokens)}
    # Llama 3 takes a word that is a token as that token, whatever its merges say.
    tokenizer = Tokenizer(models.BPE(normal, merges, ignore_merges=pre_tokenizer == LLAMA3))
    if isinstance(pre_tokenizer, str):
        split = pre_tokenizers.Split(Regex(pre_tokenizer), "isolated")
        pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


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
    assert 'the family "gpt2"' in refused(tmp_path, tmp_path / "family")


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    save_merged(tmp_path, vocab_size=200)
    assert "embedding has 200 rows" in refused(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.Whitespace(),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(False)]),
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(False)]),
    ],
)
def test_a_way_of_splitting_without_a_name_is_refused(pre_tokenizer: Any) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    with pytest.raises(ExportError, match="no name for"):
        pre_tokenizer_name(json.loads(tokenizer.to_str()), Path("tokenizer.json"))


def test_a_disk_that_is_full_leaves_nothing(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    assert "No space left on device" in refused(merged, tmp_path / "out")


def test_half_precision_holds_the_weights_to_its_rounding(merged: Path, written: Path) -> None:
    source = load_file(merged / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].numpy()
    stored = np.frombuffer(contents(written)[1]["blk.1.ffn_down.weight"][2], dtype=np.float16).reshape(source.shape)
    np.testing.assert_allclose(stored, source, rtol=2**-11, atol=2**-24)
