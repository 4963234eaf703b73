"""Make the micro models that `edgereason.engines.probe` decodes, and record the logits that they give.

    python tests/engines/make_probes.py [ENGINE ...]

It needs the extra [export] and a machine that is known to compute right; all engines are made where none is named.

One random Llama of 37,000 weights and a tokenizer of bytes, seeded, exported to every engine's 4-bit format. Before
anything is written, each engine's logits are held against transformers' on the same weights.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.numpy import load_file, save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from edgereason.engines import ENGINES
from edgereason.engines.probe import MICRO_MODELS, PROMPT, STEPS, decode
from edgereason.export.formats.onnx_writer import write_onnx
from edgereason.export.gguf import write_gguf

_VOCAB = 288  # 256 bytes, one merge, one special token, and rows to a multiple of 32, as AMX kernels want them
_LEAST_CORRELATION = 0.95


def make(engines: Sequence[str] = ENGINES, out: Path = MICRO_MODELS) -> None:
    """Write model.gguf, model.onnx, native/ and expected.safetensors into `out`."""
    os.environ["EDGEREASON_PROBE"] = "off"
    recorded = out / "expected.safetensors"
    expected = load_file(recorded) if recorded.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        reference = _write_source(source)
        for engine in engines:
            _WRITERS[engine](source, out)
            expected[engine] = decode(engine)
            correlation = np.corrcoef(expected[engine].ravel(), reference.ravel())[0, 1]
            print(f"{engine:9} correlation with transformers in full precision: {correlation:.4f}")
            if not correlation > _LEAST_CORRELATION:
                raise SystemExit(f"{engine} is too far from transformers: its logits are not recorded.")
    recorded.write_bytes(save(expected))


def _write_source(out: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Write the model as a Hugging Face directory; returns transformers' logits `[1 + len(STEPS), vocab]`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=257,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(out)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*alphabet, "he"])}
    tokenizer = Tokenizer(models.BPE(vocab, [("h", "e")]))  # llama.cpp wants at least one merge
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(out)
    ids = [*PROMPT, *STEPS]
    with torch.no_grad():
        logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = model(torch.tensor([ids])).logits[0].numpy()
    return logits[len(PROMPT) - 1 :]


def _write_native(source: Path, out: Path) -> None:
    from edgereason.export.formats.native_writer import write_native
    from edgereason.export.inputs.base_model import open_base
    from edgereason.export.inputs.merge import merge
    from edgereason.export.quantization.round_to_nearest import Rounding

    shutil.rmtree(out / "native", ignore_errors=True)
    (out / "native").mkdir()
    write_native(
        out / "native", json.loads((source / "config.json").read_text()), merge(open_base(source)), Rounding(4)
    )


def _write_llama_cpp(source: Path, out: Path) -> None:
    write_gguf(source, out / "model.gguf", "Q4_0", name="probe")


def _write_onnx(source: Path, out: Path) -> None:
    write_onnx(source, source, bits=4)
    onnx.save(onnx.load(source / "model.onnx"), out / "model.onnx")  # one file, with its weights inside


_WRITERS = {"native": _write_native, "llama.cpp": _write_llama_cpp, "onnx": _write_onnx}

if __name__ == "__main__":
    make(sys.argv[1:] or ENGINES)
