"""Which weights of a stage are rounded how: what the settings ask for, done before a writer comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgereason.export.formats.native_writer import Rounding, native_bytes
from edgereason.export.inputs.merge import MergedWeights
from edgereason.export.quantization.calibration import Calibration
from edgereason.export.settings import ONE_GROUP, Settings
from edgereason.kernels.packing import PackedWeight
from edgereason.text.tokenizer import Tokenizer

Report = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and their number."""


def rounding(settings: Settings) -> Rounding:
    """How weights are stored that gptq does not round."""
    size = None if settings.group_size == ONE_GROUP else settings.group_size
    return Rounding(settings.bits, size, settings.symmetric)


def quantize(
    merged: MergedWeights, calibration: Calibration, work: Path, settings: Settings, report: Report
) -> Mapping[str, PackedWeight]:
    """The linear layers that are not simply rounded to nearest, by their names without `.weight`; mapped from `work`.

    Args:
        merged: The model in full precision.
        calibration: The text that statistics come from.
        work: Where finished layers are kept; those of an interrupted export are not done again.
        settings: The method and its options.
        report: Called as work goes on.

    Raises:
        ExportError: a layer's statistics are unusable, or a target cannot be reached.
        UsageError: the calibration text cannot be read.
    """
    if settings.method != "gptq":
        return {}
    from edgereason.export.quantization.decoder_layers import Decoder
    from edgereason.export.quantization.gptq import Method
    from edgereason.export.quantization.layer_store import LayerStore
    from edgereason.export.quantization.layerwise import quantize_layers
    from edgereason.export.quantization.mixed_precision import choose_for_divergence, choose_for_size

    rest = rounding(settings)
    method = Method(
        settings.bits,
        rest.group_size,
        settings.symmetric,
        settings.act_order,
        settings.static_groups,
        settings.damping,
        settings.clip_search,
    )
    sequences = calibration.sequences(Tokenizer(merged.tokenizer))
    decoder, store = Decoder(merged.config, merged), LayerStore(work / "layers")
    mixed = settings.target_size is not None or settings.target_kl is not None
    choices = (4, 8) if mixed else ()
    quantize_layers(decoder, sequences, method, store, lambda *step: report("quantizing", *step), choices)
    bits: dict[str, int] = {}
    if settings.target_size is not None:
        least = native_bytes(merged.config, merged, rest, store.all_weights({}))
        bits = choose_for_size(store, decoder.depth, settings.target_size - least)
    elif settings.target_kl is not None:
        bits = choose_for_divergence(store, decoder, sequences, settings.target_kl, report)
    return store.all_weights(bits)


def describe(settings: Settings, quantized: Mapping[str, PackedWeight]) -> dict[str, Any]:
    """How the weights are stored, for the manifest."""
    if settings.bits == 16:
        return {"type": "f16"}
    stored: dict[str, Any] = {"group_size": settings.group_size, "method": settings.method}
    if not settings.symmetric:
        stored["symmetric"] = False
    if settings.method == "gptq":
        stored |= {
            "act_order": settings.act_order,
            "static_groups": settings.static_groups,
            "damping": settings.damping,
        }
    if settings.target_size is not None or settings.target_kl is not None:
        stored["layers_of_8_bits"] = sorted(name for name, weight in quantized.items() if weight.bits == 8)
    return stored
