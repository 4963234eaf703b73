"""The optimizations that make two stages cost less than two models: each can be switched off, none changes the text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from edgereason.errors import UsageError


@dataclass(frozen=True)
class Optimizations:
    """Which optimizations the pipeline uses where engine and layout allow them; docs/pipeline.md explains each.

    Attributes:
        overlapped_prefill: The answer model's prefill runs while guidance is being decoded.
        prefix_cache: The KV cache of prompts is kept in memory, that of the fixed instructions on disk.
        shared_question: With activated adapters, both stages use one computation of the question.
        speculation: Prompt lookup drafts tokens, of which several are verified in one forward pass.
    """

    overlapped_prefill: bool = True
    prefix_cache: bool = True
    shared_question: bool = True
    speculation: bool = True

    @classmethod
    def without(cls, names: Iterable[str]) -> Optimizations:
        """All optimizations but the named ones, such as `overlapped-prefill`; `all` switches off every one.

        Raises:
            UsageError: there is no optimization of a name.
        """
        known = {field.name.replace("_", "-"): field.name for field in fields(cls)}
        off: dict[str, bool] = {}
        for name in names:
            if name != "all" and name not in known:
                raise UsageError(f"There is no optimization {name!r}.", f"Choose from {', '.join(known)}, or all.")
            off.update({field: False for key, field in known.items() if name in (key, "all")})
        return cls(**off)


ALL = Optimizations()
