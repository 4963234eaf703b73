"""The tokenizer inside a GGUF file as `tokenizer.json` and `tokenizer_config.json`.

Byte-level BPE has its merges in the file, and the name of the rules by which llama.cpp splits text; vocabularies of
SentencePiece have scores, of which merges are made: the neighbours whose union has the highest score merge first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edgereason.errors import ExportError
from edgereason.export.inputs.gguf.gguf_metadata import COPY_AGAIN, GgufMetadata
from edgereason.export.inputs.gguf.pre_tokenizer import splitting
from edgereason.files import write_json

_SPACE = "▁"  # as SentencePiece writes it
_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def write_tokenizer(file: GgufMetadata, directory: Path) -> None:
    """Write the tokenizer's files.

    Raises:
        ExportError: it is of a kind or splits text in a way that is not supported, or its lists do not fit.
    """
    tokens = [str(token) for token in file.needed("tokenizer.ggml.tokens")]
    kinds = [int(kind) for kind in file.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))]
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ExportError(f"{file.path} has tokens without a type, or one token twice.", COPY_AGAIN)
    model = file.needed("tokenizer.ggml.model")
    if model == "gpt2":
        tokenizer = _byte_level(file, tokens)
    elif model == "llama":
        tokenizer = _pieces(file, tokens, kinds)
    else:
        raise ExportError(
            f"{file.path} has a tokenizer of the kind {model!r}, which is not supported.",
            "Give the Hugging Face model that it was made from.",
        )
    tokenizer.add_tokens(_added(file, tokens, kinds))
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", _config(file, tokens))


def _byte_level(file: GgufMetadata, tokens: list[str]) -> Tokenizer:
    name = str(file.get("tokenizer.ggml.pre", "default"))
    steps = splitting(name)
    if steps is None:
        raise ExportError(
            f"{file.path} splits text in the way {name!r} (tokenizer.ggml.pre), which is not supported.",
            "Give the Hugging Face model that it was made from.",
        )
    expressions, whole_words = steps
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    merges = [merge_halves(str(merge)) for merge in file.needed("tokenizer.ggml.merges")]
    for left, right in merges:
        if not {left, right, left + right} <= vocabulary.keys():
            raise ExportError(f"{file.path} merges {left!r} and {right!r}, which are no tokens.", COPY_AGAIN)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_words))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_step(expression) for expression in expressions])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def merge_halves(merge: str) -> tuple[str, str]:
    """The two tokens of a merge that is written as one string, as GGUF and older `tokenizer.json` files have it."""
    left, _, right = merge.partition(" ")
    return left, right


def _step(expression: str) -> Any:
    """One step of splitting, by its name in `edgereason.export.inputs.gguf.pre_tokenizer`."""
    plain: dict[str, Any] = {
        "digits": pre_tokenizers.Digits(individual_digits=True),
        "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        "bytes, split as GPT-2 does": pre_tokenizers.ByteLevel(add_prefix_space=False),
    }
    return plain[expression] if expression in plain else pre_tokenizers.Split(Regex(expression), "isolated")


def _pieces(file: GgufMetadata, tokens: list[str], kinds: list[int]) -> Tokenizer:
    scores = file.needed("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise ExportError(f"{file.path} has {len(tokens)} tokens and {len(scores)} scores.", COPY_AGAIN)
    normal = {token: float(scores[id_]) for id_, token in enumerate(tokens) if kinds[id_] == TokenType.NORMAL}
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.UNKNOWN), None)
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=_merges(normal), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    replace = normalizers.Replace(" ", _SPACE)
    prefix = bool(file.get("tokenizer.ggml.add_space_prefix", True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), replace]) if prefix else replace
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The merges that build tokens as SentencePiece does, the highest score first."""
    found = [
        (-score, token[:cut], token[cut:])
        for token, score in scores.items()
        for cut in range(1, len(token))
        if token[:cut] in scores and token[cut:] in scores
    ]
    return [(left, right) for _, left, right in sorted(found, key=lambda merge: merge[0])]


def _added(file: GgufMetadata, tokens: list[str], kinds: list[int]) -> list[AddedToken]:
    """Tokens that are found in the text before it is split: control tokens, and those that a user defined."""
    phi3 = file.architecture == "phi3" and file.get("tokenizer.ggml.model") == "llama"
    added = []
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
            # As Phi-3's tokenizer.json has it: the space behind its control tokens belongs to them.
            strips = phi3 and token not in ("<unk>", "<s>", "</s>", "<|endoftext|>")
            added.append(AddedToken(token, normalized=False, special=True, rstrip=strips))
        elif kind == TokenType.USER_DEFINED:
            added.append(AddedToken(token, normalized=False))
    return added


def _config(file: GgufMetadata, tokens: list[str]) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for key, name in _SPECIAL.items():
        id_ = file.get(f"tokenizer.ggml.{key}_token_id")
        if id_ is not None and 0 <= int(id_) < len(tokens):
            config[name] = tokens[int(id_)]
    if (template := file.get("tokenizer.chat_template")) is not None:
        config["chat_template"] = str(template)
    return config | {"model_max_length": int(file.own_needed("context_length"))}


def end_tokens(file: GgufMetadata) -> list[int]:
    """The tokens that end a text or a turn."""
    ids = (file.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    size = len(file.needed("tokenizer.ggml.tokens"))
    return list(dict.fromkeys(int(id_) for id_ in ids if id_ is not None and int(id_) < size))
