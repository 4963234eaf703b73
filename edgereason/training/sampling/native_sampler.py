"""Sampling on the native engine: the base in 8 bits, written once; adapters in 16 bits, exchanged as they change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from edgereason import configuration
from edgereason.bundle import Sampling
from edgereason.decoding.continuous_batching import DEFAULT_BATCH_SIZE, Generation, Work, run
from edgereason.decoding.loop import DecodeRequest
from edgereason.decoding.result_forcing import ResultForcing
from edgereason.engines.base import Session
from edgereason.engines.native import NativeEngine
from edgereason.errors import ContextError, EdgeReasonError
from edgereason.export.formats.native_writer import write_native
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.quantization.round_to_nearest import Rounding
from edgereason.prefill.prefix_cache import PrefixCache
from edgereason.publishing import new_directory
from edgereason.text.tokenizer import Tokenizer
from edgereason.training.distributed import processes
from edgereason.training.sampling.text_sampler import Opening, SampledText, SamplingSettings, derived
from edgereason.training.training_base import TrainingBase

BITS = 8
"""Of the base's weights: the texts have to come from the model that is trained, which 4 bits would change more."""

_PREFIX_BYTES = 256 << 20


class NativeSampler:
    """A `TextSampler` on the CPU.

    Args:
        base: The base of the adapters to come.
        work: A directory for the engine's copy of the base; one that is there already is used as it is.

    Raises:
        ExportError: the base cannot be written for the engine.
    """

    def __init__(self, base: TrainingBase, work: Path) -> None:
        directory = work / f"base-{BITS}-bits"
        with processes().main_process_first():
            if not directory.is_dir():
                _write(base, directory)
        self._engine = NativeEngine(directory, configuration.threads(None))
        self._tokenizer = Tokenizer(base.path)
        self._stop_ids = self._tokenizer.stop_ids()
        self._adapter: int | None = None

    def use(self, adapter: Path) -> None:
        """See `TextSampler.use`."""
        loaded = self._engine.load_adapter(adapter)
        if self._adapter is not None:
            self._engine.unload_adapter(self._adapter)
        self._adapter = loaded

    def sample(self, openings: Sequence[Opening], settings: SamplingSettings, seed: int) -> list[list[SampledText]]:
        """See `TextSampler.sample`."""
        found: list[list[SampledText | None]] = [[None] * settings.count for _ in openings]
        prefixes = PrefixCache(self._engine, _PREFIX_BYTES)
        works = self._works(openings, settings, seed, prefixes)
        with closing(prefixes), closing(run(works, DEFAULT_BATCH_SIZE)) as runs:
            for work, outcome in runs:
                if isinstance(outcome, EdgeReasonError):
                    raise outcome
                found[work // settings.count][work % settings.count] = outcome
        return [[text for text in texts if text is not None] for texts in found]

    def close(self) -> None:
        """See `TextSampler.close`."""
        self._engine.close()

    def _works(
        self, openings: Sequence[Opening], settings: SamplingSettings, seed: int, prefixes: PrefixCache
    ) -> Iterator[Work[SampledText]]:
        for number, opening in enumerate(openings):
            # The tokens that the model itself has written may not be what its text is split into as part of the whole.
            ids = self._tokenizer.encode(opening.prompt) + self._tokenizer.encode(opening.written)
            for index in range(settings.count):
                sampling = Sampling(settings.temperature, top_p=settings.top_p, seed=derived(seed, number, index))
                yield self._write(ids, settings, sampling, prefixes)

    def _write(
        self, ids: list[int], settings: SamplingSettings, sampling: Sampling, prefixes: PrefixCache
    ) -> Work[SampledText]:
        limit = min(settings.max_new_tokens, self._engine.context_length - len(ids))
        if limit < 1:
            raise ContextError(
                f"A prompt of {len(ids):,} tokens fills the model's context of {self._engine.context_length:,}.",
                "Leave long questions out of the data.",
            )
        forcing = ResultForcing(self._tokenizer) if settings.calculator else None
        request = DecodeRequest(ids, limit, sampling, self._stop_ids, forcing=forcing)

        def open_session() -> Session:
            session = prefixes.session(ids, self._adapter, len(ids) + limit)
            if session.length < len(ids) - 1:
                # Computed once, for all texts of this opening and for the openings that begin with it.
                session.advance(ids[session.length : -1])
                prefixes.keep(session)
            return session

        with closing(Generation(self._engine, open_session, request, self._tokenizer.stream())) as text:
            yield text
        return SampledText(text.text, ended=request.timings.new_tokens < limit)


def _write(base: TrainingBase, directory: Path) -> None:
    merged = merge(open_base(base.path))
    directory.parent.mkdir(parents=True, exist_ok=True)
    with new_directory(directory) as partial:
        write_native(partial, merged.config, merged, Rounding(BITS))
