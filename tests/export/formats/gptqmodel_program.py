"""Runs GPTQModel in its own environment: `logits MODEL IDS.json OUT.npy`, `transformers MODEL IDS.json OUT.npy`, or
`quantize MODEL TEXT.json OUT`.

TEXT.json holds `{"sequences": [[id, ...], ...], "group_size": 128}`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.cpu_count = lambda: 4  # it divides by a share of them, which is zero where there are two

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig  # type: ignore[import-not-found]  # noqa: E402
from transformers import AutoModelForCausalLM, GPTQConfig  # noqa: E402


def logits(model: str, ids: str, out: str) -> None:
    """What GPTQModel computes, float32 `[T, vocab]`."""
    loaded = GPTQModel.load(model, device="cpu", backend=BACKEND.TORCH)
    with torch.no_grad():
        found = loaded.model(torch.tensor([json.loads(Path(ids).read_text())])).logits[0]
    np.save(out, found.float().numpy())


def through_transformers(model: str, ids: str, out: str) -> None:
    """What transformers computes, float32 `[T, vocab]`, by the kernel that GPTQModel need not compile first."""
    settings = GPTQConfig(bits=4, backend="torch")  # of these it takes the backend alone, the rest from the checkpoint
    loaded = AutoModelForCausalLM.from_pretrained(
        model, device_map="cpu", dtype=torch.float32, quantization_config=settings
    )
    with torch.no_grad():
        np.save(out, loaded(torch.tensor([json.loads(Path(ids).read_text())])).logits[0].float().numpy())


def quantize(model: str, text: str, out: str) -> None:
    """A checkpoint with its own defaults for everything but bits and group size."""
    values = json.loads(Path(text).read_text())
    loaded = GPTQModel.load(model, QuantizeConfig(bits=4, group_size=values["group_size"]), device="cpu")
    sequences = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in values["sequences"]]
    loaded.quantize(sequences, batch_size=1, backend=BACKEND.TORCH)
    loaded.save(out)


if __name__ == "__main__":
    {"logits": logits, "transformers": through_transformers, "quantize": quantize}[sys.argv[1]](*sys.argv[2:])
