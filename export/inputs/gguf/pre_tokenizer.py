"""llama.cpp's name for the way in which a byte-level tokenizer splits text before it merges.

llama.cpp does not read the rules of a `tokenizer.json`; it has rules by name. A name is written only where its rules
are the tokenizer's own, so that llama.cpp and `tokenizers` give the same ids. (llama.cpp's converter finds it by
the sum over the ids of one text, and so knows only vocabularies that somebody has added.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgereason.errors import ExportError

CURE = "Export with --format native or --format onnx, which read tokenizer.json as it is."

_DIGITS = "digits"
_BYTES_SPLIT = "bytes, split as GPT-2 does"
_BYTES = "bytes"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_MARKED_WORDS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_MARKED_SIGNS = r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SIGNS_AND_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"


def _cased(ending: str) -> str:
    """Words that begin with capitals, and words that are capitals."""
    start = r"[^\r\n\p{L}\p{N}]?"
    return f"{start}{_UPPER}*{_LOWER}+{ending}|{start}{_UPPER}+{_LOWER}*{ending}"


# What a tokenizer.json does, one step after the other, and whether whole words that are tokens are taken unmerged.
_NAMES = {
    ((_BYTES_SPLIT,), False): "gpt-2",
    ((_DIGITS, _BYTES_SPLIT), False): "smollm",
    ((rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_REST}", _BYTES), True): "llama-bpe",
    ((rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_REST}", _BYTES), False): "dbrx",
    ((rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_SIGNS}|{_REST}", _BYTES), False): "qwen2",
    ((rf"{_CONTRACTIONS}|{_MARKED_WORDS}|\p{{N}}|{_MARKED_SIGNS}|{_REST}", _BYTES), False): "qwen35",
    # llama.cpp knows capitals of ASCII only: beyond it, these two split some words elsewhere than the tokenizer does.
    ((rf"{_cased('')}|\p{{N}}|{_SIGNS_AND_SLASH}|{_REST}", _BYTES), True): "tekken",
    ((rf"{_cased(_CONTRACTIONS + '?')}|\p{{N}}{{1,3}}|{_SIGNS_AND_SLASH}|{_REST}", _BYTES), False): "gpt-4o",
}


def pre_tokenizer_name(description: dict[str, Any], where: Path) -> str:
    """llama.cpp's name for the pre-tokenizer of a byte-level tokenizer.

    Args:
        description: The parsed tokenizer.json.
        where: Its path, for the error.

    Raises:
        ExportError: llama.cpp has no name for it.
    """
    pre = description["pre_tokenizer"] or {}
    steps = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    whole_words = bool(description["model"].get("ignore_merges"))
    name = _NAMES.get((tuple(_step(step) for step in steps), whole_words))
    # llama.cpp composes no characters, as NFC does: what people type is composed already.
    if name is None or (description["normalizer"] or {"type": "NFC"}) != {"type": "NFC"}:
        raise ExportError(f"{where} splits text in a way that llama.cpp has no name for.", CURE)
    return name


_ALIASES = {
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), "llama-bpe"),
    **dict.fromkeys(("starcoder", "refact", "codeshell"), "smollm"),
    **dict.fromkeys(("phi-2", "gigachat", "mellum", "mpt", "olmo"), "gpt-2"),
    **dict.fromkeys(("deepseek-r1-qwen", "stablelm2"), "qwen2"),
    **dict.fromkeys(("llama4", "kanana2"), "gpt-4o"),
}
"""Other names that llama.cpp has for the same rules, as its loader (`llama-vocab.cpp`) maps them."""


def splitting(name: str) -> tuple[tuple[str, ...], bool] | None:
    """How text is split under a name of llama.cpp's: step after step, and whether whole words are taken unmerged.

    None where the name is not known.
    """
    rules = {name: rules for rules, name in _NAMES.items()}
    return rules.get(_ALIASES.get(name, name))


def _step(step: dict[str, Any]) -> str:
    match step:
        case {"type": "Digits", "individual_digits": True}:
            return _DIGITS
        case {"type": "ByteLevel", "add_prefix_space": False, **rest}:
            return _BYTES_SPLIT if rest.get("use_regex", True) else _BYTES
        # What the expressions above do not match is nothing: whether it is kept or removed is the same.
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}:
            return str(regex)
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Removed", "invert": True}:
            return str(regex)
    return json.dumps(step)
