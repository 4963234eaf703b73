"""A byte-level BPE tokenizer in GGUF: tokens, their types, merges, special ids, and how text is split before merging.

llama.cpp does not read the splitting rules of a `tokenizer.json`; it knows rules by name. A name is written only where
its rules are the tokenizer's own, so that llama.cpp and `tokenizers` give the same ids.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer

from edgereason.errors import ExportError

_DIGITS = "digits"
_BYTES_SPLIT = "bytes, split as GPT-2 does"
_BYTES = "bytes"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS_AND_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# What a tokenizer.json does, one step after the other -> llama.cpp's name for it.
_NAMES = {
    (_BYTES_SPLIT,): "gpt-2",
    (_DIGITS, _BYTES_SPLIT): "smollm",
    (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_WORDS_AND_REST}", _BYTES): "llama-bpe",
    (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_WORDS_AND_REST}", _BYTES): "qwen2",
}

_CURE = "Export with --format native or --format onnx, which read tokenizer.json as it is."


def write_tokenizer(writer: gguf.GGUFWriter, model_dir: Path, vocab_size: int) -> None:
    """Add the tokenizer and chat template of a Hugging Face directory.

    Args:
        writer: The open writer.
        model_dir: Holds tokenizer.json and, where there is one, tokenizer_config.json.
        vocab_size: Rows of the embedding; ids without a token get a placeholder.

    Raises:
        ExportError: it is not byte-level BPE, its way of splitting has no name in llama.cpp, or it has ids beyond
            the embedding.
    """
    path = model_dir / "tokenizer.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise ExportError(f"{path} cannot be read: {error}", "Copy it again from the model's source.") from error
    if description["model"]["type"] != "BPE" or description["model"].get("byte_fallback"):
        raise ExportError(f"{path} is not a byte-level BPE tokenizer, the only kind written to GGUF so far.", _CURE)
    tokens, types = _tokens(tokenizer, vocab_size, path)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(description, path))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    gguf.SpecialVocab(model_dir, load_merges=True, n_vocab=vocab_size).add_to_gguf(writer, quiet=True)


def pre_tokenizer_name(description: dict[str, Any], where: Path) -> str:
    """llama.cpp's name of the way a tokenizer.json splits text.

    Args:
        description: The parsed tokenizer.json.
        where: Its path, for the error.

    Raises:
        ExportError: no name stands for it.
    """
    pre = description["pre_tokenizer"] or {}
    steps = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    name = _NAMES.get(tuple(_step(step) for step in steps))
    if name is None:
        raise ExportError(f"{where} splits text in a way that llama.cpp has no name for.", _CURE)
    return name


def _step(step: dict[str, Any]) -> str:
    match step:
        case {"type": "Digits", "individual_digits": True}:
            return _DIGITS
        case {"type": "ByteLevel", "add_prefix_space": False, **rest}:
            return _BYTES_SPLIT if rest.get("use_regex", True) else _BYTES
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}:
            return str(regex)
    return json.dumps(step)


def _tokens(tokenizer: Tokenizer, vocab_size: int, path: Path) -> tuple[list[str], list[int]]:
    """Every id's token and type, `vocab_size` of each."""
    names = {id_: token for token, id_ in tokenizer.get_vocab(with_added_tokens=True).items()}
    if max(names) >= vocab_size:
        raise ExportError(
            f"{path} has the token id {max(names)}, but the model's embedding has {vocab_size} rows.",
            "Resize the model's embedding, or use the tokenizer that it was trained with.",
        )
    added = tokenizer.get_added_tokens_decoder()
    tokens, types = [], []
    for id_ in range(vocab_size):
        token, kind = names.get(id_, f"[PAD{id_}]"), gguf.TokenType.NORMAL
        if id_ not in names:
            kind = gguf.TokenType.UNUSED
        elif id_ in added:
            control = added[id_].special or (token.startswith("<|") and token.endswith("|>"))
            kind = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
        tokens.append(token)
        types.append(kind)
    return tokens, types


def model_name(wanted: str, model_dir: Path) -> str:
    """A name for the model that does not change how llama.cpp reads text.

    Where it has "phi-3" or "phi3" in it, llama.cpp drops spaces after special tokens, as Phi-3's tokenizer does; with
    the vocabulary of other models it then fails to load.
    """
    added = json.loads((model_dir / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens", [])
    strips = any(token.get("rstrip") for token in added)
    says_so = re.search("phi-?3", wanted, re.IGNORECASE)
    if strips and not says_so:
        return f"{wanted} (phi3 tokens)"
    return wanted if strips else re.sub("phi-?3", "phi", wanted, flags=re.IGNORECASE)
