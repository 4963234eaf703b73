"""What a rung beyond its limits means: its loss in one sentence, the likely cause, and the cure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CAUSES = {
    "tokenizer": (
        "Its tokenizer is not that of the reference.",
        "Save the tokenizer of training beside the adapter (tokenizer.save_pretrained) and export again.",
    ),
    "gguf_tokenizer": (
        "llama.cpp tokenizes text differently from the tokenizer of the model's training. edgereason reads "
        "tokenizer.json and is not affected; Ollama and other programs are.",
        "For edgereason alone, allow it with --threshold gguf_tokenizer.different=N; or choose another --format.",
    ),
    "template": (
        "Its prompts are not those of the reference.",
        "Save the training's tokenizer and prompt.json beside the adapter and export again.",
    ),
    "stops": (
        "A stop token of the reference was lost or added in the export.",
        "Set eos_token_id in the base's generation_config.json or eos_token in tokenizer_config.json; export again.",
    ),
    "merged": (
        "Base and adapter do not compute the same merged as unmerged; no cause was found.",
        "Merge them with PEFT's merge_and_unload() and export the result; report this kind of adapter.",
    ),
    "stored": (
        "The weights in 16 bits do not compute what base and adapter do; no cause was found.",
        "Export with --format onnx --bits 32, which stores float32; report this model.",
    ),
    "quantized": (
        "Quantization to so few bits changes this model's predictions.",
        "Try --method gptq, a smaller --group-size or --bits 8; or allow the loss with --threshold.",
    ),
    "engine": (
        "The engine does not compute the weights in the bundle: a setting in its files is wrong, or the engine.",
        "Run `edgereason doctor`; if it finds nothing, compare the bundle's config.json with the base's; report it.",
    ),
}
"""What a rung shows by itself, and the cure."""

_BEYOND_HALF = (
    "Merged weights are beyond the range of float16, above 65,504.",
    "Export with --format onnx --bits 32, which stores float32, or train the adapter with a lower learning rate.",
)
_BELOW_HALF = (
    "Merged weights are too small for float16, which rounds them off.",
    "Export with --format onnx --bits 32, which stores float32.",
)
_WRITER = (
    "The weights in the bundle's files are further from the merged ones than quantization explains.",
    "Export again; if it happens again, report it as an error of the writer.",
)
_IN_FULL = (
    "The weights in the bundle's files are close to the merged ones, and still compute something else.",
    "Allow the loss with --threshold, or report this model.",
)
_BEFORE = (
    "The engine adds little to what the rungs before it have lost.",
    "Try --method gptq, a smaller --group-size or --bits 8; or allow the loss with --threshold.",
)

_WORDS = {
    "kl": "a mean KL divergence of {0} nats",
    "kl_p99": "a 99th percentile of the KL divergence of {0} nats",
    "step_kl": "a mean KL divergence of {0} nats from the previous rung",
    "top1": "the same most probable token at {0} of the positions",
    "perplexity": "{0} times the reference's perplexity",
    "weight": "a weight that is off by {0}",
    "greedy": "the same greedy text for {0} of the prompts",
}


@dataclass(frozen=True)
class Finding:
    """The first rung beyond its limits.

    Attributes:
        stage: `guidance` or `answer`.
        rung: One of `limits.RUNGS`.
        sentence: What was lost.
        cause: Its likely cause, in a sentence.
        cure: What to do.
    """

    stage: str
    rung: str
    sentence: str
    cause: str
    cure: str


def explain(
    stage: str,
    rung: str,
    measures: Mapping[str, float],
    limits: Mapping[str, float],
    exceeded: Sequence[str],
    detail: str,
    bits: int,
    evidence: tuple[str, str] | None = None,
) -> Finding:
    """Describe a rung that is beyond its limits.

    Args:
        stage, rung: The stage and its rung.
        measures, limits: Measured values and limits, by measure.
        exceeded: The measures beyond their limits, at least one.
        detail: Details of the loss; may be empty.
        bits: Bits per weight in the bundle.
        evidence: The cause and the cure that a check has found (see `evidence`).
    """
    cause, cure = evidence or _shown(rung, measures, exceeded, bits)
    if "different" in exceeded:
        ids = "texts have other token ids"
        what = {"tokenizer": ids, "gguf_tokenizer": ids, "template": "prompts are rendered differently"}
        found = f"{measures['different']:.0f} of {measures['compared']:.0f} "
        found += what.get(rung, "files have other stop tokens than the reference")
        lost = f"in the bundle, {found}"
    else:
        worst = exceeded[0]
        lost = f"{_WORDS[worst].format(_number(worst, measures[worst]))}, "
        lost += f"where {_number(worst, limits[worst])} is allowed"
    sentence = f"The {stage} model loses too much on the rung {rung!r}: {lost}{f' ({detail})' if detail else ''}."
    return Finding(stage, rung, sentence, cause, cure)


def _shown(rung: str, measures: Mapping[str, float], exceeded: Sequence[str], bits: int) -> tuple[str, str]:
    """The cause that the measures of a rung show, and the cure."""
    if rung == "stored" and "weight" in exceeded:
        return _BELOW_HALF if math.isfinite(measures["weight"]) else _BEYOND_HALF
    if rung == "quantized" and "weight" in exceeded:
        return _WRITER
    if rung == "quantized" and bits >= 16:
        return _IN_FULL
    if rung == "engine" and "step_kl" in measures and not {"step_kl", "different"} & set(exceeded):
        return _BEFORE
    return _CAUSES[rung]


def _number(measure: str, value: float) -> str:
    if measure in ("top1", "greedy", "weight") and math.isfinite(value):
        return f"{value:.1%}"
    return f"{value:.3g}" if math.isfinite(value) else "infinity"
