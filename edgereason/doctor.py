"""What this machine is, and which engines really decode on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgereason.engines import ENGINES
from edgereason.engines.probe import Verdict, probe
from edgereason.hardware import cpu_model, fitting_threads, memory_bytes
from edgereason.kernels import cpu as kernels


@dataclass(frozen=True)
class Examination:
    """What `examine` found.

    Attributes:
        cpu: The processor's name.
        cores: Cores that this process may use.
        memory_gb: Memory of the machine in units of 10^9 bytes; 0 where the system does not say.
        isa: The instruction set that the native engine's kernels use.
        isas: Those that this machine could run.
        engines: What became of trying each engine.
        gpu: Whether this build of llama.cpp can compute on a GPU; None where it does not work here.
    """

    cpu: str
    cores: int
    memory_gb: float
    isa: str
    isas: tuple[str, ...]
    engines: tuple[Verdict, ...]
    gpu: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> Examination:
    """Look at this machine and try each engine in a child process; a remembered verdict is not tried again."""
    verdicts = tuple(probe(engine) for engine in ENGINES)
    return Examination(
        cpu=cpu_model(),
        cores=fitting_threads(),
        memory_gb=memory_bytes() / 1e9,
        isa=kernels.isa(),
        isas=tuple(kernels.isas()),
        engines=verdicts,
        gpu=_llama_has_gpu() if any(each.engine == "llama.cpp" and each.works for each in verdicts) else None,
    )


def _llama_has_gpu() -> bool:
    from edgereason.checkpoints.llama_library import llama_library

    return bool(llama_library().llama_supports_gpu_offload())
