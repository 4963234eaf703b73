"""What a broken rung means: its loss in one sentence, the likely cause, and the cure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CURES = {
    "tokenizer": (
        "Its tokenizer.json is not the one that the adapter was trained with.",
        "Save that tokenizer beside the adapter (tokenizer.save_pretrained) and export again.",
    ),
    "gguf_tokenizer": (
        "llama.cpp splits text otherwise than the tokenizer that the model was trained with: edgereason reads "
        "tokenizer.json and does not mind, Ollama and other programs do.",
        "For edgereason alone, allow it with --threshold gguf_tokenizer.different=N; or choose another --format.",
    ),
    "template": (
        "Its prompt or chat template is not the one of the adapter's tokenizer.",
        "Save the training's tokenizer and prompt.json beside the adapter and export again.",
    ),
    "stops": (
        "A token that ends the reference's texts was lost or added on the way.",
        "Set eos_token_id in the base's generation_config.json or eos_token in tokenizer_config.json; export again.",
    ),
    "merged": (
        "The adapter was merged twice, into another base than it was trained on, or with another scale.",
        "Give the base that adapter_config.json names, as it was before any merge.",
    ),
    "stored": (
        "Merged weights lie outside of what float16 holds: above 65,504, or too small for it.",
        "Export with --format onnx --bits 32, which stores float32, or train the adapter with a lower learning rate.",
    ),
    "quantized": (
        "Rounding to so few bits changes what this model predicts.",
        "Try --method gptq, a smaller --group-size or --bits 8; or allow the loss with --threshold.",
    ),
    "engine": (
        "The engine computes something else than the weights in the bundle: a setting in its files, or the engine.",
        "Run `edgereason doctor`; if it finds nothing, compare the bundle's config.json with the base's; report it.",
    ),
}

_WRITER = (
    "The weights in the bundle's files are further from the merged ones than rounding explains.",
    "Export again; where it comes back, a writer makes an error: report it.",
)

_WORDS = {
    "kl": "a mean KL divergence of {0} nats",
    "kl_p99": "a 99th percentile of the KL divergence of {0} nats",
    "step_kl": "a mean KL divergence of {0} nats from the rung before",
    "top1": "the same most probable token at {0} of the positions",
    "perplexity": "{0} times the reference's perplexity",
    "weight": "a weight that is off by {0}",
    "greedy": "the same greedy text for {0} of the prompts",
}


@dataclass(frozen=True)
class Finding:
    """The first rung that loses too much.

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
) -> Finding:
    """Put a broken rung into words.

    Args:
        stage, rung: Where it is.
        measures, limits: What was found and what is allowed, by measure.
        exceeded: The measures beyond their limits, at least one.
        detail: What is known of the loss; may be empty.
        bits: Of a weight in the bundle.
    """
    cause, cure = _CURES[rung]
    if rung == "quantized" and (bits >= 16 or "weight" in exceeded):
        cause, cure = _WRITER
    if "different" in exceeded:
        ids = "texts become other token ids"
        what = {"tokenizer": ids, "gguf_tokenizer": ids, "template": "prompts are rendered otherwise"}
        found = f"{measures['different']:.0f} of {measures['compared']:.0f} "
        found += what.get(rung, "end tokens are not the reference's")
        lost = f"in the bundle {found}"
    else:
        worst = exceeded[0]
        lost = f"{_WORDS[worst].format(_number(worst, measures[worst]))}, "
        lost += f"where {_number(worst, limits[worst])} is allowed"
    sentence = f"The {stage} model is lost on the rung {rung!r}: {lost}{f' ({detail})' if detail else ''}."
    return Finding(stage, rung, sentence, cause, cure)


def _number(measure: str, value: float) -> str:
    if measure in ("top1", "greedy", "weight") and math.isfinite(value):
        return f"{value:.1%}"
    return f"{value:.3g}" if math.isfinite(value) else "infinity"
