"""Every family's tokenizer and template as they are published: base and adapters export, and the proof holds."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save_family
from peft import LoraConfig, get_peft_model
from published import PUBLISHED
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgereason.bundle import Bundle
from edgereason.errors import EdgeReasonWarning, ExportError
from edgereason.export import export
from edgereason.pipeline.reasoner import load
from edgereason.text.prompts import GUIDANCE
from edgereason.text.tokenizer import Tokenizer

ANYTHING = tuple(
    f"{rung}.{measure}"
    for rung in ("merged", "stored", "quantized", "engine")
    for measure in ("greedy=0", "top1=0.5", "kl=0.5", "kl_p99=5", "step_kl=0.5", "perplexity=2")
)
"""Weights drawn at random say nothing of how much is lost; tokenizer, template and stop tokens are exact."""


def save_base(name: str, directory: Path, **changes: Any) -> None:
    published = PUBLISHED[name]
    tokenizer = published.save(directory)
    end = tokenizer.token_to_id(published.config["eos_token"])
    family = published.family
    layers = {} if family in ("smollm3", "gemma3", "gemma2", "qwen2") else {"num_hidden_layers": 1}
    save_family(
        family,
        directory,
        vocab_size=max(320, tokenizer.get_vocab_size()),
        eos_token_id=end,
        bos_token_id=None,
        **layers,
        **changes,
    )
    published.save(directory)


def save_adapter(base: Path, directory: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=2, target_modules=["q_proj", "qkv_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    get_peft_model(model, config).save_pretrained(directory)


def save_pair(name: str, directory: Path, **changes: Any) -> list[Path]:
    save_base(name, directory / "base", **changes)
    for seed, stage in enumerate(("guidance", "answer")):
        save_adapter(directory / "base", directory / stage, seed)
    return [directory / each for each in ("base", "guidance", "answer")]


@pytest.fixture(scope="module")
def few_questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.txt"
    path.write_text("She sells 16 eggs. How many are left?\nIs 91 prime?\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_base_and_adapters_as_published_export(name: str, tmp_path: Path, few_questions: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgeReasonWarning)
        bundle = export(
            *save_pair(name, tmp_path), tmp_path / "out", bits=16, prompts=few_questions, thresholds=ANYTHING
        )
    assert bundle.fidelity["passed"] is True
    end = Tokenizer(tmp_path / "base").token_id(PUBLISHED[name].turn_end)
    for stage in bundle.stages.values():
        assert end in stage.stop_ids
    asked = "<|im_start|>system</s><end_of_turn>"
    with load(tmp_path / "out") as reasoner:
        result = reasoner.ask(asked, max_new_tokens=4)
    assert 0 < result.timings.answer.new_tokens <= 4


def test_where_autotokenizer_differs_is_said_once_and_the_file_is_followed(tmp_path: Path, few_questions: Path) -> None:
    pair = save_pair("SmolLM2", tmp_path)
    text = "She sells 16 eggs."
    ids = Tokenizer(tmp_path / "base").encode(text)
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "base")(text)["input_ids"] != ids
    )  # digits are split in the file alone
    with pytest.warns(EdgeReasonWarning, match="AutoTokenizer has other ids") as said:
        export(*pair, tmp_path / "out", bits=16, prompts=few_questions, thresholds=ANYTHING)
    assert sum("AutoTokenizer" in str(each.message) for each in said) == 1
    assert Tokenizer(tmp_path / "out/answer").encode(text) == ids


def test_a_template_without_a_system_turn_gets_the_text_before_the_question(tmp_path: Path) -> None:
    base, guidance, answer = save_pair("Gemma 2", tmp_path)
    with pytest.warns(EdgeReasonWarning, match="no system turn"):
        bundle = export(base, guidance, answer, tmp_path / "out", bits=16, verify=False)
    text = Tokenizer(tmp_path / "out/guidance").render(bundle.stages["guidance"].prompt.messages("How many?"))
    assert f"<start_of_turn>user\n{GUIDANCE.system}\n\nHow many?<end_of_turn>" in text


def test_files_beside_an_adapter_are_used_or_named(tmp_path: Path) -> None:
    base, guidance, answer = save_pair("Qwen 2.5 base", tmp_path)
    (guidance / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.content }}<|im_end|>{% endfor %}")
    config = json.loads((base / "tokenizer_config.json").read_text())
    (answer / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "A{{ messages[-1].content }}{{ eos_token }}"})
    )
    with pytest.warns(EdgeReasonWarning, match=r"has chat_template\.jinja and no tokenizer\.json"):
        bundle = export(base, guidance, answer, tmp_path / "out", bits=16, verify=False)
    for stage, expected in {"guidance": "[?<|im_end|>", "answer": f"A?{config['eos_token']}"}.items():
        assert Tokenizer(tmp_path / "out" / stage).render([{"role": "user", "content": "?"}]) == expected
    assert {stage: len(each.stop_ids) for stage, each in bundle.stages.items()} == {"guidance": 2, "answer": 1}

    tokenizer = Tokenizer(base)
    tokenizer.save(answer / "tokenizer.json")
    (answer / "tokenizer_config.json").unlink()
    with pytest.warns(EdgeReasonWarning, match=r"has tokenizer\.json and no tokenizer_config\.json"):
        export(base, guidance, answer, tmp_path / "other", bits=16, verify=False)
    assert (
        Tokenizer(tmp_path / "other/answer").render([{"role": "user", "content": "?"}]).startswith("<|im_start|>user")
    )

    (answer / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[-1].content }}{{ eos_token }}")
    config["bos_token"] = "<|im_start|>"
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.warns(EdgeReasonWarning, match=r"and no tokenizer_config\.json"):  # the special tokens are the base's
        export(base, guidance, answer, tmp_path / "second", bits=16, verify=False)
    rendered = Tokenizer(tmp_path / "second/answer").render([{"role": "user", "content": "?"}])
    assert rendered == "<|im_start|>?<|endoftext|>"

    (answer / "tokenizer.json").unlink()
    (answer / "added_tokens.json").write_text("{}")
    with pytest.raises(ExportError, match=r"answer has added_tokens\.json, and no tokenizer\.json"):
        export(base, guidance, answer, tmp_path / "third", bits=16, verify=False)


def test_a_turns_end_is_in_every_file_that_names_end_tokens(tmp_path: Path, few_questions: Path) -> None:
    pair = save_pair(
        "Qwen 2.5 base", tmp_path, use_sliding_window=False, rope_parameters={"rope_theta": 1e4, "rope_type": "default"}
    )
    text_end, turn_end = (Tokenizer(tmp_path / "base").token_id(text) for text in ("<|endoftext|>", "<|im_end|>"))
    (tmp_path / "base/generation_config.json").write_text(f'{{"eos_token_id": {text_end}, "max_new_tokens": 9}}')
    ends = {text_end, turn_end}
    options: dict[str, dict[str, Any]] = {
        "native": {},
        "shared": {"layout": "shared"},
        "gptq": {"format": "gptq", "bits": 8, "method": "rtn", "group_size": 32},
        "gguf": {"format": "gguf", "ollama": True},
        "onnx": {"format": "onnx"},
    }
    for name, chosen in options.items():
        out = tmp_path / name
        export(*pair, out, **{"bits": 16, **chosen}, prompts=few_questions, thresholds=ANYTHING)
        bundle = Bundle.open(out)
        assert bundle.stages["answer"].stop_ids == ends
        generation = json.loads((out / "answer/generation_config.json").read_text())
        assert generation["eos_token_id"] == [text_end, turn_end]
        assert generation["max_new_tokens"] == 9
    modelfile = (tmp_path / "gguf/answer/Modelfile").read_text()
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert set(json.loads((tmp_path / "onnx/answer/genai_config.json").read_text())["model"]["eos_token_id"]) == ends
    assert set(json.loads((tmp_path / "gptq/answer/config.json").read_text())["eos_token_id"]) == ends
