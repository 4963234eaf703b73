"""Tokenizers in GGUF: llama.cpp gives the ids that the tokenizer gives."""

from __future__ import annotations

import ctypes
import json
import struct
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import merges_of, normalizer, save_pieces
from random_model import save_tokenizer
from shared_data import shared
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import edgereason.text.tokenizer
from edgereason.checkpoints.llama_library import llama_library, without_weights
from edgereason.errors import ExportError
from edgereason.export.gguf.tokenizer_metadata import model_name, write_tokenizer_metadata
from edgereason.export.inputs.gguf.pre_tokenizer import pre_tokenizer_name

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+@"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*@"
)
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = CASED.replace("@", "") + r"|\p{N}" + REST.replace(r"[\r\n]*", r"[\r\n/]*")
GPT_4O = CASED.replace("@", CONTRACTIONS + "?") + r"|\p{N}{1,3}" + REST.replace(r"[\r\n]*", r"[\r\n/]*")
GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
# By llama.cpp's name: how the tokenizer splits, and whether it takes whole words that are tokens.
WAYS: dict[str, tuple[Any, bool]] = {
    "gpt-2": (GPT_2, False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT_2]), False),
    "llama-bpe": (LLAMA3, True),
    "dbrx": (LLAMA3, False),
    "qwen2": (QWEN2, False),
    "qwen35": (QWEN35, False),
    "tekken": (TEKKEN, True),
    "gpt-4o": (GPT_4O, False),
}
ASCII_ONLY = ("tekken", "gpt-4o")  # in which llama.cpp knows capitals


@pytest.mark.parametrize("save", [save_pieces, save_tokenizer], ids=["pieces", "byte level"])
def test_an_added_token_without_a_row_is_left_out(save: Any, tmp_path: Path) -> None:
    tokenizer: Tokenizer = save(tmp_path)
    rows = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken("<image_soft_token>", normalized=False, special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write_vocabulary(tmp_path, tmp_path / "vocabulary.gguf", rows)
    with vocabulary(tmp_path / "vocabulary.gguf") as vocab:
        assert llama_library().llama_vocab_n_tokens(vocab) == rows
        text = "Tom has 12 apples."
        assert llama_cpp_ids(vocab, text) == tokenizer.encode(text, add_special_tokens=False).ids
        assert max(llama_cpp_ids(vocab, "<image_soft_token>")) < rows


@contextmanager
def vocabulary(path: Path) -> Iterator[Any]:
    """llama.cpp's vocabulary of a GGUF file, which need not hold tensors."""
    with without_weights(path) as model:
        yield llama_library().llama_model_get_vocab(model)


def llama_cpp_ids(vocab: Any, text: str) -> list[int]:
    data = text.encode("utf-8")
    ids = (ctypes.c_int32 * (len(data) + 8))()
    count = llama_library().llama_tokenize(vocab, data, len(data), ids, len(ids), False, True)
    assert count >= 0
    return list(ids[:count])


def write_vocabulary(model_dir: Path, out: Path, vocab_size: int) -> None:
    writer = gguf.GGUFWriter(out, "llama")
    write_tokenizer_metadata(writer, model_dir, {"vocab_size": vocab_size})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_level(way: str) -> Tokenizer:
    """A small trained tokenizer that splits in one of `WAYS`."""
    splitting, whole_words = WAYS[way]
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
    tokenizer.pre_tokenizer = as_pre_tokenizer(splitting)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "It's 1234 o'clock, WE'RE late... He'll\n\n  pay 56/7\r\n\tMcDonald for naïve cafés. // 1998 12.5\n"
    tokenizer.train_from_iterator([text, text.upper(), text.lower(), text.title()], trainer)
    return tokenizer


def as_pre_tokenizer(splitting: Any) -> Any:
    if not isinstance(splitting, str):
        return splitting
    split = pre_tokenizers.Split(Regex(splitting), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])


@pytest.fixture(scope="module", params=[*WAYS, "pieces", "pieces without tokenizer.model", "pieces without prefix"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A small tokenizer's kind, its vocabulary in llama.cpp, and itself."""
    directory = tmp_path_factory.mktemp("small")
    if request.param in WAYS:
        tokenizer = byte_level(request.param)
        tokenizer.save(str(directory / "tokenizer.json"))
        assert pre_tokenizer_name(json.loads(tokenizer.to_str()), directory) == request.param
    else:
        tokenizer = save_pieces(directory, prefix=request.param != "pieces without prefix")
        if request.param == "pieces without tokenizer.model":
            (directory / "tokenizer.model").unlink()
    write_vocabulary(directory, directory / "vocab.gguf", 512)
    with vocabulary(directory / "vocab.gguf") as vocab:
        yield request.param, vocab, tokenizer


PARTS = st.sampled_from([" ", "7", "\n", "<|im_end|>", "<|user|>", "'s", "'RE", "Tom", "McD", "apples", "猫"])
# What Unicode had long ago: in which of its classes newer characters are depends on each library's version of it.
CHARACTERS = st.characters(exclude_categories=["Cn", "Cs"]).filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn")


@settings(max_examples=200, deadline=None)
@given(text=st.lists(PARTS | st.text(CHARACTERS, max_size=6), max_size=12).map("".join))
def test_llama_cpp_gives_the_ids_of_tokenizers(small: Any, text: str) -> None:
    kind, vocab, tokenizer = small
    text = text.replace("\0", "")  # a C string ends there
    if kind in ASCII_ONLY:
        text = text.encode("ascii", "ignore").decode()
    if kind.startswith("pieces"):
        text = text.replace("▁", "")  # that is a space in one of the two
    assert llama_cpp_ids(vocab, text) == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "llama-spm", "phi-3"])
def test_real_vocabularies_give_llama_cpps_own_ids(tmp_path: Path, name: str) -> None:
    source = shared(f"data/tokenizers/ggml-vocab-{name}.gguf")
    rebuilt = rebuilt_pieces(source) if name in ("llama-spm", "phi-3") else rebuilt_byte_level(source, name)
    rebuilt.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    write_vocabulary(tmp_path, tmp_path / "vocab.gguf", rebuilt.get_vocab_size())
    texts = source.with_suffix(".gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = [list(map(int, line.split())) for line in source.with_suffix(".gguf.out").read_text().splitlines()]
    with vocabulary(tmp_path / "vocab.gguf") as vocab:
        assert [llama_cpp_ids(vocab, text) for text in texts[: len(expected)]] == expected
    tokenizer = edgereason.text.tokenizer.Tokenizer(tmp_path)
    assert [tokenizer.encode(text) for text in texts[: len(expected)]] == expected


def array(data: bytes, key: str) -> list[Any]:
    """An array of texts or numbers in a GGUF file's header; the gguf package takes 20 seconds for a large one."""
    at = data.index(key.encode()) + len(key)
    _, kind, count = struct.unpack_from("<IIQ", data, at)
    at += 16
    if kind != gguf.GGUFValueType.STRING:
        code = {gguf.GGUFValueType.INT32: "i", gguf.GGUFValueType.FLOAT32: "f"}[kind]
        return list(struct.unpack_from(f"<{count}{code}", data, at))
    texts = []
    for _ in range(count):
        end = at + 8 + struct.unpack_from("<Q", data, at)[0]
        texts.append(data[at + 8 : end].decode("utf-8"))
        at = end
    return texts


def rebuilt_byte_level(source: Path, way: str) -> Tokenizer:
    """The tokenizer of a byte-level vocabulary that is there as GGUF only."""
    data = source.read_bytes()
    tokens = array(data, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in array(data, "tokenizer.ggml.merges")]
    splitting, whole_words = WAYS[way]
    model = models.BPE({token: id_ for id_, token in enumerate(tokens)}, merges, ignore_merges=whole_words)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = as_pre_tokenizer(splitting)
    tokenizer.decoder = decoders.ByteLevel()
    return with_special(tokenizer, data, tokens)


def rebuilt_pieces(source: Path) -> Tokenizer:
    """The tokenizer of a SentencePiece vocabulary that is there as GGUF only."""
    data = source.read_bytes()
    tokens, types = array(data, "tokenizer.ggml.tokens"), array(data, "tokenizer.ggml.token_type")
    scores = zip(tokens, types, array(data, "tokenizer.ggml.scores"), strict=True)
    merges = merges_of({token: score for token, kind, score in scores if kind == gguf.TokenType.NORMAL})
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer(prefix=True)
    return with_special(tokenizer, data, tokens)


def with_special(tokenizer: Tokenizer, data: bytes, tokens: list[str]) -> Tokenizer:
    types = array(data, "tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


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


def refused(directory: Path, tokenizer: Tokenizer) -> str:
    tokenizer.save(str(directory / "tokenizer.json"))
    with pytest.raises(ExportError) as caught:
        write_vocabulary(directory, directory / "vocab.gguf", 512)
    return str(caught.value)


def test_tokenizers_of_other_kinds_are_refused(tmp_path: Path) -> None:
    assert "Unigram" in refused(tmp_path, Tokenizer(models.Unigram([("a", 0.0)], 0, False)))
    composing = byte_level("gpt-2")
    composing.normalizer = normalizers.NFKC()
    assert "no name for" in refused(tmp_path, composing)
    lower = save_pieces(tmp_path)
    lower.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizer(prefix=True)])
    assert "normalizes text" in refused(tmp_path, lower)


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    tokenizer = save_pieces(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\xff\xff")
    assert "tokenizer.model cannot be read" in refused(tmp_path, tokenizer)


def test_a_name_says_phi3_only_where_the_tokenizer_strips_spaces_as_that_does(tmp_path: Path) -> None:
    for strips in (False, True):
        tokenizer = save_tokenizer(tmp_path)
        tokenizer.add_special_tokens([AddedToken("<|user|>", rstrip=strips, special=True)])
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        for wanted in ("phi3", "Phi-3-mini", "llama"):
            assert ("phi" in (name := model_name(wanted, tmp_path)).lower()) == (strips or wanted != "llama")
            assert ("phi3" in name.lower() or "phi-3" in name.lower()) == strips
