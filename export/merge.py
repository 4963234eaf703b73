"""Base + adapter -> one set of weights, merged in fp32 with PEFT."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from edgereason.errors import ExportError
from edgereason.export.inputs import Adapter, Base
from edgereason.tokenizer import TOKENIZER_FILES

Report = Callable[[int, int], None]
"""Called with the steps done and their total."""


def merge(base: Base, adapter: Adapter, out: Path, report: Report | None = None) -> None:
    """Write base + adapter as a Hugging Face directory in fp32, with the tokenizer that the adapter was trained with.

    Each LoRA product is added in fp32 whatever the base is stored in: adding it to 16-bit or quantized weights loses
    most of a small adapter (QLoRA, arXiv 2305.14314, discusses the same for training).

    Args:
        out: A directory; made if absent.
        report: Called after each merged layer.

    Raises:
        ExportError: a merged weight is not finite, or the disk is full.
    """
    import torch
    import transformers
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT still calls what transformers has renamed
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base.path, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        peft_model = PeftModel.from_pretrained(model, adapter.path, torch_device="cpu")
    layers = [module for module in peft_model.modules() if isinstance(module, LoraLayer)]
    for done, layer in enumerate(layers, start=1):
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise ExportError(f"{adapter.path} cannot be merged into {base.name}: {error}") from error
        if report:
            report(done, len(layers))
    merged = peft_model.unload()  # the base layers, which hold the merged weights now
    try:
        merged.save_pretrained(out)
    except SafetensorError as error:  # safetensors wraps what the system says
        raise ExportError(
            f"The merged weights could not be written: {error}.", "Free some space, or give an --out on another disk."
        ) from error
    copy_tokenizer(base.path, adapter.path, out)


def copy_tokenizer(base: Path, adapter: Path, out: Path) -> None:
    """Copy the tokenizer: the adapter's own where it brings one, since training may have added tokens or a template."""
    source = adapter if (adapter / "tokenizer.json").is_file() else base
    if not (source / "tokenizer.json").is_file():
        raise ExportError(
            f"{base} has no tokenizer.json.",
            "Save the tokenizer there with AutoTokenizer.from_pretrained(...).save_pretrained(...).",
        )
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
