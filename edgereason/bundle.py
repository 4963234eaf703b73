"""The bundle: a directory with both stages' models, and the manifest `bundle.json` that says what they are.

    my.bundle/
      bundle.json
      guidance/   model files, tokenizer.json, tokenizer_config.json
      answer/     the same

In the layout `shared` both stages have one model, and an adapter each:

    my.bundle/
      bundle.json
      base/       model files
      guidance/   adapter files, tokenizer.json, tokenizer_config.json
      answer/     the same

Only safetensors, GGUF, ONNX and JSON (and a chat template, which runs in a sandbox) lie inside: nothing that executes.
A bundle is written under a temporary name and renamed when it is complete, and its files are checked against the
manifest's sizes and SHA-256 sums when it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edgereason.errors import BundleError, UsageError
from edgereason.files import file_sha256
from edgereason.text.prompts import Prompt

SCHEMA = 1
MANIFEST = "bundle.json"
STAGES = ("guidance", "answer")
CACHE = "cache"
"""A directory that comes and goes with use. The manifest says nothing of it, and no check minds it."""
BASE = "base"
"""The directory of the model that both stages share."""
FORMATS = {"native": "native", "gguf": "llama.cpp", "onnx": "onnx", "gptq": "native"}
"""Which engine runs which bundle format."""
LAYOUTS = ("merged", "shared")
"""One set of weights for each stage, or one base with two adapters."""
DEFAULT_BUNDLE = Path(__file__).parent / "default_bundle"
"""The example model, native int4, which ships inside the package."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the most probable token (greedy); larger values flatten the distribution.
        top_k: Keep the k most probable tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probabilities add up to p (Holtzman et al., arXiv 1904.09751).
        min_p: Keep tokens at least min_p times as probable as the best one (Nguyen et al., arXiv 2407.01082).
        repetition_penalty: Divide the positive, multiply the negative logits of tokens seen before
            (Keskar et al., arXiv 1909.05858); 1 leaves them.
        seed: Random seed; None takes a new one each time.

    Raises:
        UsageError: a value is outside of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        ranges = {
            "temperature": 0 <= self.temperature < float("inf"),
            "top-k": self.top_k >= 0,
            "top-p": 0 < self.top_p <= 1,
            "min-p": 0 <= self.min_p <= 1,
            "repetition-penalty": 0 < self.repetition_penalty < float("inf"),
            "seed": self.seed is None or self.seed >= 0,
        }
        for name, fits in ranges.items():
            if not fits:
                value = getattr(self, name.replace("-", "_"))
                raise UsageError(f"{name} is {value}, which is outside of its range.", _RANGES[name])


_RANGES = {
    "temperature": "Give 0 for greedy decoding, or a positive number.",
    "top-k": "Give 0 to keep all tokens, or how many to keep.",
    "top-p": "Give a number above 0 and at most 1.",
    "min-p": "Give a number from 0 to 1.",
    "repetition-penalty": "Give a positive number; 1 leaves repetition alone.",
    "seed": "Give 0 or a positive integer.",
}


@dataclass(frozen=True)
class Stage:
    """One stage of a bundle.

    Attributes:
        prompt: What the stage's model is asked.
        stop_ids: Tokens that end its text.
        max_new_tokens: Maximum new tokens, unless asked otherwise.
        stop_strings: Strings that end its text and are not part of it.
        sampling: How its tokens are chosen by default.
    """

    prompt: Prompt
    stop_ids: frozenset[int]
    max_new_tokens: int = 256
    stop_strings: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    def to_json(self) -> dict[str, Any]:
        sampling = {name: value for name, value in vars(self.sampling).items() if value is not None}
        return {
            "prompt": self.prompt.to_json(),
            "stop_ids": sorted(self.stop_ids),
            "stop_strings": list(self.stop_strings),
            "max_new_tokens": self.max_new_tokens,
            "sampling": sampling,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> Stage:
        stop_ids, stop_strings = _list(value, "stop_ids"), _list(value, "stop_strings")
        if not all(_is_count(token) for token in stop_ids):
            raise UsageError(f"stop_ids are {stop_ids}, not token ids.")
        if not all(isinstance(string, str) for string in stop_strings):
            raise UsageError(f"stop_strings are {stop_strings}, not strings.")
        if not _is_count(value["max_new_tokens"]):
            raise UsageError(f"max_new_tokens is {value['max_new_tokens']!r}, not a number of tokens.")
        return cls(
            prompt=Prompt.from_json(value["prompt"], f"{where} (prompt)"),
            stop_ids=frozenset(stop_ids),
            max_new_tokens=value["max_new_tokens"],
            stop_strings=tuple(stop_strings),
            sampling=Sampling(**value["sampling"]),
        )


@dataclass(frozen=True)
class FileRecord:
    """A file's size in bytes and its SHA-256 sum in hexadecimal."""

    bytes: int
    sha256: str

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FileRecord:
        if not _is_count(value["bytes"]) or not isinstance(value["sha256"], str):
            raise UsageError(f"a file has {value}, not its bytes and sha256.")
        return cls(value["bytes"], value["sha256"])


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest, read and checked."""

    path: Path
    format: str
    """`native`, `gguf`, `onnx` or `gptq`."""
    stages: dict[str, Stage]
    files: dict[str, FileRecord]
    """By path inside the bundle, with `/`."""
    quantization: dict[str, Any]
    provenance: dict[str, Any]
    created_by: str = ""
    layout: str = "merged"
    """`merged`, a model for each stage, or `shared`, one base and two adapters."""
    fidelity: dict[str, Any] = field(default_factory=dict)
    """How close it is to base and adapters, as `edgereason.export.fidelity` reports it; empty where nobody measured."""

    @property
    def shared(self) -> bool:
        """Whether both stages have one base."""
        return self.layout == "shared"

    def model(self, stage: str) -> Path:
        """The directory of a stage's model."""
        return self.path / (BASE if self.shared else stage)

    @property
    def engine(self) -> str:
        """The engine that runs this bundle's format."""
        return FORMATS[self.format]

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Bundle:
        """Read the manifest at `path` and check the files against it: sizes always, sums with `verify`.

        Files may be links to files outside of the bundle, as in the Hugging Face hub's cache, where the sums agree:
        those of links are always checked.

        Raises:
            BundleError: there is no bundle, its manifest is broken or of another version, a path leaves the bundle,
                or a file is missing, truncated or altered.
        """
        bundle = cls.read(path)
        for name, record in bundle.files.items():
            _check_size(path, name, record)
        inside = path.resolve()
        linked = [name for name in bundle.files if not (path / name).resolve().is_relative_to(inside)]
        bundle._check_sums(list(bundle.files) if verify else linked)
        return bundle

    @classmethod
    def find(cls, path: Path, layout: str | None = None) -> Bundle:
        """Open the bundle at `path`, or the one of several in that directory that has a layout.

        Args:
            path: A bundle, or a directory with bundles in it, such as one of each layout.
            layout: `merged` or `shared`; None takes whichever there is.

        Raises:
            UsageError: there is none of this layout, or more than one.
            BundleError: see `open`.
        """
        if layout is not None and layout not in LAYOUTS:
            raise UsageError(f"There is no layout {layout!r}.", f"The layouts are {' and '.join(LAYOUTS)}.")
        inside = [] if (path / MANIFEST).is_file() or not path.is_dir() else sorted(path.iterdir())
        found = [cls.read(each) for each in inside if (each / MANIFEST).is_file()] or [cls.read(path)]
        fitting = [bundle for bundle in found if layout in (None, bundle.layout)]
        if len(fitting) != 1:
            names = ", ".join(f"{bundle.path.name} ({bundle.layout})" for bundle in fitting or found)
            kind = f"{layout} bundle" if layout else "single bundle"
            raise UsageError(f"{path} is or has no {kind}: there is {names}.", _choice(fitting, layout))
        return cls.open(fitting[0].path)

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """Read the manifest at `path` alone, without a look at the files that it names.

        Raises:
            BundleError: there is no bundle, or its manifest is broken or of another version.
        """
        manifest = path / MANIFEST
        if not manifest.is_file():
            from edgereason.publishing import moved_aside

            if (moved := moved_aside(path)) and not path.exists():
                raise BundleError(
                    f"{path} is not there: an export was killed while it replaced it.",
                    f"Rename {moved[0]} to {path.name}, or export it again.",
                )
            raise BundleError(
                f"{path} is not a bundle: it has no {MANIFEST}.",
                "Give the directory that `edgereason export` wrote.",
            )
        try:
            value = json.loads(manifest.read_text(encoding="utf-8"))
            if value["schema"] != SCHEMA:
                raise BundleError(
                    f"{manifest} has schema version {value['schema']}; this edgereason reads version {SCHEMA}.",
                    "Upgrade edgereason, or export the bundle again.",
                )
            if value["format"] not in FORMATS or value["layout"] not in LAYOUTS:
                raise BundleError(
                    f"{manifest} describes a {value['layout']} {value['format']} bundle, which is unknown here.",
                    "Upgrade edgereason, or export the bundle again.",
                )
            return cls(
                path=path,
                format=value["format"],
                stages={name: Stage.from_json(value["stages"][name], str(manifest)) for name in STAGES},
                files={name: FileRecord.from_json(record) for name, record in value["files"].items()},
                quantization=dict(value["quantization"]),
                provenance=dict(value["provenance"]),
                created_by=str(value["created_by"]),
                layout=value["layout"],
                fidelity=dict(value.get("fidelity", {})),
            )
        except BundleError:
            raise
        except (UsageError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = error.what if isinstance(error, UsageError) else f"{type(error).__name__} {error}."
            raise BundleError(
                f"{manifest} is damaged: {reason}",
                "Export the bundle again, or copy it again from its source.",
            ) from error

    def verify(self) -> None:
        """Compare every file's SHA-256 sum with the manifest's.

        Raises:
            BundleError: a file differs.
        """
        self._check_sums(list(self.files))

    def _check_sums(self, names: list[str]) -> None:
        with ThreadPoolExecutor() as pool:
            sums = pool.map(lambda name: file_sha256(self.path / name), names)
        for name, found in zip(names, sums, strict=True):
            if found != self.files[name].sha256:
                raise BundleError(
                    f"{self.path / name} has a wrong checksum: it was altered after the export.",
                    "Export the bundle again, or copy it again from its source.",
                )

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "format": self.format,
            "layout": self.layout,
            "created_by": self.created_by,
            "stages": {name: stage.to_json() for name, stage in self.stages.items()},
            "quantization": self.quantization,
            "provenance": self.provenance,
            **({"fidelity": self.fidelity} if self.fidelity else {}),
            "files": {name: vars(record) for name, record in sorted(self.files.items())},
        }

    def write_manifest(self) -> None:
        """Write `bundle.json` into `path`."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"
        (self.path / MANIFEST).write_text(text, encoding="utf-8")


def _list(value: dict[str, Any], name: str) -> list[Any]:
    if not isinstance(value[name], list):
        raise UsageError(f"{name} is {value[name]!r}, not a list.")
    found: list[Any] = value[name]
    return found


def _is_count(value: object) -> bool:
    """Whether a value of a manifest is a whole number that is not negative; JSON's true and 1.0 are none."""
    return type(value) is int and value >= 0


def record_files(directory: Path, known: Mapping[str, FileRecord] | None = None) -> dict[str, FileRecord]:
    """Sizes and sums of every file below `directory` but the manifest; those that are `known` are not computed."""
    files = sorted(file for file in directory.rglob("*") if file.is_file() and file.name != MANIFEST)
    names = {file.relative_to(directory).as_posix(): file for file in files}
    known = known or {}
    return {
        name: known[name] if name in known else FileRecord(file.stat().st_size, file_sha256(file))
        for name, file in names.items()
    }


def _check_size(bundle: Path, name: str, record: FileRecord) -> None:
    inside = PurePosixPath(name)
    target = bundle / name
    # A manifest comes with the bundle, from anywhere: it must not make us read outside of it.
    leaves = inside.is_absolute() or ".." in inside.parts or "\\" in name or ":" in name
    if leaves or not target.parent.resolve().is_relative_to(bundle.resolve()):
        raise BundleError(f"{bundle / MANIFEST} names {name!r}, a path that leaves the bundle.", "Do not use it.")
    if not target.is_file():
        raise BundleError(f"{target} is missing.", "Export the bundle again, or copy it again from its source.")
    size = target.stat().st_size
    if size != record.bytes:
        raise BundleError(
            f"{target} has {size:,} bytes, {MANIFEST} says {record.bytes:,}: the file is truncated or altered.",
            "Export the bundle again, or copy it again from its source.",
        )


def _choice(fitting: list[Bundle], layout: str | None) -> str:
    """What to do where not one bundle fits."""
    if fitting:
        return "Give the path of one of them" + ("." if layout else ", or --layout merged or shared.")
    return f"Export one with --layout {layout}, or leave the layout out."
