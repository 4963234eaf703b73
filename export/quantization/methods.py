"""Which weights of a stage are quantized by which method: what the settings ask for, done before a writer comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.progress_callbacks import Progress
from edgereason.export.quantization.calibration import CalibrationText
from edgereason.export.quantization.round_to_nearest import Rounding
from edgereason.export.settings import Settings
from edgereason.kernels.packing import PackedWeight
from edgereason.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgereason.export.quantization.gptq import GptqOptions

FileSize = Callable[[Mapping[str, PackedWeight]], int]
"""The bytes of a model's file whose linear layers are these."""


def quantize_model(
    merged: MergedWeights,
    calibration: CalibrationText,
    work: Path,
    settings: Settings,
    progress: Progress,
    file_size: FileSize | None = None,
) -> Mapping[str, PackedWeight]:
    """Quantize the linear layers that are not rounded to nearest.

    Args:
        merged: The model in full precision.
        calibration: The text that statistics come from.
        work: Where finished layers are kept; those of an interrupted export are not done again.
        settings: The method and its options.
        progress: Called as work goes on.
        file_size: What `target_size` is compared with; needed only with it.

    Returns:
        By their names without `.weight`, mapped from `work`; empty where the method is `rtn`.

    Raises:
        ExportError: a layer's statistics are unusable, or a target cannot be reached.
        UsageError: the calibration text cannot be read.
    """
    if settings.method != "gptq":
        return {}
    from edgereason.export.quantization.decoder_layers import DecoderLayers
    from edgereason.export.quantization.layer_store import LayerStore
    from edgereason.export.quantization.layerwise import quantize_layers
    from edgereason.export.quantization.mixed_precision import choose_for_divergence, choose_for_size

    sequences = calibration.sequences(Tokenizer(merged.tokenizer))
    decoder, store = DecoderLayers(merged.config, merged), LayerStore(work / "layers")
    mixed = settings.target_size is not None or settings.target_kl is not None
    choices = (4, 8) if mixed else ()
    quantize_layers(
        decoder, sequences, _gptq_options(settings), store, lambda *step: progress("quantizing", *step), choices
    )
    bits: dict[str, int] = {}
    if settings.target_size is not None:
        assert file_size is not None
        bits = choose_for_size(store, decoder.depth, settings.target_size - file_size(store.all_weights({})))
    elif settings.target_kl is not None:
        bits = choose_for_divergence(store, decoder, sequences, settings.target_kl, progress)
    return store.all_weights(bits)


def _gptq_options(settings: Settings) -> GptqOptions:
    from edgereason.export.quantization.gptq import GptqOptions

    return GptqOptions(
        settings.bits,
        Rounding.of_settings(settings).group_size,
        settings.symmetric,
        settings.act_order,
        settings.static_groups,
        settings.dampening,
        settings.clip_search,
    )


def describe_quantization(settings: Settings, quantized: Mapping[str, PackedWeight]) -> dict[str, Any]:
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
            "damping": settings.dampening,
        }
    if settings.target_size is not None or settings.target_kl is not None:
        stored["layers_of_8_bits"] = sorted(name for name, weight in quantized.items() if weight.bits == 8)
    return stored
