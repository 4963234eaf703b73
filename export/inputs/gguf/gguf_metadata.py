"""A GGUF file's metadata and tensors, opened once (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edgereason.checkpoints.gguf_header import check_header
from edgereason.errors import ExportError
from edgereason.export.inputs.export_errors import as_export_errors

COPY_AGAIN = "Copy it again from its source."


@dataclass(frozen=True, eq=False)
class GgufMetadata:
    """An opened file.

    Attributes:
        path: The file.
        architecture: `general.architecture`.
        tensors: By name, mapped from disk.
    """

    path: Path
    architecture: str
    tensors: dict[str, Any]
    _reader: Any

    @classmethod
    def open(cls, path: Path) -> GgufMetadata:
        """Open a file.

        Raises:
            ExportError: it is missing, no GGUF file, truncated, or in several parts.
        """
        with as_export_errors():
            check_header(path)
        try:
            reader = gguf.GGUFReader(path)
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise ExportError(f"{path} cannot be read: {error}.", COPY_AGAIN) from error
        found = cls(path, "", {tensor.name: tensor for tensor in reader.tensors}, reader)
        if int(found.get("split.count", 1)) > 1:
            raise ExportError(
                f"{path} is one of {found.get('split.count')} parts.", "Join them with llama-gguf-split --merge."
            )
        return cls(path, str(found.needed("general.architecture")), found.tensors, reader)

    def get(self, key: str, default: Any = None) -> Any:
        """A value by its key; `default` where there is none."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def needed(self, key: str) -> Any:
        """A value by its key.

        Raises:
            ExportError: there is none.
        """
        value = self.get(key)
        if value is None:
            raise ExportError(f"{self.path} lacks {key}.", COPY_AGAIN)
        return value

    def own(self, key: str, default: Any = None) -> Any:
        """A value of the architecture: `llama.KEY`."""
        return self.get(f"{self.architecture}.{key}", default)

    def own_needed(self, key: str) -> Any:
        """As `own`, for what there has to be."""
        return self.needed(f"{self.architecture}.{key}")

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive whole number of the architecture.

        Raises:
            ExportError: there is none, or another for each layer.
        """
        value = self.own_needed(key) if default is None else self.own(key, default)
        if isinstance(value, list) or int(value) != value or value < 1:
            raise ExportError(
                f"{self.path}: {self.architecture}.{key} is {str(value)[:40]}, where one number is supported.",
                "Give another model.",
            )
        return int(value)

    def decimal(self, key: str, default: float | None = None) -> float:
        """A float32 of the architecture as the shortest decimal that it is nearest to, as config.json has it."""
        value = self.own_needed(key) if default is None else self.own(key, default)
        return float(str(np.float32(value)))
