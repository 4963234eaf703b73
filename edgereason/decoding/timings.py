"""Where the time of one stage went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StageTimings:
    """Where one stage's time went; counts in tokens, durations in seconds.

    Attributes:
        prompt_tokens: Tokens of the rendered prompt.
        cached_tokens: Those of them that the KV cache held when the stage began.
        prefill_s: Prefill: from the prompt's token ids to the logits of the first new token.
        ttft_s: Time to first token: from the beginning of the stage, rendering and tokenizing included.
        new_tokens: Tokens generated, the stop token included.
        decode_s: From the first token to the last.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefill_s: float = 0.0
    ttft_s: float = 0.0
    new_tokens: int = 0
    decode_s: float = 0.0
