"""What makes two models cost less than two: each optimization can be switched off, and none changes what is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from edgereason.errors import UsageError


@dataclass(frozen=True)
class Optimizations:
    """Which optimizations the pipeline uses where engine and layout allow them; docs/pipeline.md explains each.

    Attributes:
        overlapped_prefill: The answer model reads question and guidance while the guidance is being written.
        prefix_cache: Keys and values of prompts are kept, in memory and those of the fixed instructions on disk.
        shared_question: With activated adapters, both stages use one computation of the question.
        speculation: Tokens that the text so far proposes are checked several at a time.
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
