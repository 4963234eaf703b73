"""Adapters as GGUF: what llama.cpp's converter writes, and the logits of PEFT in llama.cpp."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import save_family
from gguf_contents import convert, differences
from merged_model import random_ids, reference_logits, relative_error
from peft import LoraConfig, PeftModel, get_peft_model
from random_model import save_tokenizer
from transformers import AutoModelForCausalLM

from edgereason.checkpoints.llama_library import llama_library
from edgereason.checkpoints.lora import read_adapter
from edgereason.errors import ExportError
from edgereason.export.gguf import write_gguf, write_gguf_adapter
from edgereason.files import read_json

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2, "down_proj": 6}, "alpha_pattern": {"k_proj": 3}},
}


def save(directory: Path, family: str, **lora: Any) -> torch.nn.Module:
    """Save `base` and `adapter`; returns the base with the adapter beside it."""
    changes = {"sliding_window": None, "use_sliding_window": False, "query_pre_attn_scalar": 32}
    changes |= {} if family in ("llama", "phi3") else {"attention_bias": False}
    base = save_family(family, directory / "base", **changes)
    save_tokenizer(directory / "base")
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora}
    get_peft_model(base, LoraConfig(**settings, init_lora_weights=False)).save_pretrained(directory / "adapter")
    base = AutoModelForCausalLM.from_pretrained(directory / "base", dtype=torch.float32, attn_implementation="eager")
    return PeftModel.from_pretrained(base, directory / "adapter").eval()


def write(directory: Path) -> Path:
    out = directory / "adapter.gguf"
    write_gguf_adapter(read_json(directory / "base/config.json"), read_adapter(directory / "adapter"), out)
    return out


def llama_cpp_logits(model_file: Path, adapter_file: Path, ids: Sequence[int]) -> np.ndarray[Any, Any]:
    """Logits `[len(ids), vocab]` of a base with an adapter beside it."""
    llama = llama_library()
    model = llama.llama_model_load_from_file(os.fsencode(model_file), llama.llama_model_default_params())
    adapter = llama.llama_adapter_lora_init(model, os.fsencode(adapter_file))
    assert adapter
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama.llama_init_from_model(model, params)
    assert llama.llama_set_adapters_lora(context, (type(adapter) * 1)(adapter), 1, (ctypes.c_float * 1)(1.0)) == 0
    batch = llama.llama_batch_init(len(ids), 0, 1)
    for index, token in enumerate(ids):
        batch.token[index], batch.pos[index], batch.logits[index] = token, index, 1
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
    batch.n_tokens = len(ids)
    assert llama.llama_decode(context, batch) == 0
    size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    logits = np.ctypeslib.as_array(llama.llama_get_logits(context), (len(ids), size)).copy()
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return logits


@pytest.mark.conformance
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_a_plain_adapter_is_what_the_converter_writes(tmp_path: Path, family: str) -> None:
    save(tmp_path, family)
    (tmp_path / "adapter/README.md").unlink()  # a model card, which the converter copies keys from
    theirs, base = tmp_path / "theirs.gguf", str(tmp_path / "base")
    convert(tmp_path / "adapter", theirs, "--base", base, script="convert_lora_to_gguf.py")
    assert differences(write(tmp_path), theirs) == {}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_llama_cpp_computes_the_logits_of_base_and_unmerged_adapter(tmp_path: Path, family: str, variant: str) -> None:
    model = save(tmp_path, family, **VARIANTS[variant])
    write_gguf(tmp_path / "base", tmp_path / "base.gguf", "F16")
    ids = random_ids(60, 320)
    found = llama_cpp_logits(tmp_path / "base.gguf", write(tmp_path), ids)
    assert relative_error(found, reference_logits(model, ids)) < 1e-2


def test_an_activated_adapter_names_its_invocation(tmp_path: Path) -> None:
    save(tmp_path, "llama", alora_invocation_tokens=[5, 6, 7])
    write_gguf(tmp_path / "base", tmp_path / "base.gguf", "F16")
    llama = llama_library()
    model = llama.llama_model_load_from_file(os.fsencode(tmp_path / "base.gguf"), llama.llama_model_default_params())
    adapter = llama.llama_adapter_lora_init(model, os.fsencode(write(tmp_path)))
    count = llama.llama_adapter_get_alora_n_invocation_tokens(adapter)
    assert llama.llama_adapter_get_alora_invocation_tokens(adapter)[:count] == [5, 6, 7]
    llama.llama_model_free(model)


def test_what_llama_cpp_cannot_take_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "gemma2")
    adapter, config = read_adapter(tmp_path / "adapter"), read_json(tmp_path / "base/config.json")
    target, lora = next(iter(adapter.targets.items()))
    huge = replace(lora, a=np.full(lora.a.shape, 1e6, np.float32))
    for targets, message in (({"lm_head": lora}, "changes lm_head"), ({target: huge}, "too large for float16")):
        with pytest.raises(ExportError, match=message):
            write_gguf_adapter(config, replace(adapter, targets=targets), tmp_path / "adapter.gguf")
        assert not (tmp_path / "adapter.gguf").exists()
