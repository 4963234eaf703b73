"""Whether an adapter belongs to a base, checked before any work begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open

from edgereason.errors import ExportError
from edgereason.export.inputs.adapter import Adapter
from edgereason.export.inputs.base_model import Base
from edgereason.export.inputs.tokenizer_files import find_tokenizer
from edgereason.files import read_json
from edgereason.text.prompts import prompt_text
from edgereason.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgereason.export.inputs.skeleton import Skeleton

_EMBEDDING, _HEAD = "model.embed_tokens", "lm_head"
# Where PEFT puts a whole table of embeddings: with save_embedding_layers, and with each way of training some of it.
_TABLES = ("weight", "base_layer.weight", "original_module.weight", "token_adapter.base_layer.weight")
_FACTOR = re.compile(r"(?P<target>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(?:\.weight)?")
# What people append to a model's name when they quantize it: an adapter trained on that is merged into the original.
_QUANTIZED_NAME = re.compile(r"(-unsloth)?(-bnb)?-(4bit|8bit|int4|int8|awq|gptq.*|nf4)$", re.IGNORECASE)
# Initializations that move a part of the base's weights into the factors.
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_UNSUPPORTED = ("target_parameters", "layer_replication", "use_qalora", "arrow_config")


def check_pairing(base: Base, adapter: Adapter, layout: str = "merged") -> None:
    """Make sure that an adapter suits a layout and fits a base: kind, names, shapes, values, tokenizer, and record.

    Raises:
        ExportError: it does not; the message says what differs and what to pass instead.
    """
    _check_layout(adapter, layout)
    for part in adapter.every:
        _check_head(base, part)
        _check_kind(part, layout)
        _check_shapes(base, part)
        _check_recorded_base(base, part)
        _check_tokenizers(base, part)
        _check_effect(part)


def vocabulary_size(base: Base, adapter: Adapter | None) -> int:
    """The rows of the embeddings: the adapter's, where training has resized them, else the base's."""
    rows = int(base.config["vocab_size"])
    if adapter is None:
        return rows
    for module in (_EMBEDDING, _HEAD):
        for table in _TABLES:
            if f"{module}.{table}" in adapter.shapes:
                return adapter.shapes[f"{module}.{table}"][0]
    return max(rows, *(row + 1 for row in _trained_rows(adapter)), 0)


def _trained_rows(adapter: Adapter) -> set[int]:
    """The tokens whose embeddings were trained one by one; those that were added may be in no base."""
    indices = adapter.config.get("trainable_token_indices") or []
    return {int(row) for rows in (indices.values() if isinstance(indices, dict) else [indices]) for row in rows}


def check_architecture(base: Base, skeleton: Skeleton) -> None:
    """Make sure that the checkpoint or an adapter has every weight of the configuration.

    Raises:
        ExportError: a weight is missing, or of another shape.
    """
    for name, shape in skeleton.shapes.items():
        source = skeleton.tied.get(name, name)
        if skeleton.brings(name) or not skeleton.of_base(source):
            continue
        found = base.shapes.get(source)
        if found is None:
            raise ExportError(f"{base.path} lacks {name}.", "Give a complete model, saved by save_pretrained().")
        added = found[1:] == shape[1:] and set(range(found[0], shape[0])) <= skeleton.brought_rows(name)
        if found != shape and not (added and found[0] < shape[0]):
            raise ExportError(
                f"{base.path}: {name} is {list(found)}, by its configuration and adapter it has to be {list(shape)}.",
                "Where training has resized the vocabulary, modules_to_save has to name embeddings and LM head, or the "
                "adapter has to be saved with save_embedding_layers=True.",
            )


def _check_head(base: Base, adapter: Adapter) -> None:
    if base.tied_in_name_only and vocabulary_size(base, adapter) != vocabulary_size(base, None):
        raise ExportError(
            f"{adapter.path} has another vocabulary than {base.path}, whose config.json ties an LM head of other "
            "numbers to the embeddings: resizing the vocabulary has tied them in training.",
            "Remove lm_head.weight from the base, or set tie_word_embeddings to false where they were not tied.",
        )


def _check_layout(adapter: Adapter, layout: str) -> None:
    if layout == "shared" and (adapter.blend or adapter.extrapolation):
        raise ExportError(
            f"{adapter.path} is to be combined or extrapolated, which the shared layout does not do.",
            "Export with --layout merged.",
        )
    if not adapter.blend:
        return
    for part in adapter.parts:
        for name in part.shapes:
            if not _FACTOR.fullmatch(name):
                raise ExportError(
                    f"{part.path} cannot be combined with others: it has {name}, which is no LoRA factor.",
                    "Only plain LoRA adapters can be combined: give this one alone.",
                )


def _check_kind(adapter: Adapter, layout: str) -> None:
    config, file = adapter.config, adapter.path / "adapter_config.json"
    if config.get("alora_invocation_tokens") and layout == "merged":
        raise ExportError(
            f"{file} is of an activated LoRA (alora_invocation_tokens): it changes only the tokens from its invocation "
            "on, which a merged model cannot do.",
            "Export with --layout shared.",
        )
    for field in _UNSUPPORTED:
        if config.get(field):
            raise ExportError(f"{file}: {field} cannot be merged.", "Merge it with PEFT, and export the result.")
    begun = str(config.get("init_lora_weights")).lower()
    if begun.startswith(_CHANGES_THE_BASE):
        raise ExportError(
            f"{file}: with init_lora_weights = {begun!r} training has changed the base as well.",
            "Save the adapter with path_initial_model_for_weight_conversion, which makes it a LoRA of the base.",
        )
    if config.get("lora_alpha") == 0:
        raise ExportError(f"{file}: lora_alpha is 0, the adapter changes nothing.", "Give one that was trained.")


def _check_shapes(base: Base, adapter: Adapter) -> None:
    cure = f'{adapter.path.name}/adapter_config.json names "{_recorded(adapter)}" as its base: pass that one.'
    rows = vocabulary_size(base, adapter)
    for name, shape in adapter.shapes.items():
        match = _FACTOR.fullmatch(name)
        if not match:
            continue
        target, part = match["target"], match["part"]
        expected = base.shapes.get(f"{target}.weight")
        if expected is None and not (target == _HEAD and base.tied):
            raise ExportError(f"{adapter.path} changes {target}, which {base.name} does not have.", cure)
        outputs, inputs = expected or base.shapes[f"{_EMBEDDING}.weight"]
        if target in (_EMBEDDING, _HEAD):
            outputs = rows
        # A is [rank, inputs] and B [outputs, rank], for a weight of [outputs, inputs]; an embedding's are those of
        # its transpose.
        wanted = inputs if (part == "A") != bool(match["embedding"]) else outputs
        found = shape[1] if part == "A" else shape[0]
        if wanted == outputs == rows < found and target in (_EMBEDDING, _HEAD):
            raise ExportError(
                f"{adapter.path} was trained with {found} tokens, {base.name} has {rows}, and neither of them has the "
                "embeddings of the others.",
                "Save the adapter again with save_embedding_layers=True.",
            )
        if len(shape) != 2 or found != wanted:
            raise ExportError(
                f"{adapter.path} was trained on another base: its {target} is {found} wide, "
                f"that of {base.name} {wanted}.",
                cure,
            )


def _check_recorded_base(base: Base, adapter: Adapter) -> None:
    recorded, cure = _recorded(adapter), "Pass that one as --base, or correct the name if it is the same model."
    if not recorded:
        return
    known = base.name if _is_hub_id(base.name) else str(base.config.get("_name_or_path") or "")
    if _is_hub_id(recorded) and _is_hub_id(known) and _plain(recorded) != _plain(known):
        raise ExportError(
            f'{adapter.path / "adapter_config.json"} names "{recorded}" as its base, this one is "{known}".', cure
        )
    if Path(recorded).is_dir() and _differ(base, Path(recorded)):
        raise ExportError(
            f'{adapter.path / "adapter_config.json"} names "{recorded}" as its base, whose weights differ from those '
            f"of {base.path}.",
            cure,
        )


def _differ(base: Base, other: Path) -> bool:
    """Whether another directory's model has other weights than the base, by the vectors that both have."""
    for file in sorted(other.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (not a dictionary)
                shape = base.shapes.get(name)
                if shape and len(shape) == 1 and shape == tuple(tensors.get_slice(name).get_shape()):
                    theirs, ours = tensors.get_tensor(name).float().numpy(), base.read(name)
                    # One of the two may be a copy in fewer bits.
                    if np.abs(theirs - ours).max() > 0.01 * np.abs(ours).max():
                        return True
    return False


def _is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists() and not name.startswith(".")


def _plain(name: str) -> str:
    """A model's name without its owner and without what says that it is quantized."""
    return _QUANTIZED_NAME.sub("", name.rpartition("/")[2]).lower()


def _recorded(adapter: Adapter) -> str:
    return adapter.files.base


def _check_tokenizers(base: Base, adapter: Adapter) -> None:
    rows = vocabulary_size(base, adapter)
    theirs = _tokens(adapter.path)
    ours = _tokens(base.path)
    # Some bases have more tokens than rows themselves: such as those for images, in their text models.
    if any(id_ >= rows and ours.get(token) != id_ for token, id_ in theirs.items()):
        raise ExportError(
            f"{adapter.path / 'tokenizer.json'} has {max(theirs.values()) + 1} tokens, the model has {rows}.",
            "Save the adapter again with save_embedding_layers=True, or remove the tokens that were not trained.",
        )
    if theirs or ours:
        _check_used_tokens(base, adapter, rows)
    if not theirs or not ours:
        return
    for token, index in ours.items():
        if theirs.get(token) != index:
            raise ExportError(
                f"The tokenizer of {adapter.path} differs from that of {base.path}: {token!r} is "
                f"{theirs.get(token, 'missing')} in the one and {index} in the other.",
                f'Pass the base that the adapter was trained with ("{_recorded(adapter)}").',
            )
    if _merges(adapter.path) != _merges(base.path):
        raise ExportError(
            f"The tokenizer of {adapter.path} has other merges than that of {base.path}.",
            "Copy the base's tokenizer into the adapter's directory, or pass the base that it was trained with.",
        )


def _check_used_tokens(base: Base, adapter: Adapter, rows: int) -> None:
    """No text may need a token that the model has no row for: neither prompts nor stops, nor any plain text."""
    directory = find_tokenizer(adapter.path, base.path)
    file = directory / "tokenizer.json"
    added = {token["content"] for token in read_json(file).get("added_tokens") or []}
    beyond = {token: id_ for token, id_ in _tokens(directory).items() if id_ >= rows}
    if not beyond:
        return
    tokenizer = Tokenizer(directory)
    used = set(tokenizer.stop_ids()) | {id_ for token, id_ in beyond.items() if token not in added}
    for guidance in ("Steps: add.", None):
        used |= set(tokenizer.encode(prompt_text(tokenizer, adapter.prompt, "How many?", guidance)))
    if max(used) >= rows:
        raise ExportError(
            f"{file} has the token {tokenizer.token(max(used))!r}, number {max(used)}, which texts use, and the model "
            f"has only {rows} rows of embeddings.",
            "Give the tokenizer that the model was trained with, or the model with the rows of all tokens.",
        )


def _tokens(directory: Path) -> dict[str, int]:
    """The id of every token, added ones included; empty where there is no tokenizer."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        return {}
    tokenizer = read_json(file)
    vocab = _model(tokenizer).get("vocab") or {}
    if isinstance(vocab, list):  # Unigram: pairs of token and score
        vocab = {pair[0]: index for index, pair in enumerate(vocab)}
    return {**vocab, **{each["content"]: each["id"] for each in tokenizer.get("added_tokens") or []}}


def _merges(directory: Path) -> list[str]:
    """The merges in their order; older files have each in one string, newer ones as a pair."""
    merges = _model(read_json(directory / "tokenizer.json")).get("merges") or []
    return [each if isinstance(each, str) else " ".join(each) for each in merges]


def _model(tokenizer: dict[str, Any]) -> dict[str, Any]:
    return tokenizer.get("model") or {}


def _check_effect(adapter: Adapter) -> None:
    """Some product of factors has to be other than zero."""
    zero: dict[str, bool] = {}
    changes = False
    for name, array in adapter.read():
        if match := _FACTOR.fullmatch(name):
            zero[match["target"]] = zero.get(match["target"], False) or not array.any()
        elif not name.endswith(("lora_magnitude_vector", ".base_layer.weight")):
            changes = True
    if not changes and all(zero.values()):
        raise ExportError(
            f"{adapter.weights} changes nothing: in every layer a factor is zero (lora_B, as before training).",
            "Give the directory that was saved after training; with DeepSpeed, gather the weights before saving.",
        )
