"""Learning from preferences among a model's own answers: right ones win, and interruptions change nothing."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from peft import PeftModel
from places import HELD_OUT, WORD_PROBLEMS
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from edgereason import load
from edgereason.errors import BundleError, UsageError
from edgereason.export import export
from edgereason.problems.extraction import last_number
from edgereason.problems.records import Problem
from edgereason.training.chat_tokens import Chat
from edgereason.training.lora_settings import LoraSettings
from edgereason.training.recipes.orpo import ORPOConfig, OrpoTrainer, prefer
from edgereason.training.recipes.preference_pairs import Pair
from edgereason.training.recipes.preferences import dataset, prompt_of, rendered_tokenizer, trainable
from edgereason.training.recipes.process_feedback import Feedback, train_process
from edgereason.training.recipes.self_refine import train_refine
from edgereason.training.sampling import text_sampler
from edgereason.training.sampling.attempts import TrainingQuestion, read_training_questions
from edgereason.training.sampling.text_sampler import Opening, SamplingSettings
from edgereason.training.sampling.transformers_sampler import TransformersSampler
from edgereason.training.trainer import Schedule, quiet_libraries
from edgereason.training.training_base import TrainingBase, open_training_base
from edgereason.training.training_progress import LossProgress

HOT = SamplingSettings(count=4, temperature=1.6, max_new_tokens=64)
SCHEDULE = Schedule(steps=4, batch_size=4, learning_rate=1e-3, save_every=2)
FEEDBACK = Feedback(HOT, rollouts=2, labelled=8, most_pairs=2)
REWARD = Schedule(steps=3, batch_size=8, learning_rate=2e-3, save_every=2)
ANSWER = WORD_PROBLEMS / "answer"


@pytest.fixture(scope="module")
def base() -> TrainingBase:
    return open_training_base(WORD_PROBLEMS / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "questions.jsonl"
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines(keepends=True)
    short = [line for line in lines if line.count("<<") == 1]  # one step
    path.write_text("".join(short[:18]), encoding="utf-8")
    return path


def refine(data: Path, base: TrainingBase, out: Path, **options: Any) -> None:
    train_refine(data, base, ANSWER, out, SCHEDULE, HOT, **options)


def process(data: Path, base: TrainingBase, out: Path, **options: Any) -> None:
    train_process(data, base, ANSWER, out, SCHEDULE, FEEDBACK, REWARD, LoraSettings(rank=4), iterations=2, **options)


RECIPES: dict[str, Callable[..., None]] = {"refine": refine, "process": process}


@pytest.fixture(scope="module")
def trained(base: TrainingBase, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an adapter of each recipe, trained without interruption."""
    directory = tmp_path_factory.mktemp("trained")
    for name, recipe in RECIPES.items():
        recipe(data, base, directory / name)
    return directory


def pairs_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_chosen_is_right(trained: Path, data: Path, name: str) -> None:
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for told in [trained / "refine"] if name == "refine" else sorted((trained / "process" / "iterations").iterdir()):
        for pair in pairs_of(told):
            assert last_number(pair["chosen"]) == lines[pair["question"]]["result"]
    before, after = (load_file(each / "adapter_model.safetensors") for each in (ANSWER, trained / name))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key].float(), after[key].float()) for key in before)


def test_refining_prefers_the_right_answers(trained: Path, base: TrainingBase, data: Path) -> None:
    """The witness: DPO's loss by its formula, of log probabilities that transformers and PEFT compute."""
    questions = read_training_questions(data, Chat(base.path), prompt_of(ANSWER), base.context)
    pairs = [(questions[each["question"]], each["chosen"], each["rejected"]) for each in pairs_of(trained / "refine")]
    start, end = (answers(base, adapter, pairs) for adapter in (ANSWER, trained / "refine"))
    # Equation 7 of arXiv 2305.18290; it is log 2 where policy and reference are the same.
    gains = [(c1 - c0, r1 - r0) for ((c0, _), (r0, _)), ((c1, _), (r1, _)) in zip(start, end, strict=True)]
    assert mean(-log_sigmoid(0.1 * (chosen - rejected)) for chosen, rejected in gains) < 0.69 - 0.1


def test_odds_ratio_losses_are_the_papers(base: TrainingBase, data: Path, tmp_path: Path) -> None:
    """What the model would hardly write is chosen, and its usual answers are rejected: the losses are large."""
    chat, prompt = Chat(base.path), prompt_of(ANSWER)
    questions = read_training_questions(data, chat, prompt, base.context)[:6]
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    pairs = [Pair(number, "#### " + line["result"], line["answer"]) for number, line in enumerate(lines[:6])]
    schedule = Schedule(steps=3, batch_size=6, learning_rate=2e-3, warmup=0, save_every=99)
    with quiet_libraries():
        adapter = prefer(questions, pairs, chat, prompt, base, ANSWER, schedule, 0.3, tmp_path, "test")
    texts = [(questions[pair.question], pair.chosen, pair.rejected) for pair in pairs]
    start, end = (mean(orpo_loss(*each, 0.3) for each in answers(base, each, texts)) for each in (ANSWER, adapter))
    assert losses(adapter)[0] == pytest.approx(start, rel=1e-3)
    assert end < start - 0.1


Answer = tuple[float, int]
"""An answer's log probability in nats, and its tokens."""


def answers(
    base: TrainingBase, adapter: Path, pairs: list[tuple[TrainingQuestion, str, str]]
) -> list[tuple[Answer, Answer]]:
    """What is chosen and what is rejected for each question."""
    chat = Chat(base.path)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()

    def answer(question: TrainingQuestion, text: str) -> Answer:
        prompt = chat.tokenizer.encode(question.prompt)
        ids = [*prompt, *chat.tokenizer.encode(text), chat.end]
        with torch.inference_mode():
            logits = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1], -1)
        taken = logits.gather(1, torch.tensor(ids[1:])[:, None])[len(prompt) - 1 :]
        return float(taken.sum()), len(taken)

    return [(answer(question, chosen), answer(question, rejected)) for question, chosen, rejected in pairs]


def orpo_loss(chosen: Answer, rejected: Answer, beta: float) -> float:
    """Equation 6 of arXiv 2403.07691: likelihood and odds ratio, with probabilities per token."""
    (chosen_mean, rejected_mean) = (total / count for total, count in (chosen, rejected))
    odds = [each - math.log1p(-math.exp(each)) for each in (chosen_mean, rejected_mean)]
    return -chosen_mean - beta * log_sigmoid(odds[0] - odds[1])


def log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value))


def test_the_adapter_that_training_began_with_is_dpos_reference(trained: Path) -> None:
    """Before the first update the loss is log 2: policy and reference are the same."""
    assert losses(trained / "refine")[0] == pytest.approx(0.6931, abs=1e-3)


def losses(directory: Path) -> list[float]:
    history = json.loads((directory / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def interruptions(at: dict[str, int]) -> Iterator[Callable[..., None]]:
    """For `LossProgress.on_step_end`: breaks off the trainings of these names after so many steps, one each time."""
    for name, steps in at.items():

        def on_step_end(
            bar: LossProgress, _: object, state: Any, __: object, name: str = name, steps: int = steps, **___: object
        ) -> None:
            if bar._name == name and state.global_step == steps:
                raise KeyboardInterrupt

        yield on_step_end


@pytest.mark.parametrize(
    ("name", "at"),
    [("refine", {"refine": 3}), ("process", {"process reward": 2, "2: preferences": 3})],
)
def test_an_interrupted_training_goes_on_to_the_same_adapter(
    trained: Path, base: TrainingBase, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: Any
) -> None:
    out, recipe = tmp_path / name, RECIPES[name]
    stop_sampling(base, data, out, recipe, monkeypatch)
    for on_step_end in interruptions(at):
        with monkeypatch.context() as patched:
            patched.setattr(LossProgress, "on_step_end", on_step_end, raising=False)
            with pytest.raises(KeyboardInterrupt):
                recipe(data, base, out, resume=True)
        assert not out.exists()
    recipe(data, base, out, resume=True)
    for file in sorted(path.relative_to(out) for path in out.rglob("*.jsonl")):
        assert (out / file).read_bytes() == (trained / name / file).read_bytes()
    assert losses(out) == losses(trained / name)
    resumed, whole = (load_file(each / "adapter_model.safetensors") for each in (out, trained / name))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def stop_sampling(
    base: TrainingBase, data: Path, out: Path, recipe: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begin a training and break it off after its first chunk of samples is on disk."""

    def append(file: Path, records: Any) -> None:
        real(file, records)
        raise KeyboardInterrupt

    real = text_sampler._append
    with monkeypatch.context() as patched:
        patched.setattr(text_sampler, "_append", append)
        with pytest.raises(KeyboardInterrupt):
            recipe(data, base, out)


@pytest.mark.parametrize("name", RECIPES)
def test_export_takes_the_adapters_and_ask_runs_them(
    trained: Path, base: TrainingBase, tmp_path: Path, name: str
) -> None:
    """The witness: transformers with the unmerged adapter."""
    bundle = export(base.path, WORD_PROBLEMS / "guidance", trained / name, tmp_path / "bundle", verify=False, bits=16)
    assert bundle.stages["answer"].prompt == prompt_of(ANSWER)
    with load(tmp_path / "bundle") as reasoner:
        result = reasoner.ask("Tom has 12 apples and eats 5. How many apples does he have left?", max_new_tokens=60)
    sampler, chat, prompt = TransformersSampler(base, torch.device("cpu")), Chat(base.path), prompt_of(trained / name)
    sampler.use(trained / name)
    opening = Opening(chat.prompt(prompt, result.question, result.guidance))
    ((text,),) = sampler.sample([opening], SamplingSettings(count=1, temperature=0, max_new_tokens=60), seed=0)
    assert result.answer == text.text


def test_what_was_sampled_is_told(trained: Path) -> None:
    for directory in (trained / "refine", trained / "process" / "iterations" / "1"):
        counts = json.loads((directory / "sampling.json").read_text(encoding="utf-8"))
        assert counts["questions"] == 18
        assert counts["sampled"] == 18 * HOT.count
        assert counts["pairs"] == len(pairs_of(directory)) > 0
        assert counts["different"] <= counts["sampled"]
        assert 0 < counts["right"] < counts["sampled"]


@pytest.mark.parametrize("name", RECIPES)
def test_answers_that_are_all_right_give_nothing_to_prefer(
    base: TrainingBase, data: Path, tmp_path: Path, name: str
) -> None:
    cold, out, short = (
        SamplingSettings(count=2, temperature=0.01, max_new_tokens=96),
        tmp_path / "out",
        tmp_path / "short.jsonl",
    )
    short.write_text("".join(data.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8")
    feedback = (Feedback(cold, rollouts=1, labelled=1), Schedule(steps=1), LoraSettings(rank=2))
    recipe: Callable[..., None] = train_refine if name == "refine" else train_process
    options: tuple[Any, ...] = (cold,) if name == "refine" else feedback
    with pytest.raises(UsageError, match="yields no preference pairs: 8 of 8 sampled answers are right"):
        recipe(short, base, ANSWER, out, SCHEDULE, *options)
    assert not out.exists()


def test_what_is_no_adapter_is_refused_before_anything_is_written(
    base: TrainingBase, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=r"adapter_config\.json"):
        train_refine(data, base, WORD_PROBLEMS / "base", tmp_path / "out", SCHEDULE, HOT)
    with pytest.raises(UsageError, match="margin is 2"):
        Feedback(HOT, margin=2.0)
    assert list(tmp_path.iterdir()) == []


def test_trls_tokens_are_those_of_inference(tmp_path: Path) -> None:
    """A tokenizer that begins texts itself, as the template does, and an end token that does not end turns."""
    directory = tmp_path / "base"
    shutil.copytree(WORD_PROBLEMS / "base", directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    begin = ("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))
    tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {"bos_token": begin[0], "eos_token": begin[0], "chat_template": begin[0] + config["chat_template"]}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    base, prompt = open_training_base(directory), prompt_of(ANSWER)
    chat = Chat(directory)
    questions = [TrainingQuestion(chat.prompt(prompt, "How many?", "Count."), Problem("How many?", "7"))]
    right, wrong = (chat.tokens(prompt, "How many?", "Count.", text) for text in ("#### 7", "3 + 4 = 8\n#### 8"))
    pairs = dataset(questions, [Pair(0, "#### 7", "3 + 4 = 8\n#### 8")])
    options: dict[str, Any] = {"output_dir": str(tmp_path / "out"), "report_to": "none", "bf16": False, "use_cpu": True}
    with quiet_libraries():
        model, read = trainable(base, ANSWER), rendered_tokenizer(base, chat)
        dpo = DPOTrainer(model, args=DPOConfig(**options, max_length=None), train_dataset=pairs, processing_class=read)
        orpo = OrpoTrainer(model, args=ORPOConfig(**options, max_length=99), train_dataset=pairs, processing_class=read)
    row = dpo.train_dataset[0]
    assert row["prompt_ids"] == right.ids[: right.prompt]
    assert row["prompt_ids"].count(begin[1]) == 1
    assert row["chosen_ids"] == right.ids[right.prompt :]
    assert row["rejected_ids"] == wrong.ids[wrong.prompt :]
    row = orpo.train_dataset[0]
    assert (row["chosen_input_ids"], row["chosen_labels"]) == (right.ids, right.labels)
    assert (row["rejected_input_ids"], row["rejected_labels"]) == (wrong.ids, wrong.labels)
