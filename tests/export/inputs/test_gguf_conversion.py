"""GGUF files as bases: what transformers computes from the directory is what the file's model computes."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from families import SIZES
from gguf_models import MODELS, save_gguf_model
from merged_model import random_ids, reference_logits, relative_error
from pieces import save_pieces
from published import PUBLISHED
from random_model import save_adapter, save_base
from shared_data import shared
from transformers import AutoConfig, AutoModelForCausalLM

from edgereason.errors import EdgeReasonWarning, ExportError
from edgereason.export import export
from edgereason.export.gguf import write_gguf
from edgereason.export.gguf.ggml_types import GGML_FILE_TYPES
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.gguf.gguf_conversion import convert_gguf
from edgereason.export.inputs.gguf.gguf_metadata import GgufMetadata
from edgereason.export.inputs.gguf.gguf_vocabulary import write_tokenizer
from edgereason.text.prompts import ANSWER, GUIDANCE
from edgereason.text.tokenizer import Tokenizer

IDS = random_ids(90, SIZES["vocab_size"])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def loaded(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore::edgereason.errors.EdgeReasonWarning")
def test_every_family_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    model = save_gguf_model(name, tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "F16")
    convert_gguf(tmp_path / "model.gguf", tmp_path / "back")
    back = loaded(tmp_path / "back")
    assert relative_error(reference_logits(back, IDS), reference_logits(model, IDS)) < 2e-3  # weights have 16 bits
    for field in (
        "tie_word_embeddings",
        "vocab_size",
        "rms_norm_eps",
        "num_key_value_heads",
        "max_position_embeddings",
    ):
        assert getattr(back.config, field) == getattr(model.config, field), field
    text = "She sells 16 eggs; é 猫 ✓\n\n  two  spaces <|im_end|>"
    assert Tokenizer(tmp_path / "back").encode(text) == Tokenizer(tmp_path / "model").encode(text)


@pytest.mark.parametrize("gguf_type", GGML_FILE_TYPES)
def test_every_type_is_dequantized_as_the_gguf_package_does(gguf_type: str, tmp_path: Path) -> None:
    save_base(tmp_path / "model", hidden_size=256, intermediate_size=256)
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", gguf_type)
    convert_gguf(tmp_path / "model.gguf", tmp_path / "back")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    state = loaded(tmp_path / "back").state_dict()
    for name, source in {"blk.1.ffn_down": "model.layers.1.mlp.down_proj", "token_embd": "model.embed_tokens"}.items():
        tensor = stored[f"{name}.weight"]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_allclose(state[f"{source}.weight"].numpy(), expected, rtol=6e-4, atol=1e-7)


@pytest.mark.parametrize("family", ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"])
def test_real_vocabularies_give_llama_cpps_ids(family: str, tmp_path: Path) -> None:
    file = shared(f"data/tokenizers/ggml-vocab-{family}.gguf")
    write_tokenizer(GgufMetadata.open(file), tmp_path)
    tokenizer = Tokenizer(tmp_path)
    strings = Path(f"{file}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = Path(f"{file}.out").read_text(encoding="utf-8").splitlines()
    for string, line in zip(strings, expected, strict=False):
        assert tokenizer.encode(string) == [int(token) for token in line.split()], repr(string)


def test_sentence_pieces_come_back_from_scores(tmp_path: Path) -> None:
    for prefix in (False, True):
        directory = tmp_path / str(prefix)
        save_base(directory, vocab_size=SIZES["vocab_size"])
        tokenizer = save_pieces(directory, prefix)
        write_gguf(directory, tmp_path / "model.gguf", "F16")
        convert_gguf(tmp_path / "model.gguf", tmp_path / "back", replace=True)
        for text in ("Tom has 12 apples and buys 30 more.", "", " ", "été 猫 <|user|>\n x", "How  many"):
            assert Tokenizer(tmp_path / "back").encode(text) == tokenizer.encode(text, add_special_tokens=False).ids
        shutil.rmtree(tmp_path / "back")


@pytest.mark.filterwarnings("ignore::edgereason.errors.EdgeReasonWarning")
@pytest.mark.parametrize("name", ["Phi3 Mini", "Phi 3 Mini 4k Instruct", "other"])
def test_the_space_behind_phi3s_control_tokens_belongs_to_them(name: str, tmp_path: Path) -> None:
    save_gguf_model("phi3 plain, tied", tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "F16", name=name)
    convert_gguf(tmp_path / "model.gguf", tmp_path / "back")
    added = Tokenizer(tmp_path / "back")._fast.get_added_tokens_decoder().values()
    assert {token.content: token.rstrip for token in added} == {
        "<unk>": False, "<s>": False, "</s>": False, "<|user|>": True, "<|end|>": True,
    }  # fmt: skip


def test_a_head_of_its_own_stays(tmp_path: Path) -> None:
    save_base(tmp_path / "model", tie_word_embeddings=False)
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "F16")
    convert_gguf(tmp_path / "model.gguf", tmp_path / "back")
    back = loaded(tmp_path / "back")
    assert not back.config.tie_word_embeddings
    assert not torch.equal(back.lm_head.weight, back.model.embed_tokens.weight)


def test_a_gguf_file_is_a_base_for_an_export(tmp_path: Path) -> None:
    save_base(tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "some.gguf", "Q8_0")
    with pytest.warns(EdgeReasonWarning, match="is a GGUF file"):
        base = open_base(tmp_path / "some.gguf")
    assert base.name == "some"
    for seed, (stage, prompt) in enumerate({"guidance": GUIDANCE, "answer": ANSWER}.items()):
        save_adapter(base.path, tmp_path / stage, prompt, seed)
    (tmp_path / "in a directory").mkdir()
    shutil.copy(tmp_path / "some.gguf", tmp_path / "in a directory")
    for source in (tmp_path / "some.gguf", tmp_path / "in a directory"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EdgeReasonWarning)
            bundle = export(
                source, tmp_path / "guidance", tmp_path / "answer", tmp_path / f"{source.stem}.bundle", bits=16
            )
        assert bundle.fidelity["passed"] is True
    assert (
        len([path for path in (tmp_path / "cache/edgereason/gguf").iterdir() if path.is_dir()]) == 2
    )  # made once for each file


@pytest.mark.filterwarnings("ignore::edgereason.errors.EdgeReasonWarning")
def test_a_gguf_file_that_is_read_is_not_replaced(tmp_path: Path) -> None:
    save_base(tmp_path / "model")
    for seed, (stage, prompt) in enumerate({"guidance": GUIDANCE, "answer": ANSWER}.items()):
        save_adapter(tmp_path / "model", tmp_path / stage, prompt, seed)
    pair, out = (tmp_path / "guidance", tmp_path / "answer"), tmp_path / "out"
    export(tmp_path / "model", *pair, out, format="gguf", bits=16, verify=False)
    with pytest.raises(ExportError, match="holds an input of this export"):
        export(out / "guidance/model.gguf", *pair, out, bits=16, verify=False, replace=True)
    assert (out / "guidance/model.gguf").is_file()


def changed(path: Path, key: str, value: Any) -> Path:
    """A copy of a file with another string for a key."""
    reader = gguf.GGUFReader(path)
    architecture = str(value) if key == "general.architecture" else "llama"
    out = path.with_name(f"changed-{path.name}")
    writer = gguf.GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if name == key and value is None:
            continue
        contents = value if name == key else field.contents()
        add = {str: writer.add_string, bool: writer.add_bool, float: writer.add_float32, int: writer.add_uint32}
        (writer.add_array if isinstance(contents, list) else add[type(contents)])(
            name.replace("llama.", f"{architecture}."), contents
        )
    if key not in reader.fields:
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("general.architecture", "mamba", "architecture 'mamba', which is not supported"),
        ("tokenizer.ggml.pre", "viking", "the way 'viking'"),
        ("tokenizer.ggml.model", "bert", "tokenizer of the kind 'bert'"),
        ("llama.block_count", None, "lacks llama.block_count|damaged|block_count"),
        ("tokenizer.ggml.tokens", None, "it has no tokens"),
        ("llama.embedding_length", 32, "has not the shape"),
        ("llama.feed_forward_length", [128, 128], "where one number is supported"),
        ("llama.rope.scaling.type", "longrope", "RoPE scaling 'longrope'"),
        ("llama.expert_count", 8, "mixture of experts"),
        ("tokenizer.ggml.merges", ["a ÿÿ"], "which are no tokens"),
        ("tokenizer.ggml.token_type", [1, 1], "tokens without a type"),
    ],
)
def test_what_is_not_supported_is_a_sentence(key: str, value: Any, words: str, tmp_path: Path) -> None:
    save_base(tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "F16")
    with pytest.raises(ExportError, match=words):
        convert_gguf(changed(tmp_path / "model.gguf", key, value), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    save_base(tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "F16")
    whole = (tmp_path / "model.gguf").read_bytes()
    for size in (0, 10, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ExportError):
            convert_gguf(tmp_path / "cut.gguf", tmp_path / "out")
    with pytest.raises(ExportError, match="does not exist"):
        convert_gguf(tmp_path / "none.gguf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))] == []


def test_published_templates_and_end_tokens_come_along(tmp_path: Path) -> None:
    save_base(tmp_path / "model")
    published = PUBLISHED["Qwen 2.5 base"]
    published.save(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["eos_token_id"] = Tokenizer(tmp_path / "model").end_id
    (tmp_path / "model/generation_config.json").unlink()
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "F16")
    convert_gguf(tmp_path / "model.gguf", tmp_path / "back")
    ours, theirs = Tokenizer(tmp_path / "back"), Tokenizer(tmp_path / "model")
    turns = GUIDANCE.messages("How many?")
    assert ours.render(turns) == theirs.render(turns)
    assert ours.stop_ids() == theirs.stop_ids()
    assert AutoConfig.from_pretrained(tmp_path / "back").model_type == "llama"
