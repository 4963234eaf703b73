"""GPTQ checkpoints as AutoGPTQ and GPTQModel write them: random models, rounded to nearest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

Array = npt.NDArray[Any]


def to_words(values: Array, bits: int) -> Array:
    """`[A, B]` -> int32 `[A, B * bits / 32]`, the first value of a word lowest, with Python's own integers."""
    per_word = 32 // bits
    words = [
        [
            sum(int(value) << (bits * i) for i, value in enumerate(row[at : at + per_word]))
            for at in range(0, len(row), per_word)
        ]
        for row in values
    ]
    return np.array(words, np.uint32).view(np.int32).reshape(len(values), -1)


def minus_one(words: Array, bits: int) -> Array:
    """The zero points of v1: one less in each value, the words taken as whole numbers as GPTQModel does."""
    return (words.view(np.uint32) - np.uint32(sum(1 << at for at in range(0, 32, bits)))).view(np.int32)


def quantize(weight: Array, g_idx: Array, bits: int, symmetric: bool, v1: bool) -> dict[str, torch.Tensor]:
    """The four tensors of a float weight `[N, K]` with input k in group g_idx[k], rounded to nearest."""
    top, groups = 2**bits - 1, int(g_idx.max()) + 1
    scales = np.empty((groups, len(weight)), np.float16)
    zeros = np.empty((groups, len(weight)), np.int64)
    for group in range(groups):
        members = weight[:, g_idx == group]
        low, high = np.minimum(members.min(axis=1), 0), np.maximum(members.max(axis=1), 0)
        if symmetric:
            high = np.maximum(-low, high)
            low = -high
        scales[group] = (high - low) / top
        step = scales[group].astype(np.float32)
        zeros[group] = (top + 1) // 2 if symmetric else np.rint(-low / step)
    q = np.rint(weight.T / scales.astype(np.float32)[g_idx]) + zeros[g_idx]  # [K, N]
    qzeros = to_words(zeros, bits)
    tensors = {
        "qweight": np.ascontiguousarray(to_words(np.clip(q, 0, top).T, bits).T),
        "qzeros": minus_one(qzeros, bits) if v1 else qzeros,
        "scales": scales,
        "g_idx": g_idx.astype(np.int32),
    }
    return {name: torch.from_numpy(array) for name, array in tensors.items()}


def save_gptq(
    source: Path,
    directory: Path,
    bits: int = 4,
    group_size: int = 32,
    symmetric: bool = False,
    act_order: bool = True,
    v1: bool = True,
    **more: Any,
) -> None:
    """Quantize the projections of a Hugging Face directory; `more` goes into its quantization_config."""
    rng = np.random.default_rng(0)
    orders: dict[str, Array] = {}  # the projections that share an input share its order
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if not stem.endswith("_proj") and not (more.get("lm_head") and stem == "lm_head"):
            tensors[name] = tensor
            continue
        columns = tensor.shape[1]
        shared = stem.rpartition(".")[0] + ("down" if "down" in stem else "o" if "o_proj" in stem else "")
        g_idx = np.arange(columns) // (columns if group_size == -1 else group_size)
        g_idx = orders.setdefault(shared, rng.permutation(g_idx) if act_order else g_idx)
        parts = quantize(tensor.float().numpy(), g_idx, bits, symmetric, v1)
        tensors.update({f"{stem}.{part}": value for part, value in parts.items()})
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "bits": bits,
        "group_size": group_size,
        "sym": symmetric,
        "desc_act": act_order,
        "quant_method": "gptq",
        "checkpoint_format": "gptq" if v1 else "gptq_v2",
        **more,
    }
    (directory / "config.json").write_text(json.dumps(config))


def dequantized(directory: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint in float32, by the format's formula alone."""
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    bits, offset = config["bits"], 1 if config["checkpoint_format"] == "gptq" else 0
    tensors, weights = load_file(directory / "model.safetensors"), {}
    shifts, mask = torch.arange(0, 32, bits), 2**bits - 1
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if kind == "qweight":
            qzeros, group = tensors[f"{stem}.qzeros"], tensors[f"{stem}.g_idx"].long()
            q = (tensor[:, None, :] >> shifts[None, :, None] & mask).reshape(-1, tensor.shape[1])
            zeros = (qzeros[:, :, None] >> shifts & mask).reshape(len(qzeros), -1) + offset
            weights[f"{stem}.weight"] = (tensors[f"{stem}.scales"].float()[group] * (q - zeros[group])).T
        elif kind not in ("qzeros", "scales", "g_idx"):
            weights[name] = tensor.float()
    return weights


def float_logits(directory: Path, ids: list[int]) -> npt.NDArray[np.float32]:
    """What transformers computes in float32 from the dequantized weights: `[len(ids), vocab]`."""
    config = AutoConfig.from_pretrained(directory)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.load_state_dict(dequantized(directory), strict=not config.tie_word_embeddings)
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = model(torch.tensor([ids])).logits[0].numpy()
    return logits
