"""edgereason's own engine: int4 in groups of 32, embeddings and output head int8."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from edgereason.engines.native import NativeEngine
from edgereason.kernels import cpu


def convert(checkpoint: Path, out: Path) -> int:
    """Write the engine's files into `out`; returns the bytes that one decoded token reads."""
    from safetensors import safe_open

    from edgereason.export.formats.native_writer import write_native
    from edgereason.export.inputs.base_model import open_base
    from edgereason.export.inputs.merge import merge
    from edgereason.export.quantization.round_to_nearest import Rounding

    config = json.loads((checkpoint / "config.json").read_text())
    write_native(out, config, merge(open_base(checkpoint)), Rounding(4))
    with safe_open(out / "model.safetensors", framework="numpy") as file:
        unread = () if config["tie_word_embeddings"] else ("model.embed_tokens.",)
        return sum(file.get_tensor(name).nbytes for name in file.keys() if not name.startswith(unread))  # noqa: SIM118


class Model:
    """A loaded model."""

    def __init__(self, directory: Path, threads: int, capacity: int) -> None:
        self._engine = NativeEngine(directory, threads)
        self._capacity = capacity

    def generate(self, ids: Sequence[int], count: int, on_token: Callable[[int], None]) -> None:
        """Read `ids` from an empty cache and generate `count` tokens, greedily; `on_token` hears each at once."""
        session = self._engine.session(self._capacity)
        for _ in range(count):
            token = int(session.advance(ids).argmax())
            on_token(token)
            ids = [token]
        session.close()


def about() -> dict[str, str]:
    """What else the results should name."""
    return {"isa": cpu.isa()}
