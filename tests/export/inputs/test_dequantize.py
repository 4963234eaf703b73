"""Quantized bases: the weights that their formats' own formulas give, computed here value by value."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gptq_checkpoint import dequantized, save_gptq
from random_model import save_base, save_variant
from safetensors.torch import load_file, save_file

from edgereason.bundle import Bundle
from edgereason.errors import EdgeReasonWarning, ExportError
from edgereason.export import export
from edgereason.export.inputs.adapter import open_adapter
from edgereason.export.inputs.base_model import Base, open_base
from edgereason.export.inputs.materialize import materialize
from edgereason.export.inputs.merge import merge
from edgereason.text.prompts import ANSWER

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base") / "base"
    save_base(directory)
    return directory


def opened(directory: Path) -> Base:
    with pytest.warns(EdgeReasonWarning, match="Give the 16-bit model that it was made from instead"):
        return open_base(directory)


def save(directory: Path, source: Path, tensors: dict[str, torch.Tensor], **config: Any) -> None:
    """A checkpoint with other tensors and a quantization_config than the source's."""
    shutil.copytree(source, directory)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**values, "quantization_config": config}))


def projections(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A model's linear layers in fp32, and its other tensors."""
    tensors = load_file(source / "model.safetensors")
    linear = {name: tensor.float() for name, tensor in tensors.items() if "_proj" in name}
    return linear, {name: tensor for name, tensor in tensors.items() if name not in linear}


def assert_reads(base: Base, expected: dict[str, Array]) -> None:
    assert set(expected) == set(base.shapes)
    for name, array in expected.items():
        assert base.shapes[name] == array.shape
        np.testing.assert_allclose(base.read(name), array, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("options", [{}, {"act_order": False, "symmetric": True, "v1": False}, {"group_size": -1}])
def test_gptq(base: Path, tmp_path: Path, bits: int, options: dict[str, Any]) -> None:
    save_gptq(base, tmp_path / "gptq", bits, **options)
    assert_reads(opened(tmp_path / "gptq"), {name: t.numpy() for name, t in dequantized(tmp_path / "gptq").items()})


def awq_words(values: Array) -> torch.Tensor:
    """Eight outputs to a word, in AutoAWQ's order, with Python's own integers."""
    rows = [
        [
            sum(int(row[at + output]) << (4 * place) for place, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
            for at in range(0, len(row), 8)
        ]
        for row in values
    ]
    return torch.from_numpy(np.array(rows, np.uint32).view(np.int32))


def test_awq(base: Path, tmp_path: Path) -> None:
    linear, tensors = projections(base)
    rng = np.random.default_rng(0)
    expected = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    for name, weight in linear.items():
        rows, columns = weight.shape
        q, zeros = rng.integers(0, 16, (columns, rows)), rng.integers(0, 16, (columns // 32, rows))
        scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
        stem = name.removesuffix(".weight")
        tensors[f"{stem}.qweight"], tensors[f"{stem}.qzeros"] = awq_words(q), awq_words(zeros)
        tensors[f"{stem}.scales"] = torch.from_numpy(scales)
        group = np.arange(columns) // 32
        expected[name] = (scales.astype(np.float32)[group] * (q - zeros[group])).T
    save(tmp_path / "awq", base, tensors, quant_method="awq", bits=4, group_size=32, version="gemm", zero_point=True)
    assert_reads(opened(tmp_path / "awq"), expected)


@pytest.mark.parametrize("double", [False, True])
def test_bitsandbytes_4_bits(base: Path, tmp_path: Path, double: bool) -> None:
    linear, tensors = projections(base)
    rng = np.random.default_rng(0)
    expected = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    levels, nested_levels = (np.sort(rng.uniform(-1, 1, count)).astype(np.float32) for count in (16, 256))
    for name, weight in linear.items():
        count = weight.numel()
        values, absmax = rng.integers(0, 16, count), rng.uniform(0.1, 1, -(-count // 64)).astype(np.float32)
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
        parts: dict[str, Array] = {"absmax": absmax, "quant_map": levels}
        if double:
            codes = rng.integers(0, 256, len(absmax)).astype(np.uint8)
            nested = rng.uniform(0.1, 1, -(-len(absmax) // 32)).astype(np.float32)
            state.update(nested_blocksize=32, nested_dtype="float32", nested_offset=0.25)
            parts.update(absmax=codes, nested_absmax=nested, nested_quant_map=nested_levels)
            absmax = np.array([nested_levels[code] * nested[i // 32] + 0.25 for i, code in enumerate(codes)])
        parts["quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
        tensors[name] = torch.tensor([[16 * values[i] + values[i + 1]] for i in range(0, count, 2)], dtype=torch.uint8)
        tensors.update({f"{name}.{part}": torch.from_numpy(array).clone() for part, array in parts.items()})
        expected[name] = np.array([levels[v] * absmax[i // 64] for i, v in enumerate(values)]).reshape(weight.shape)
    save(tmp_path / "nf4", base, tensors, quant_method="bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4")
    assert_reads(opened(tmp_path / "nf4"), expected)


def test_bitsandbytes_8_bits(base: Path, tmp_path: Path) -> None:
    linear, tensors = projections(base)
    expected = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    for name, weight in linear.items():
        largest = weight.abs().amax(dim=1)
        tensors[name] = (weight / largest[:, None] * 127).round().to(torch.int8)
        tensors[f"{name.removesuffix('weight')}SCB"] = largest
        tensors[f"{name.removesuffix('weight')}weight_format"] = torch.tensor(0, dtype=torch.uint8)
        expected[name] = (tensors[name].float() / 127 * largest[:, None]).numpy()
    save(tmp_path / "int8", base, tensors, quant_method="bitsandbytes", load_in_8bit=True)
    assert_reads(opened(tmp_path / "int8"), expected)


def test_an_adapter_is_merged_into_the_dequantized_weights(base: Path, tmp_path: Path) -> None:
    save_gptq(base, tmp_path / "gptq")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path / "gptq")
    save_variant(base, tmp_path / "adapter")
    merged = merge(opened(tmp_path / "gptq"), open_adapter(tmp_path / "adapter", ANSWER))
    assert "quantization_config" not in merged.config
    name = "model.layers.0.self_attn.q_proj"
    factors = load_file(tmp_path / "adapter/adapter_model.safetensors")
    low, high = (factors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    expected = dequantized(tmp_path / "gptq")[f"{name}.weight"] + 2 * high @ low
    torch.testing.assert_close(torch.from_numpy(merged[f"{name}.weight"]), expected, rtol=1e-5, atol=1e-6)
    materialize(merged, tmp_path / "merged")
    torch.testing.assert_close(load_file(tmp_path / "merged/model.safetensors")[f"{name}.weight"], expected)
    with pytest.warns(EdgeReasonWarning, match="quantized with gptq"):
        export(tmp_path / "gptq", tmp_path / "adapter", tmp_path / "adapter", tmp_path / "out", verify=False)
    assert Bundle.open(tmp_path / "out").provenance["answer"]["base"]["quantized"] == "gptq"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "fp8"}, "weights quantized with fp8 cannot be read"),
        ({"quant_method": "awq", "version": "gemv"}, "only with 4 bits in the version gemm"),
    ],
)
def test_other_ways_of_quantizing_are_named(base: Path, tmp_path: Path, config: dict[str, Any], message: str) -> None:
    save(tmp_path / "base", base, load_file(base / "model.safetensors"), **config)
    with pytest.raises(ExportError, match=rf"{message}(.|\n)*16-bit model"):
        open_base(tmp_path / "base")


def test_tensors_that_do_not_fit_each_other_are_named(base: Path, tmp_path: Path) -> None:
    save_gptq(base, tmp_path / "gptq")
    file = tmp_path / "gptq/model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.self_attn.q_proj"
    tensors[f"{name}.scales"] = tensors[f"{name}.scales"][:1].clone()
    save_file(tensors, file)
    with pytest.raises(ExportError, match=r"q_proj\.weight cannot be dequantized"):
        opened(tmp_path / "gptq").read(f"{name}.weight")


@pytest.mark.conformance
@pytest.mark.parametrize("kind", ["nf4", "nf4 twice", "fp4", "int8"])
def test_what_bitsandbytes_has_written_is_what_it_reads(base: Path, tmp_path: Path, kind: str) -> None:
    """transformers quantizes and saves a base with bitsandbytes, and tells the weights that it computes with."""
    site = os.environ.get("EDGEREASON_BITSANDBYTES")
    if not site:
        pytest.skip("EDGEREASON_BITSANDBYTES is not set")
    script = """
import sys, torch, transformers, bitsandbytes
from safetensors.torch import save_file
base, out, kind = sys.argv[1:]
four = {"bnb_4bit_quant_type": kind[:3], "bnb_4bit_use_double_quant": "twice" in kind}
options = {"load_in_8bit": True} if kind == "int8" else {"load_in_4bit": True, **four}
config = transformers.BitsAndBytesConfig(**options)
model = transformers.AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32)
model.save_pretrained(out)
weights = {}
for name, module in model.named_modules():
    if isinstance(module, bitsandbytes.nn.Linear4bit):
        weights[name] = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
        weights[name] = module.weight.data.float() * module.weight.SCB.float()[:, None] / 127
save_file({name: weight.contiguous() for name, weight in weights.items()}, out + "/expected")
"""
    command = [sys.executable, "-c", script, str(base), str(tmp_path / "out"), kind]
    environment = {**os.environ, "PYTHONPATH": site, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected, found = load_file(tmp_path / "out/expected"), opened(tmp_path / "out")
    assert len(expected) == 14
    for name, weight in expected.items():
        np.testing.assert_allclose(found.read(f"{name}.weight"), weight.numpy(), rtol=1e-6, atol=1e-7, err_msg=name)
