"""The options of an export, checked when they are given. A new option is a field here and a check below it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgereason.bundle import FORMATS, LAYOUTS
from edgereason.errors import UsageError
from edgereason.files import file_sha256

_SHARED_FORMATS = ("native", "gguf")
COMBINATIONS = ("linear", "ties", "dare_linear", "dare_ties", "cat")
BITS = (4, 8, 16, 32)
GGUF_TYPES = {"IQ4_XS": 4, "Q4_0": 4, "Q4_K_M": 4, "Q5_K_M": 5, "Q6_K": 6, "Q8_0": 8, "F16": 16}
"""The GGUF types that can be written, and the bits per weight of each."""

_NOT_OF_FILES = ("verify", "prompts", "thresholds", "allow_loss", "min_confidence")
METHODS = ("rtn", "gptq")
_GROUP_SIZES = {"rtn": 32, "gptq": 128}
ONNX_BLOCK_SIZES = (32, 64, 128)
ONE_GROUP = -1
"""The group size that means one scale per output."""

_GGUF_DEFAULTS = {4: "Q4_0", 8: "Q8_0", 16: "F16"}


@dataclass(frozen=True)
class Settings:
    """How a bundle is written: everything but its inputs and its directory.

    Attributes:
        format: `native`, `gguf`, `onnx` or `gptq`.
        layout: `merged`: one set of weights per stage; `shared`: one base and an adapter per stage.
        bits: 4 or 8 (quantized in groups), 16 (full precision), or 32 in the format `onnx`.
        gguf_type: A name from `GGUF_TYPES`, which determines the bits; None: the default type for `bits` in the format
            `gguf`.
        combine: How several adapters of a stage are combined: `linear`, `ties`, `dare_linear`, `dare_ties` or `cat`, as
            in PEFT's `add_weighted_adapter`.
        density: Share of values that TIES and DARE keep.
        seed: Random seed for DARE.
        imatrix: Quantize 4-bit GGUF types with an importance matrix, measured on calibration text.
        ollama: Write a Modelfile for Ollama beside each stage's GGUF file.
        extrapolate: How far to extrapolate beyond an adapter, away from its reference adapter; None: not at all.
        verify: Measure the bundle against base and adapters before it is published.
        prompts: A file of questions to verify with; None: the questions that ship with the package.
        thresholds: Limits in place of the default ones, such as `("quantized.kl=0.05",)`.
        allow_loss: Publish a bundle that exceeds its limits, and record that in its manifest.
        min_confidence: Guidance confidence, from 0 to 1, below which a question is outside the model's domain; None:
            the guidance adapter's own.
        method: Quantization method for 4 or 8 bits in the formats `native`, `onnx` and `gptq`: `rtn` (round to nearest)
            or `gptq` (arXiv 2210.17323); None: `gptq` in the format `gptq`, else `rtn`.
        group_size: Inputs that share a scale, a multiple of 32, or `ONE_GROUP`; None: 32 for RTN, 128 for GPTQ.
        symmetric: Symmetric quantization: zero points in the middle.
        act_order: GPTQ: quantize the inputs of the largest activations first.
        static_groups: GPTQ: fix the groups before act-order permutes the inputs.
        dampening: GPTQ: dampening, as a share of the Hessian's mean diagonal.
        clip_search: GPTQ: search each group's range for the minimum error.
        calibration_text: A file of calibration text; see `edgereason.export.quantization.calibration`.
        target_size: GPTQ: maximum bytes of a model file; the layers that gain most get 8 bits, as far as they fit.
        target_kl: GPTQ: maximum mean KL divergence from full precision on calibration text, in nats per token; as few
            layers as possible get 8 bits.

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
    dampening: float = 0.01
    clip_search: bool = True
    calibration_text: Path | None = None
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
            raise UsageError("Ollama cannot share one base between two adapters.", "Use --layout merged.")
        self._check_gguf_type()
        if self.gguf_type is None and self.bits not in BITS:
            raise UsageError(f"bits is {self.bits}.", "Choose 4, 8 or 16.")
        if self.bits == 32 and self.format != "onnx":
            raise UsageError("bits is 32, which only --format onnx can store.", "Give --bits 16.")
        if self.ollama and self.format != "gguf":
            raise UsageError(f"ollama needs --format gguf, the format is {self.format}.", "Leave --ollama out.")
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
                raise UsageError(
                    f"gguf-type needs --format gguf, the format is {self.format}.", "Leave --gguf-type out."
                )
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
                "method gptq needs 4 or 8 bits and the format native, onnx or gptq.", "Leave --method out."
            )
        if self.format == "gptq" and self.bits >= 16:
            raise UsageError(
                f"bits is {self.bits}, the format gptq stores 4 or 8.", "Give one of them, or --format native."
            )
        if self.group_size is None:
            object.__setattr__(self, "group_size", _GROUP_SIZES[self.method])
        elif self.group_size != ONE_GROUP and (self.group_size < 32 or self.group_size % 32):
            raise UsageError(f"group-size is {self.group_size}.", "Give a multiple of 32, or -1 for one group.")
        self._check_blocks()
        if not 0 <= self.dampening <= 1:
            raise UsageError(f"dampening is {self.dampening}.", "Give a number from 0 to 1, such as 0.01.")
        if self.calibration_text is not None and not Path(self.calibration_text).is_file():
            raise UsageError(
                f"{self.calibration_text} does not exist.", "Give a .jsonl or .txt file of calibration text."
            )
        self._check_targets()

    def _check_blocks(self) -> None:
        """ONNX's `MatMulNBits` has blocks of a few sizes, of contiguous inputs."""
        if self.format != "onnx":
            return
        if self.group_size not in ONNX_BLOCK_SIZES:
            raise UsageError(f"group-size is {self.group_size}.", "The format onnx takes 32, 64 or 128.")
        if self.method == "gptq" and self.act_order and not self.static_groups:
            raise UsageError("The format onnx cannot store groups of permuted inputs.", "Leave --no-static-groups out.")

    def _check_targets(self) -> None:
        targets = [target for target in (self.target_size, self.target_kl) if target is not None]
        if not targets:
            return
        if len(targets) > 1 or min(targets) <= 0:
            raise UsageError(
                "target-size and target-kl exclude each other, and have to be positive.", "Give one of them."
            )
        if self.method != "gptq" or self.format != "native" or self.bits != 4:
            raise UsageError(
                "target-size and target-kl need --format native, --method gptq and --bits 4.",
                "Give these options, or leave the target out.",
            )

    @property
    def measures_importance(self) -> bool:
        """Whether an importance matrix is measured for quantization."""
        return self.imatrix and self.format == "gguf" and self.bits <= 4

    def of_files(self) -> dict[str, Any]:
        """The options that a bundle's files depend on, as JSON; calibration text by its checksum."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_OF_FILES}
        if self.calibration_text is not None:
            values["calibration_text"] = file_sha256(self.calibration_text)
        return values

    @classmethod
    def of(cls, options: dict[str, Any]) -> Settings:
        """Settings from keyword arguments.

        Raises:
            UsageError: an option is unknown, or has a value that is not allowed.
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
        UsageError: it is not a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(i?)b?", text.strip().lower())
    if not found:
        raise UsageError(f"{text!r} is not a size.", "Give bytes, or a number with KB, MB or GB.")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmg".index(unit or " "))


def _choose(what: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UsageError(f"There is no {what} {value!r}.", f"Choose one of {', '.join(choices)}.")
