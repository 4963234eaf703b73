"""Why a rung loses what it loses: checks that run where it does, so that a cause is named only where one was found."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as FastTokenizer

from edgereason.export.inputs.adapter import Adapter
from edgereason.files import read_json
from edgereason.text.chat_template import template_source
from edgereason.text.prompts import Prompt

if TYPE_CHECKING:
    from edgereason.export.fidelity.references import StageSource

Evidence = tuple[str, str]
"""A cause that a check has found, in a sentence, and the cure."""

_SAVE_TOKENIZER = "Save the tokenizer of training beside the adapter (tokenizer.save_pretrained) and export again."
_REPORT = "Report it with the file, as an error of edgereason; choose another format, or allow it with --threshold."
_SAME = 0.01
"""The share of a change by which two changes of a weight may differ: both were computed in float32."""


def of_tokenizer(reference: Path, bundle: Path) -> Evidence:
    """Why a bundle's tokenizer has other ids than transformers' of the directory `reference`."""
    if _described(reference) != _described(bundle):
        return f"The bundle's {bundle.name}/tokenizer.json is not the one of base and adapter.", _SAVE_TOKENIZER
    return "transformers and edgereason read the same tokenizer.json differently.", _REPORT


def of_template(reference: Any, prompt: Prompt, bundle: Path, bundle_prompt: Prompt) -> Evidence:
    """Why a bundle's prompts differ from those that transformers' tokenizer `reference` renders of `prompt`."""
    if any(prompt.messages("q", guidance) != bundle_prompt.messages("q", guidance) for guidance in ("g", None)):
        return "The bundle's prompt is not the adapter's.", "Save prompt.json beside the adapter and export again."
    file = bundle / "tokenizer_config.json"
    if template_source(bundle, read_json(file) if file.is_file() else {}) != reference.chat_template:
        return "The bundle's chat template is not the one of base and adapter.", _SAVE_TOKENIZER
    return "transformers and edgereason render the same chat template differently.", _REPORT


def of_merging(source: StageSource) -> Evidence | None:
    """Why merged weights do not compute what base and unmerged adapter do; None where the weights look right.

    The change of the first weight that the adapter has factors for is compared with their product, computed here.
    """
    change = _first_change(source.adapter)
    if source.merged is None or change is None or change[0] not in source.base.shapes:
        return None
    name, right = change
    found = source.merged[name] - source.base.read(name)
    size = float(np.vdot(right, right))
    times = float(np.vdot(right, found)) / size if size else 0.0
    cure = "Give the base that adapter_config.json names, as it was before any merge."
    if np.linalg.norm(found - times * right) > _SAME * np.linalg.norm(found):
        return f"The merged {name} is not the base's with the adapter's change.", cure
    if abs(times - 1) > _SAME:
        count = "merged twice" if abs(times - 2) < _SAME else f"merged with {times:.3g} times its scale"
        return f"The adapter was {count}, as {name} shows.", cure
    return None


def _first_change(adapter: Adapter) -> tuple[str, npt.NDArray[np.float32]] | None:
    """The first weight that an adapter changes, and by how much: scale * B @ A (LoRA, arXiv 2106.09685, section 4.1).

    None where it is more than that: DoRA, other ranks for some layers, several adapters.
    """
    config, tensors = adapter.config, dict(adapter.read())
    more = ("use_dora", "rank_pattern", "alpha_pattern", "alora_invocation_tokens")
    key = next((key for key in tensors if key.endswith(".lora_A.weight")), None)
    if key is None or adapter.blend or adapter.extrapolation or any(config.get(name) for name in more):
        return None
    a, b = tensors[key], tensors[key.replace(".lora_A.", ".lora_B.")]
    rank = len(a)
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    product = (np.float32(scale) * (b @ a)).astype(np.float32)
    return key.replace(".lora_A.weight", ".weight"), product.T if config.get("fan_in_fan_out") else product


def _described(directory: Path) -> Any:
    """How a directory's tokenizer.json cuts text, without what training has left in it."""
    tokenizer = FastTokenizer.from_file(str(directory / "tokenizer.json"))
    described = json.loads(tokenizer.to_str())
    return {key: described.get(key) for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
