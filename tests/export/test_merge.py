"""Merging: base + adapter in one set of weights is base and adapter."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from edgereason.export.inputs import open_adapter, open_base
from edgereason.export.merge import materialize, merge
from edgereason.prompts import ANSWER, GUIDANCE


def test_merged_logits_equal_those_of_the_unmerged_adapter(trio: dict[str, Path], tmp_path: Path) -> None:
    base, adapter = open_base(trio["base"]), open_adapter(trio["answer"], GUIDANCE)
    calls: list[tuple[int, int]] = []
    materialize(merge(base, adapter), tmp_path, lambda done, total: calls.append((done, total)))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(trio["base"], dtype=torch.float32)
        without = plain(ids).logits
        expected = PeftModel.from_pretrained(plain, trio["answer"])(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        found = merged(ids).logits
    assert merged.config.dtype == torch.float32
    assert (expected - without).abs().max() > 0.1  # the adapter does something
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert calls == [(done, 20) for done in range(1, 21)]


def test_the_adapter_brings_its_prompt(trio: dict[str, Path]) -> None:
    assert open_adapter(trio["answer"], GUIDANCE).prompt == ANSWER
