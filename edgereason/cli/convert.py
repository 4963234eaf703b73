"""`edgereason convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A GGUF model.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the new Hugging Face model.")],
) -> None:
    """Write a GGUF model as a Hugging Face directory, for transformers, PEFT and --base.

    Quantized weights are dequantized to float16; tokenizer, chat template and configuration come from the file.
    """
    from functools import partial

    from edgereason.cli.display.interruption import interruptible
    from edgereason.errors import EngineError
    from edgereason.progress.consoles import plain_console
    from edgereason.progress.display import shown_progress

    try:
        from edgereason.export.inputs.gguf.gguf_conversion import convert_gguf
    except ImportError as error:
        raise EngineError(
            f"Converting GGUF files needs {error.name}.", 'Install it: pip install "edgereason[export,gguf]"'
        ) from error
    with interruptible("stopped; nothing was written."), shown_progress("converting") as progress:
        convert_gguf(file, out, partial(progress, "writing tensors"))
    size = sum(path.stat().st_size for path in out.iterdir())
    plain_console().print(f"{out}: {size / 1e6:,.1f} MB")
