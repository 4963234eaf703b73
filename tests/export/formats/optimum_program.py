"""Runs optimum in its own environment: `MODEL IDS.json OUT.npy`, with model.onnx and config.json in MODEL."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from optimum.onnxruntime import ORTModelForCausalLM


def logits(model: str, ids: str, out: str) -> None:
    """What optimum computes, float32 `[T, vocab]`."""
    loaded = ORTModelForCausalLM.from_pretrained(model, file_name="model.onnx", use_io_binding=False)
    tokens = torch.tensor([json.loads(Path(ids).read_text())])
    np.save(out, loaded(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0].float().numpy())


if __name__ == "__main__":
    logits(*sys.argv[1:])
