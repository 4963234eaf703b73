"""Which tokenizer a stage has: of the adapter's directory, of the base's, or of files from both.

The tokenizer of training, proof and engine is the one that `tokenizer.json` describes. transformers' AutoTokenizer
builds another for some values of `tokenizer_class`
(https://github.com/huggingface/transformers/issues/45920); `differing_text` tells where.
"""

from __future__ import annotations

import datetime
import shutil
import tempfile
import warnings
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import transformers

from edgereason.errors import EdgeReasonWarning, ExportError
from edgereason.export.inputs.quiet_transformers import quiet_transformers
from edgereason.files import read_json, write_json
from edgereason.text.chat_template import template_source
from edgereason.text.prompts import Prompt, dated
from edgereason.text.tokenizer import TOKENIZER_FILES, Tokenizer, listed_ids

_OTHER_FORMS = ("tokenizer.model", "added_tokens.json", "vocab.json", "merges.txt", "spiece.model", "tekken.json")
"""Files of tokenizers without `tokenizer.json`."""

_CONFIG, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"


def find_tokenizer(*directories: Path) -> Path:
    """The directory of a stage's tokenizer.

    Args:
        directories: The adapter's, which goes first, since training may add tokens, and the base's; or the base's
            alone. Where the adapter brings some of the files, the directory is a temporary one with files of both.

    Raises:
        ExportError: none has a tokenizer.json, or the adapter's directory has a tokenizer of another form.
    """
    base = directories[-1]
    if len(directories) == 1 or _is_complete(directories[0]):
        return _with_tokenizer(directories[0])
    adapter = directories[0]
    if not (adapter / "tokenizer.json").is_file():
        for name in _OTHER_FORMS:
            if (adapter / name).is_file():
                raise ExportError(
                    f"{adapter} has {name}, and no tokenizer.json.",
                    "Save its tokenizer there with AutoTokenizer.from_pretrained(...).save_pretrained(...).",
                )
    stamps = _stamps(adapter)
    if not stamps:
        return _with_tokenizer(base)
    return Path(_composed(adapter, _with_tokenizer(base), (*stamps, *_stamps(base))).name)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy a tokenizer's files; `tokenizer.json` without what a training has left in it, such as truncation."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    tokenizer = opened_tokenizer(source)
    if not tokenizer.as_filed:
        tokenizer.save(out / "tokenizer.json")


def stop_tokens(named: int | list[int] | None, tokenizer: Path) -> int | list[int] | None:
    """A configuration's end tokens, and the token with which the chat template ends an assistant's turn.

    Base models name the end of a text alone, and an adapter that was trained on chat turns never writes it.
    """
    known = listed_ids(named)
    end = opened_tokenizer(tokenizer).turn_end_id
    return named if end is None or end in known else [*known, end]


def write_generation_config(base: Path, tokenizer: Path, directory: Path) -> None:
    """Write the base's generation defaults, with all tokens that end the stage's text."""
    source, target = base / "generation_config.json", directory / "generation_config.json"
    if not source.is_file():
        return
    defaults = read_json(source)
    ends = stop_tokens(defaults.get("eos_token_id"), tokenizer)
    if ends == defaults.get("eos_token_id"):
        shutil.copyfile(source, target)
    else:
        write_json(target, {**defaults, "eos_token_id": ends})


def opened_tokenizer(directory: Path) -> Tokenizer:
    """A directory's tokenizer, parsed once for all that an export asks of it."""
    return _opened_tokenizer(directory, _stamps(directory))


@lru_cache(maxsize=4)  # both stages' sources and copies
def _opened_tokenizer(directory: Path, stamps: tuple[int, ...]) -> Tokenizer:
    return Tokenizer(directory)


def settled_prompt(prompt: Prompt, directory: Path) -> Prompt:
    """A stage's prompt with today's date where its chat template writes one, so that the bundle's stays the same.

    Warns where the template has no system turn.
    """
    template = opened_tokenizer(directory).template
    if prompt.system and not template.takes_system:
        warnings.warn(
            f"The {directory.name} model's chat template has no system turn: the system text goes before the question.",
            EdgeReasonWarning,
            stacklevel=2,
        )
    return dated(prompt, template, datetime.date.today())


def warn_of_differences(directory: Path, texts: list[str]) -> None:
    """Warn where transformers' AutoTokenizer differs from `tokenizer.json`, once for both stages."""
    _warn_of_differences(directory, _stamps(directory), tuple(texts))


@cache
def _warn_of_differences(directory: Path, stamps: tuple[int, ...], texts: tuple[str, ...]) -> None:
    if (text := differing_text(directory, list(texts))) is not None:
        warnings.warn(
            f"transformers' AutoTokenizer has other ids for {text!r} than {directory / 'tokenizer.json'}, which is "
            "exported. For an adapter that was trained with AutoTokenizer, save that tokenizer beside it.",
            EdgeReasonWarning,
            stacklevel=3,
        )


def file_tokenizer(directory: Path) -> Any:
    """transformers' tokenizer of `tokenizer.json` as it is, whatever the directory's `tokenizer_class`.

    Raises:
        ExportError: transformers cannot read it.
    """
    return _opened(transformers.PreTrainedTokenizerFast, directory)


def differing_text(directory: Path, texts: list[str]) -> str | None:
    """The first of some texts for which AutoTokenizer has other ids than `tokenizer.json`; None where it has none."""
    try:
        auto = _opened(transformers.AutoTokenizer, directory)
    except ExportError:
        return None  # it is not needed for anything
    mine = file_tokenizer(directory)(texts, add_special_tokens=False)["input_ids"]
    theirs = auto(texts, add_special_tokens=False)["input_ids"]
    return next((text for text, here, there in zip(texts, mine, theirs, strict=True) if here != there), None)


def _opened(kind: Any, directory: Path) -> Any:
    try:
        with quiet_transformers():
            return kind.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise every kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"transformers cannot read the tokenizer in {directory}: {reason}",
            "Save it there again with save_pretrained().",
        ) from error


def _stamps(directory: Path) -> tuple[int, ...]:
    """When each of the tokenizer's files changed, so that what is cached goes with them."""
    return tuple((directory / name).stat().st_mtime_ns for name in TOKENIZER_FILES if (directory / name).is_file())


def _is_complete(directory: Path) -> bool:
    if not all((directory / name).is_file() for name in ("tokenizer.json", _CONFIG)):
        return False
    return template_source(directory, read_json(directory / _CONFIG)) is not None


def _with_tokenizer(directory: Path) -> Path:
    if not (directory / "tokenizer.json").is_file():
        raise ExportError(
            f"{directory} has no tokenizer.json.",
            "Save the tokenizer there with AutoTokenizer.from_pretrained(...).save_pretrained(...).",
        )
    return directory


@cache
def _composed(adapter: Path, base: Path, stamps: tuple[int, ...]) -> tempfile.TemporaryDirectory[str]:
    """A directory with the adapter's files and, where it has none of a kind, the base's; it goes with the process."""
    directory = tempfile.TemporaryDirectory(prefix="edgereason-tokenizer-")
    place = Path(directory.name)
    own = [name for name in TOKENIZER_FILES if (adapter / name).is_file()]
    described = {name: read_json(adapter / name) for name in own if name == _CONFIG}.get(_CONFIG, {})
    has_template = template_source(adapter, described) is not None
    for name in TOKENIZER_FILES:
        source = adapter if name in own else base
        if (source / name).is_file() and not (name == _TEMPLATE and source == base and has_template):
            shutil.copyfile(source / name, place / name)
    theirs = read_json(base / _CONFIG) if (base / _CONFIG).is_file() else {}
    if described and theirs:
        write_json(place / _CONFIG, {**theirs, **described})
    missing = [name for name in ("tokenizer.json", _CONFIG) if name not in own] or ["chat template"]
    warnings.warn(
        f"{adapter} has {' and '.join(own)} and no {' or '.join(missing)}: the base's is used with it.",
        EdgeReasonWarning,
        stacklevel=3,
    )
    return directory
