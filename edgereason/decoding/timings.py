"""Where the time of one stage went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StageTimings:
    """Where one stage's time went; counts in tokens, durations in seconds.

    Attributes:
        prompt_tokens: Tokens of the rendered prompt.
        cached_tokens: Those of them whose keys and values were there already when the stage began.
        prefill_s: From the prompt's tokens to the logits after them.
        ttft_s: From the beginning of the stage (rendering and tokenizing included) to its first token.
        new_tokens: Tokens generated, the end token included.
        decode_s: From the first token to the last.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefill_s: float = 0.0
    ttft_s: float = 0.0
    new_tokens: int = 0
    decode_s: float = 0.0
