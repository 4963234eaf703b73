"""What an export is asked to do, checked as soon as it is said. A new option is a field here and a check below it."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgereason.errors import UsageError
from edgereason.export.fidelity.limits import parse_thresholds
from edgereason.export.fidelity.questions import read_questions
from edgereason.files import file_sha256

FORMATS = ("native", "gguf", "onnx", "gptq")
LAYOUTS = ("merged", "shared")
_SHARED_FORMATS = ("native", "gguf")
COMBINATIONS = ("linear", "ties", "dare_linear", "dare_ties", "cat")
BITS = (4, 8, 16, 32)
GGUF_TYPES = {"IQ4_XS": 4, "Q4_0": 4, "Q4_K_M": 4, "Q5_K_M": 5, "Q6_K": 6, "Q8_0": 8, "F16": 16}
"""The GGUF types that can be written, and the bits of a weight in each."""

_NOT_OF_FILES = ("verify", "prompts", "thresholds", "allow_loss", "min_confidence")
METHODS = ("rtn", "gptq")
_GROUP_SIZES = {"rtn": 32, "gptq": 128}
ONNX_BLOCK_SIZES = (32, 64, 128)
ONE_GROUP = -1
"""The group size that means one scale per output."""

_GGUF_DEFAULTS = {4: "Q4_0", 8: "Q8_0", 16: "F16"}


@dataclass(frozen=True)
class Settings:
    """How a bundle is to be written. Everything but its inputs and its place.

    Attributes:
        format: `native`, `gguf`, `onnx` or `gptq`.
        layout: `merged`: one set of weights per stage; `shared`: one base, and an adapter for each stage.
        bits: 4 or 8 (quantized by groups), 16 (full precision), or in the format `onnx` 32.
        gguf_type: A name from `GGUF_TYPES`, which says the bits as well; chosen by them when None and the format is
            `gguf`.
        combine: How adapters of a stage become one: `linear`, `ties`, `dare_linear`, `dare_ties` or `cat`, as in
            PEFT's `add_weighted_adapter`.
        density: The share of values that `ties` and `dare_*` keep.
        seed: Of what `dare_*` draws.
        imatrix: Let columns that matter on calibration text count more where GGUF types of 4 bits are rounded.
        ollama: Write a Modelfile for Ollama beside each stage's GGUF file.
        extrapolate: How far to go beyond an adapter, away from its reference; None for not at all.
        verify: Measure the bundle against base and adapters before it is finished.
        prompts: A file of questions to verify with, in place of those that ship with the package.
        thresholds: What each rung may lose, in place of the default limits: `("quantized.kl=0.05",)`.
        allow_loss: Finish a bundle that loses more, and say so in its manifest.
        min_confidence: The guidance's confidence, from 0 to 1, below which a question is outside of what the model
            knows, in place of the guidance adapter's own.
        method: How weights of 4 or 8 bits are rounded in the formats `native`, `onnx` and `gptq`: `rtn` (to nearest) or
            `gptq` (arXiv 2210.17323); `rtn` for `native` and `gptq` for `gptq` when None.
        group_size: Inputs that share a scale, a multiple of 32, or `ONE_GROUP`; 32 for rtn and 128 for gptq when None.
        symmetric: Whether zero points are in the middle.
        act_order: gptq rounds the inputs of the largest activations first.
        static_groups: Groups are neighbouring inputs even with `act_order`.
        damping: What gptq adds to the diagonal of its statistics, as a share of its mean.
        clip_search: gptq narrows each group's range where that lowers the error.
        calibration: A file of calibration text; see `edgereason.export.quantization.calibration`.
        target_size: Most bytes of a model file: gptq gives 8 bits to the layers that gain most, as far as they fit.
        target_kl: gptq gives 8 bits to as few layers as bring the mean divergence from full precision on calibration
            text to this, in nats per token.

    Raises:
        UsageError: a value is not among its choices, or two contradict each other.
    """

    format: str = "native"
    layout: str = "merged"
    bits: int = 4
    gguf_type: str | None = None
    combine: str = "linear"
    density: float = 0.5
    seed: int = 0
    extrapolate: float | None = None
    imatrix: bool = True
    ollama: bool = False
    verify: bool = True
    prompts: Path | None = None
    thresholds: tuple[str, ...] = ()
    allow_loss: bool = False
    min_confidence: float | None = None
    method: str | None = None
    group_size: int | None = None
    symmetric: bool = True
    act_order: bool = True
    static_groups: bool = True
    damping: float = 0.01
    clip_search: bool = True
    calibration: Path | None = None
    target_size: int | None = None
    target_kl: float | None = None

    def __post_init__(self) -> None:
        _choose("format", self.format, FORMATS)
        _choose("layout", self.layout, LAYOUTS)
        if self.layout == "shared" and self.format not in _SHARED_FORMATS:
            raise UsageError(
                f"The format {self.format} has no shared layout.", f"Those that do: {', '.join(_SHARED_FORMATS)}."
            )
        if self.layout == "shared" and self.ollama:
            raise UsageError("A Modelfile speaks of one whole model, not of a shared one.", "Use --layout merged.")
        self._check_gguf_type()
        parse_thresholds(self.thresholds)
        if self.prompts is not None:
            read_questions(self.prompts)
        if self.gguf_type is None and self.bits not in BITS:
            raise UsageError(f"bits is {self.bits}.", "Choose 4, 8 or 16.")
        if self.bits == 32 and self.format != "onnx":
            raise UsageError("32 bits are for --format onnx.", "Choose 16, which loses next to nothing.")
        if self.ollama and self.format != "gguf":
            raise UsageError(f"ollama is for --format gguf, not for {self.format}.", "Leave --ollama out.")
        self._check_method()
        _choose("way to combine adapters", self.combine, COMBINATIONS)
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise UsageError(
                f"min-confidence is {self.min_confidence}.", "Give what `edgereason calibrate` finds, from 0 to 1."
            )
        if not 0 < self.density <= 1:
            raise UsageError(f"density is {self.density}.", "Choose a share above 0 and up to 1.")
        if self.extrapolate is not None and not math.isfinite(self.extrapolate):
            raise UsageError(f"extrapolate is {self.extrapolate}.", "Choose a number, such as 0.3.")

    def _check_gguf_type(self) -> None:
        if self.gguf_type is not None:
            if self.format != "gguf":
                raise UsageError(f"gguf-type is for --format gguf, not for {self.format}.", "Leave --gguf-type out.")
            _choose("GGUF type", self.gguf_type, tuple(GGUF_TYPES))
            object.__setattr__(self, "bits", GGUF_TYPES[self.gguf_type])
        elif self.format == "gguf" and self.bits in _GGUF_DEFAULTS:
            object.__setattr__(self, "gguf_type", _GGUF_DEFAULTS[self.bits])

    def _check_method(self) -> None:
        if self.method is None:
            object.__setattr__(self, "method", "gptq" if self.format == "gptq" else "rtn")
        assert self.method is not None
        _choose("method", self.method, METHODS)
        if self.method == "gptq" and (self.format == "gguf" or self.bits >= 16):
            raise UsageError(
                "method gptq is for 4 or 8 bits in the formats native, onnx and gptq.", "Leave --method out."
            )
        if self.format == "gptq" and self.bits >= 16:
            raise UsageError("The format gptq has 4 or 8 bits.", "Choose one, or --format native for 16.")
        if self.group_size is None:
            object.__setattr__(self, "group_size", _GROUP_SIZES[self.method])
        elif self.group_size != ONE_GROUP and (self.group_size < 32 or self.group_size % 32):
            raise UsageError(f"group-size is {self.group_size}.", "Give a multiple of 32, or -1 for one group.")
        self._check_blocks()
        if not 0 <= self.damping <= 1:
            raise UsageError(f"damping is {self.damping}.", "Give a number from 0 to 1, such as 0.01.")
        if self.calibration is not None and not Path(self.calibration).is_file():
            raise UsageError(f"{self.calibration} does not exist.", "Give a .jsonl or .txt file of calibration text.")
        self._check_targets()

    def _check_blocks(self) -> None:
        """What ONNX's products have: blocks of a few sizes, whose inputs lie beside each other."""
        if self.format != "onnx":
            return
        if self.group_size not in ONNX_BLOCK_SIZES:
            raise UsageError(f"group-size is {self.group_size}.", "The format onnx has blocks of 32, 64 or 128.")
        if self.method == "gptq" and self.act_order and not self.static_groups:
            raise UsageError("The format onnx has no groups whose inputs lie apart.", "Leave --no-static-groups out.")

    def _check_targets(self) -> None:
        targets = [target for target in (self.target_size, self.target_kl) if target is not None]
        if not targets:
            return
        if len(targets) > 1 or min(targets) <= 0:
            raise UsageError("target-size and target-kl are positive, and exclude each other.", "Give one of them.")
        if self.method != "gptq" or self.format != "native" or self.bits != 4:
            raise UsageError(
                "target-size and target-kl choose between 4 and 8 bits with --method gptq in the format native.",
                "Give --format native --method gptq --bits 4, or leave the target out.",
            )

    @property
    def measures_importance(self) -> bool:
        """Whether rounding goes by an importance matrix."""
        return self.imatrix and self.format == "gguf" and self.bits <= 4

    def of_files(self) -> dict[str, Any]:
        """The options that a bundle's files depend on, as JSON: none of verifying; calibration text by its sum."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_OF_FILES}
        if self.calibration is not None:
            values["calibration"] = file_sha256(self.calibration)
        return values

    @classmethod
    def of(cls, options: dict[str, Any]) -> Settings:
        """Settings from keyword arguments.

        Raises:
            UsageError: an option is unknown, or its value is not good.
        """
        unknown = sorted(set(options) - set(cls.__dataclass_fields__))
        if unknown:
            raise UsageError(
                f"export has no option {unknown[0]!r}.", f"It has: {', '.join(sorted(cls.__dataclass_fields__))}."
            )
        return cls(**options)


def parse_size(text: str) -> int:
    """Bytes, from a number with or without a unit: `1500000`, `400MB`, `1.5 GB`, `300MiB`.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(i?)b?", text.strip().lower())
    if not found:
        raise UsageError(f"{text!r} is no size.", "Give bytes, or a number with KB, MB or GB.")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmg".index(unit or " "))


def _choose(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"There is no {what} {value!r}.", f"Choose one of {', '.join(choices)}.")
