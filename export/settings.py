"""What an export is asked to do, checked as soon as it is said. A new option is a field here and a check below it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgereason.errors import UsageError
from edgereason.export.fidelity.limits import parse_thresholds
from edgereason.export.fidelity.questions import read_questions

FORMATS = ("native", "gguf", "onnx")
LAYOUTS = ("merged", "shared")
_SHARED_FORMATS = ("native",)
COMBINATIONS = ("linear", "ties", "dare_linear", "dare_ties", "cat")
BITS = (4, 8, 16)
GGUF_TYPES = {"IQ4_XS": 4, "Q4_0": 4, "Q4_K_M": 4, "Q5_K_M": 5, "Q6_K": 6, "Q8_0": 8, "F16": 16}
"""The GGUF types that can be written, and the bits of a weight in each."""

_VERIFYING = ("verify", "prompts", "thresholds", "allow_loss")
_GGUF_DEFAULTS = {4: "Q4_0", 8: "Q8_0", 16: "F16"}


@dataclass(frozen=True)
class Settings:
    """How a bundle is to be written. Everything but its inputs and its place.

    Attributes:
        format: `native`, `gguf` or `onnx`.
        layout: `merged`: one set of weights per stage; `shared`: one base, and an adapter for each stage.
        bits: 4 or 8 (quantized by groups) or 16 (full precision).
        gguf_type: A name from `GGUF_TYPES`, which says the bits as well; chosen by them when None and the format is
            `gguf`.
        combine: How adapters of a stage become one: `linear`, `ties`, `dare_linear`, `dare_ties` or `cat`, as in
            PEFT's `add_weighted_adapter`.
        density: The share of values that `ties` and `dare_*` keep.
        seed: Of what `dare_*` draws.
        ollama: Write a Modelfile for Ollama beside each stage's GGUF file.
        extrapolate: How far to go beyond an adapter, away from its reference; None for not at all.
        verify: Measure the bundle against base and adapters before it is finished.
        prompts: A file of questions to verify with, in place of those that ship with the package.
        thresholds: What each rung may lose, in place of the default limits: `("quantized.kl=0.05",)`.
        allow_loss: Finish a bundle that loses more, and say so in its manifest.

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
    ollama: bool = False
    verify: bool = True
    prompts: Path | None = None
    thresholds: tuple[str, ...] = ()
    allow_loss: bool = False

    def __post_init__(self) -> None:
        _choose("format", self.format, FORMATS)
        _choose("layout", self.layout, LAYOUTS)
        if self.layout == "shared" and self.format not in _SHARED_FORMATS:
            raise UsageError(
                f"The format {self.format} has no shared layout.", f"Those that do: {', '.join(_SHARED_FORMATS)}."
            )
        self._check_gguf_type()
        parse_thresholds(self.thresholds)
        if self.prompts is not None:
            read_questions(self.prompts)
        if self.gguf_type is None and self.bits not in BITS:
            raise UsageError(f"bits is {self.bits}.", "Choose 4, 8 or 16.")
        if self.ollama and self.format != "gguf":
            raise UsageError(f"ollama is for --format gguf, not for {self.format}.", "Leave --ollama out.")
        _choose("way to combine adapters", self.combine, COMBINATIONS)
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

    def of_files(self) -> dict[str, Any]:
        """The options that a bundle's files depend on: all but those of verifying it."""
        return {name: value for name, value in asdict(self).items() if name not in _VERIFYING}

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


def _choose(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"There is no {what} {value!r}.", f"Choose one of {', '.join(choices)}.")
