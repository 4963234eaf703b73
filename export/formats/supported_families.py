"""Which model families each format can hold."""

from __future__ import annotations

from edgereason.errors import ExportError
from edgereason.export.inputs.base_model import EXPORTABLE_FAMILIES, Base


def supported_families(format: str) -> tuple[str, ...]:
    """The values of `model_type` in config.json that can be exported to a format."""
    if format == "gguf":
        from edgereason.export.gguf import GGUF_FAMILIES  # its library may be missing

        return tuple(sorted(GGUF_FAMILIES))
    if format == "onnx":
        from edgereason.export.formats.onnx_families import ONNX_FAMILIES

        return ONNX_FAMILIES
    return EXPORTABLE_FAMILIES


def check_family(base: Base, format: str) -> None:
    """Make sure that a format can hold a base's family.

    Raises:
        ExportError: it cannot; the message names those that it can, and another format.
    """
    families = supported_families(format)
    if base.config["model_type"] not in families:
        raise ExportError(
            f"{base.path / 'config.json'} names the architecture {base.config['model_type']!r}, "
            f"which cannot be exported to {format}.",
            f"Families that can: {', '.join(families)}. Or give --format native.",
        )
