"""A model's tokenizer in GGUF: byte-level BPE or SentencePiece, with its special tokens and its chat template."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer as FastTokenizer

from edgereason.errors import ExportError
from edgereason.export.gguf import vocabulary
from edgereason.export.inputs.gguf.gguf_vocabulary import merge_halves
from edgereason.export.inputs.gguf.pre_tokenizer import CURE, pre_tokenizer_name
from edgereason.export.inputs.tokenizer_files import copy_tokenizer, opened_tokenizer
from edgereason.files import write_json

_PREPEND = {"type": "Prepend", "prepend": "▁"}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def write_tokenizer_metadata(writer: gguf.GGUFWriter, directory: Path, config: dict[str, Any]) -> None:
    """Add the tokenizer and chat template of a Hugging Face directory.

    Args:
        writer: The open writer.
        directory: Holds tokenizer.json and, where there are such, tokenizer.model and tokenizer_config.json.
        config: The model's config.json: `vocab_size`, the rows of its embedding (ids without a token get a
            placeholder), and ids of special tokens that the tokenizer's files do not name.

    Raises:
        ExportError: it is of another kind, llama.cpp has no name for its pre-tokenizer, or it has ids beyond the
            embeddings.
    """
    path, size = directory / "tokenizer.json", config["vocab_size"]
    description, tokenizer = _read(path)
    model = description["model"]
    if model["type"] != "BPE":
        raise ExportError(f"{path} is of the kind {model['type']}, which GGUF export does not support.", CURE)
    pieces = bool(model.get("byte_fallback"))
    if pieces:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        merges = [tuple(merge) if isinstance(merge, list) else merge_halves(merge) for merge in model["merges"]]
        vocabulary.write_vocabulary(writer, vocabulary.sentence_pieces(tokenizer, merges, size, path), with_scores=True)
        _write_space_prefix(writer, description, path)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer_name(description, path))
        vocabulary.write_vocabulary(writer, vocabulary.byte_level(tokenizer, size, path), with_scores=False)
    ends = config.get("eos_token_id")
    end = ends[0] if isinstance(ends, list) and ends else ends
    with tempfile.TemporaryDirectory() as together:
        # The gguf package looks for special tokens in the tokenizer's files, and then in config.json.
        copy_tokenizer(directory, Path(together))
        write_json(Path(together) / "config.json", {**config, "eos_token_id": end})
        special = gguf.SpecialVocab(together, load_merges=not pieces, n_vocab=size)
    special.add_to_gguf(writer, quiet=True)
    turn_end = opened_tokenizer(directory).turn_end_id
    if turn_end is not None and turn_end != special.special_token_ids.get("eos"):
        writer.add_eot_token_id(turn_end)


def _read(path: Path) -> tuple[dict[str, Any], FastTokenizer]:
    try:
        return json.loads(path.read_text(encoding="utf-8")), FastTokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise ExportError(f"{path} cannot be read: {error}", "Copy it again from the model's source.") from error


def _write_space_prefix(writer: gguf.GGUFWriter, description: dict[str, Any], path: Path) -> None:
    """Write whether a space is put before the text; llama.cpp's default is that it is."""
    normalizer, pre = description["normalizer"] or {}, description["pre_tokenizer"] or {}
    steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer] if normalizer else []
    metaspace = pre.get("type") == "Metaspace"
    if any(step not in (_PREPEND, _REPLACE) for step in steps) or not (metaspace or _REPLACE in steps):
        raise ExportError(f"{path} normalizes text in a way that llama.cpp does not support.", CURE)
    prefix = _PREPEND in steps or (metaspace and pre.get("prepend_scheme", "always") != "never")
    config = path.with_name("tokenizer_config.json")
    said = config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("add_prefix_space") is not None
    if said or not prefix:
        writer.add_add_space_prefix(prefix)


def model_name(wanted: str, directory: Path) -> str:
    """A name for the model that does not change how llama.cpp tokenizes text.

    Where it has "phi-3" or "phi3" in it, llama.cpp drops spaces after special tokens, as Phi-3's tokenizer does; with
    the vocabulary of other models it then fails to load.
    """
    added = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens", [])
    strips = any(token.get("rstrip") for token in added)
    says_so = re.search("phi-?3", wanted, re.IGNORECASE)
    if strips and not says_so:
        return f"{wanted} (phi3 tokens)"
    return wanted if strips else re.sub("phi-?3", "phi", wanted, flags=re.IGNORECASE)
