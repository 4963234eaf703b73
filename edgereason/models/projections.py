"""Loading a model's projections, and finding each of them again by its name in the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edgereason.checkpoints.weights import FUSED, Weights
from edgereason.errors import BundleError


@dataclass(frozen=True)
class Projection:
    """A projection of the checkpoint: some outputs of a weight, of all of them where it was not fused with others."""

    weight: Any  # of the backend, [N, columns]
    first: int
    rows: int
    columns: int


class Projections:
    """Loads weights for a backend and remembers where the checkpoint's projections went, for LoRA adapters.

    Attributes:
        found: The projections by their names, such as `model.layers.0.self_attn.q_proj`; a fused weight is there under
            its own name as well.
    """

    def __init__(self, ops: ModuleType, weights: Weights) -> None:
        self.found: dict[str, Projection] = {}
        self._ops = ops
        self._weights = weights

    def embeddings_and_head(self, rows: int, columns: int, tied: bool) -> tuple[Any, Any]:
        """Embeddings and LM head, `[rows, columns]` each.

        Where the configuration ties them, they are one weight. Like transformers, the checkpoint wins over it: a head
        that differs from the embeddings is not tied; one without embeddings is both.

        Raises:
            BundleError: see `__call__`.
        """
        table, head = "model.embed_tokens", "lm_head"
        weights = self._weights
        if tied and weights.has(head) and not weights.has(table):
            return (self(head, rows, columns),) * 2
        embeddings = self(table, rows, columns)
        if tied and not (weights.has(head) and not weights.equal(head, table)):
            return embeddings, embeddings
        return embeddings, self(head, rows, columns)

    def __call__(self, name: str, rows: int | tuple[int, ...], columns: int, bias: bool = False) -> Any:
        """A weight `[rows, columns]`, prepared; `rows` has one number for each part of a fused one.

        With `bias` its bias is loaded as well, and belongs to the prepared weight.

        Raises:
            BundleError: it is missing, damaged, or of another shape or type.
        """
        try:
            added = self._weights.bias(name, rows) if bias else None
            weight = self._ops.prepare(self._weights.linear(name, rows, columns), added)
        except ValueError as error:
            raise BundleError(
                f"{self._weights.directory}: {name} is damaged: {error}.", "Export the model again."
            ) from error
        if isinstance(rows, tuple):
            prefix, _, last = name.rpartition(".")
            first = 0
            for index, (part, count) in enumerate(zip(FUSED[last], rows, strict=True)):
                alone = isinstance(weight, tuple)
                self.found[f"{prefix}.{part}"] = Projection(
                    weight[index] if alone else weight, 0 if alone else first, count, columns
                )
                first += count
        if not isinstance(weight, tuple):
            self.found[name] = Projection(weight, 0, rows if isinstance(rows, int) else sum(rows), columns)
        return weight
