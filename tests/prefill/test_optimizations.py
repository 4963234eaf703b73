"""The optimizations that make two stages cost less than two models: none of them changes what is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from checkpointed_state import EVERY, CheckpointedState
from peft import LoraConfig, get_peft_model
from places import HELD_OUT, WORD_PROBLEMS
from transformers import LlamaForCausalLM

from edgereason import Optimizations, Reasoner, Result, UsageError, load, load_model
from edgereason.bundle import BASE, STAGES
from edgereason.engines.native import NativeEngine
from edgereason.export import export
from edgereason.text.prompts import Prompt

# The random models' logits lie close together: which rows are computed together must not matter.
pytestmark = pytest.mark.usefixtures("rows_as_if_alone")

NONE = Optimizations.without(["all"])
OPTIMIZATIONS = [field.name for field in fields(Optimizations)]
QUESTIONS = [json.loads(line)["question"] for line in HELD_OUT.read_text().splitlines()[:100]]
FEW = QUESTIONS[:15]


def texts(reasoner: Reasoner, questions: list[str], **arguments: object) -> list[tuple[str, str]]:
    results = [reasoner.ask(question, **arguments) for question in questions]  # type: ignore[arg-type]
    return [(result.guidance, result.answer) for result in results]


@pytest.fixture(scope="module", params=["merged", "shared"])
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("example") / request.param
    export(
        WORD_PROBLEMS / "base",
        WORD_PROBLEMS / "guidance",
        WORD_PROBLEMS / "answer",
        out,
        layout=request.param,
        verify=False,
    )
    return out


@pytest.fixture(scope="module")
def plain(example: Path) -> list[tuple[str, str]]:
    """What the example writes without any optimization."""
    with load(example, optimizations=NONE) as reasoner:
        results = [outcome.result for outcome in reasoner.batch(QUESTIONS)]
    return [(result.guidance, result.answer) for result in results if result]


def test_all_together_write_the_same(example, plain):
    with load(example) as reasoner:
        assert texts(reasoner, QUESTIONS) == plain


@pytest.mark.parametrize("name", OPTIMIZATIONS)
def test_each_alone_writes_the_same(example, plain, name):
    with load(example, optimizations=replace(NONE, **{name: True})) as reasoner:
        assert texts(reasoner, FEW) == plain[: len(FEW)]


def test_names_switch_optimizations_off():
    assert Optimizations.without([]) == Optimizations()
    assert Optimizations.without(["overlapped-prefill"]) == Optimizations(overlapped_prefill=False)
    assert not any(getattr(NONE, name) for name in OPTIMIZATIONS)
    with pytest.raises(UsageError, match="no optimization 'haste'"):
        Optimizations.without(["haste"])


# ---- what is not computed twice --------------------------------------------------------------------------------------


class Counted:
    """Watches an engine: how many rows of how many sequences each of its forward passes computes."""

    def __init__(self, engine: NativeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[dict[int, int]] = []
        layers = engine._layers

        def counting(ids, rows, rotary):
            self.passes.append({"rows": len(ids), "sequences": len(rows._segments)})
            return layers(ids, rows, rotary)

        monkeypatch.setattr(engine, "_layers", counting)

    @property
    def rows(self) -> int:
        return sum(each["rows"] for each in self.passes)


def test_a_repeated_question_computes_the_last_token_of_its_prompts_only(shared_bundle, monkeypatch):
    with load(shared_bundle, optimizations=replace(NONE, prefix_cache=True)) as reasoner:
        first = reasoner.ask("How many apples?", max_new_tokens=6)
        counted = Counted(reasoner.models["answer"].engine, monkeypatch)
        second = reasoner.ask("How many apples?", max_new_tokens=6)
    assert (first.guidance, first.answer) == (second.guidance, second.answer)
    written = second.timings.guidance.new_tokens + second.timings.answer.new_tokens
    assert counted.rows == written
    for stage in (second.timings.guidance, second.timings.answer):
        assert stage.cached_tokens == stage.prompt_tokens - 1


def test_an_extended_question_computes_what_is_new(shared_bundle):
    with load(shared_bundle, optimizations=replace(NONE, prefix_cache=True)) as reasoner:
        text = "Tom has 12 apples. " * 4
        reasoner.ask(text, max_new_tokens=4)
        longer = reasoner.ask(text + "He eats one of them.", max_new_tokens=4)
        model = reasoner.models["guidance"]
        tokens = len(model.tokenizer.encode(text))
    assert longer.timings.guidance.cached_tokens >= tokens
    with load(shared_bundle, optimizations=NONE) as reasoner:
        fresh = reasoner.ask(text + "He eats one of them.", max_new_tokens=4)
    assert (longer.guidance, longer.answer) == (fresh.guidance, fresh.answer)


def test_the_answer_model_has_read_the_guidance_when_it_ends(example, monkeypatch):
    with load(example, optimizations=replace(NONE, overlapped_prefill=True)) as reasoner:
        counted = Counted(reasoner.models["answer"].engine, monkeypatch)
        for question in FEW:
            result = reasoner.ask(question)
            answer = result.timings.answer
            unread = answer.prompt_tokens - answer.cached_tokens
            if reasoner.bundle.shared:
                # What the template puts behind the guidance, the tokens that are held back, and some not read yet.
                assert unread <= 17, question
                assert 0 < result.timings.handover_s < result.timings.total_s
            else:
                assert answer.cached_tokens == 0
    both = [each for each in counted.passes if each["sequences"] == 2 and each["rows"] <= 16]
    assert len(both) > 2 * len(FEW) if reasoner.bundle.shared else not both


@pytest.mark.parametrize("optimizations", [NONE, Optimizations()], ids=["none", "all"])
def test_the_two_stages_of_merged_models_never_share_keys(native_bundle, optimizations):
    """Their prompts begin with the same tokens, but each has a model of its own."""
    with load(native_bundle, optimizations=optimizations) as reasoner:
        result = reasoner.ask("How many apples?", max_new_tokens=10)
        for stage, text, guidance in (("guidance", result.guidance, None), ("answer", result.answer, result.guidance)):
            assert text == alone(reasoner, stage, "How many apples?", guidance)


def alone(reasoner: Reasoner, stage: str, question: str, guidance: str | None) -> str:
    """The witness: a stage's text from a single model that knows nothing of the other one."""
    with load_model(reasoner.bundle.path / stage) as model:
        messages = reasoner.bundle.stages[stage].prompt.messages(question, guidance)
        ids = model.tokenizer.encode(model.tokenizer.render(messages))
        stream = model.tokenizer.stream()
        stops = reasoner.bundle.stages[stage].stop_ids
        return "".join(stream.push(token) for token in model.generate(ids, 10, stop_ids=stops)).strip()


@pytest.mark.parametrize("names", [[], ["speculation"], ["prefix-cache"]])
def test_a_guidance_that_is_tokenized_otherwise_than_it_was_written_does_no_harm(shared_bundle, names):
    """A random model writes ids that no tokenizer would: what was read along has to be taken back."""
    with load(shared_bundle, optimizations=Optimizations.without(names)) as reasoner:
        for seed in range(6):
            result = reasoner.ask("How many?", max_new_tokens=10, temperature=0.9, seed=seed)
            plain = ask_without(shared_bundle, "How many?", seed)
            assert (result.guidance, result.answer) == (plain.guidance, plain.answer), seed


def ask_without(bundle: Path, question: str, seed: int) -> Result:
    with load(bundle, optimizations=NONE) as reasoner:
        return reasoner.ask(question, max_new_tokens=10, temperature=0.9, seed=seed)


def test_a_template_that_changes_the_guidance_is_read_when_it_is_whole(shared_bundle, tmp_path):
    copy = Path(shutil.copytree(shared_bundle, tmp_path / "copy", ignore=shutil.ignore_patterns("cache")))
    config = json.loads((copy / "answer/tokenizer_config.json").read_text())
    config["chat_template"] = config["chat_template"].replace("message.content", "(message.content | upper)")
    (copy / "answer/tokenizer_config.json").write_text(json.dumps(config))
    manifest = json.loads((copy / "bundle.json").read_text())
    content = (copy / "answer/tokenizer_config.json").read_bytes()
    manifest["files"]["answer/tokenizer_config.json"] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    (copy / "bundle.json").write_text(json.dumps(manifest))
    with load(copy) as all_on, load(copy, optimizations=NONE) as none:
        assert texts(all_on, ["How many?"], max_new_tokens=8) == texts(none, ["How many?"], max_new_tokens=8)


# ---- activated adapters ----------------------------------------------------------------------------------------------

ENDS = {"guidance": "\nPlan:", "answer": "\nAnswer:"}


@pytest.fixture(scope="module")
def activated(trio: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Activated adapters whose prompts share the question."""
    root = tmp_path_factory.mktemp("activated")
    with load_model(trio["base"]) as model:
        invocations = {stage: model.tokenizer.encode(text) for stage, text in ENDS.items()}
    for seed, stage in enumerate(STAGES):
        torch.manual_seed(seed)
        model = LlamaForCausalLM.from_pretrained(trio["base"], dtype=torch.float32)
        config = LoraConfig(
            r=4,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            init_lora_weights=False,
            alora_invocation_tokens=invocations[stage],
        )
        get_peft_model(model, config).save_pretrained(root / stage)
        guidance = "\n{guidance}" if stage == "answer" else ""
        prompt = Prompt("Think.", "{question}" + guidance + ENDS[stage], "{question}" + ENDS[stage])
        (root / stage / "prompt.json").write_text(json.dumps(prompt.to_json()))
    export(trio["base"], root / "guidance", root / "answer", root / "bundle", layout="shared", verify=False)
    return root / "bundle"


def test_with_activated_adapters_the_question_is_computed_once(activated):
    question = "Tom has 12 apples and buys 30 more. How many are left?"
    with load(activated, optimizations=replace(NONE, shared_question=True)) as reasoner:
        assert reasoner.bundle.model("answer") == activated / BASE
        result = reasoner.ask(question, max_new_tokens=6)
        assert result.timings.answer.cached_tokens >= len(reasoner.models["answer"].tokenizer.encode(question))
    with load(activated, optimizations=NONE) as reasoner:
        plain = reasoner.ask(question, max_new_tokens=6)
    assert plain.timings.answer.cached_tokens == 0
    assert (result.guidance, result.answer) == (plain.guidance, plain.answer)


@pytest.mark.parametrize("layout", ["adapters", "activated adapters"])
def test_states_that_can_be_cut_back_to_checkpoints_alone_write_the_same(
    layout, shared_bundle, activated, tmp_path, monkeypatch
):
    source = shared_bundle if layout == "adapters" else activated
    bundle = Path(shutil.copytree(source, tmp_path / "bundle", ignore=shutil.ignore_patterns("cache")))
    questions = ["How many apples?", "How many apples are left?", "Is it 7\nAnswer: no, 8?", "How many apples?"]
    with load(bundle, optimizations=NONE) as plain:
        expected = texts(plain, questions, max_new_tokens=20)
    monkeypatch.setattr("edgereason.engines.native.KVCacheState", CheckpointedState)
    for _ in range(2):  # the second time with the fixed instructions from disk
        with load(bundle) as reasoner:
            results = [reasoner.ask(question, max_new_tokens=20) for question in questions]
        assert [(result.guidance, result.answer) for result in results] == expected
        repeated = results[-1].timings.guidance
        assert repeated.prompt_tokens - EVERY <= repeated.cached_tokens < repeated.prompt_tokens
        assert results[0].timings.answer.cached_tokens > 0  # prefilled while guidance was decoded
    assert len(list((bundle / "cache").glob("*.kv"))) == 2


@pytest.mark.parametrize("name", ["all", *OPTIMIZATIONS])
def test_activated_adapters_write_the_same_with_every_technique(activated, name):
    optimizations = Optimizations() if name == "all" else replace(NONE, **{name: True})
    questions = ["How many apples?", "Why\nPlan: not", "Is it 7\nAnswer: no, 8?", "How many apples are left?"]
    with load(activated, optimizations=optimizations) as reasoner, load(activated, optimizations=NONE) as plain:
        assert texts(reasoner, questions, max_new_tokens=9) == texts(plain, questions, max_new_tokens=9)


def test_a_batch_reads_prompts_in_pieces_and_still_knows_where_an_adapter_applies(activated, monkeypatch):
    questions = ["How many apples?", "Is it 7\nAnswer: no, 8?", "Why?"]
    with load(activated, optimizations=NONE) as reasoner:
        expected = texts(reasoner, questions, max_new_tokens=5)
        monkeypatch.setattr("edgereason.decoding.continuous_batching._PREFILL", 5)
        outcomes = list(reasoner.batch(questions, max_new_tokens=5))
    found = [(outcome.result.guidance, outcome.result.answer) for outcome in outcomes]
    assert found == expected
