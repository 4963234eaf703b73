"""The process reward model: separable labels are learned, and a step's score depends on what comes before alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from places import HELD_OUT, WORD_PROBLEMS
from torch.nn.functional import binary_cross_entropy

from edgereason.problems.records import Problem
from edgereason.training.chat_tokens import Chat
from edgereason.training.lora_settings import LoraSettings
from edgereason.training.recipes.preferences import prompt_of
from edgereason.training.recipes.process_reward import ProcessReward, step_scorer, step_tokens, train_process_reward
from edgereason.training.recipes.step_labels import LabelledAnswer, steps
from edgereason.training.sampling.attempts import Attempt, TrainingQuestion
from edgereason.training.trainer import Schedule, quiet_libraries
from edgereason.training.training_base import TrainingBase, open_training_base

ANSWER = WORD_PROBLEMS / "answer"


@pytest.fixture(scope="module")
def base() -> TrainingBase:
    return open_training_base(WORD_PROBLEMS / "base")


@pytest.fixture(scope="module")
def chat(base: TrainingBase) -> Chat:
    return Chat(base.path)


@pytest.fixture(scope="module")
def problems(chat: Chat) -> list[tuple[TrainingQuestion, str]]:
    """Questions and right answers."""
    prompt = prompt_of(ANSWER)
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line.count("<<") <= 2][:110]  # one or two computations
    return [
        (
            TrainingQuestion(chat.prompt(prompt, each["question"], each["guidance"]), Problem("", each["result"])),
            each["answer"],
        )
        for each in entries
    ]


def spoiled(answer: str) -> str:
    """The same with a last computation that has nothing to do with the question."""
    return "".join(steps(answer)[:-2]) + "1 + 1 = 2\n#### 2"


@pytest.fixture(scope="module")
def reward(
    base: TrainingBase,
    chat: Chat,
    problems: list[tuple[TrainingQuestion, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> ProcessReward:
    labelled = []
    for question, answer in problems[:90]:
        count = len(steps(answer))
        labelled.append(LabelledAnswer(question.prompt, answer, (1.0,) * count))
        labelled.append(LabelledAnswer(question.prompt, spoiled(answer), (1.0,) * (count - 2) + (0.0, 0.0)))
    work = tmp_path_factory.mktemp("reward")
    schedule = Schedule(steps=12, batch_size=8, learning_rate=5e-3, save_every=99)
    with quiet_libraries():
        trained = train_process_reward(labelled, chat, base, ANSWER, schedule, LoraSettings(rank=8), work)
    assert (work / "loss.png").is_file()
    return trained


def test_right_answers_rank_above_spoiled_ones(
    reward: ProcessReward, problems: list[tuple[TrainingQuestion, str]]
) -> None:
    unseen = problems[90:]
    questions = [question for question, _ in unseen]
    attempts = [Attempt(number, answer, right=True) for number, (_, answer) in enumerate(unseen)]
    attempts += [Attempt(number, spoiled(answer), right=False) for number, (_, answer) in enumerate(unseen)]
    scored = reward.score(questions, attempts)
    assert [(each.question, each.text, each.right) for each in scored] == [
        (each.question, each.text, each.right) for each in attempts
    ]
    for good, bad in zip(scored[: len(unseen)], scored[len(unseen) :], strict=True):
        assert good.score is not None
        assert bad.score is not None
        assert good.score > bad.score + 0.3


def test_a_step_is_scored_by_what_comes_before_it_alone(
    reward: ProcessReward, problems: list[tuple[TrainingQuestion, str]]
) -> None:
    """Neither what follows nor what else is in the batch changes a score."""
    question, answer = next((question, answer) for question, answer in problems if len(steps(answer)) == 3)
    beginnings = ["".join(steps(answer)[:count]) for count in (1, 2, 3)]
    together = reward.step_scores([(question.prompt, written) for written in beginnings] + [("x", "y\n" * 50)])
    alone = reward.step_scores([(question.prompt, answer)])[0]
    for count, found in zip((1, 2, 3), together, strict=False):
        assert found == pytest.approx(alone[:count], abs=1e-4)


def test_an_untrained_head_gives_even_chances(base: TrainingBase, chat: Chat) -> None:
    fresh = ProcessReward(step_scorer(base, ANSWER, LoraSettings(rank=2)), chat, batch_size=2)
    assert fresh.step_scores([("a", "b\nc")]) == [[0.5, 0.5]]
    assert fresh.score([TrainingQuestion("a", Problem("", "1"))], [Attempt(0, "", right=False)])[0].score == 0


def test_the_losses_are_those_of_the_labels_at_the_steps_ends(
    base: TrainingBase, chat: Chat, problems: list[tuple[TrainingQuestion, str]], tmp_path: Path
) -> None:
    """The witness: chances computed by hand from the decoder's hidden states, before the first update."""
    question, answer = next(each for each in problems if len(steps(each[1])) == 2)
    labels = (0.25, 1.0)
    labelled = [LabelledAnswer(question.prompt, answer, labels)]
    torch.manual_seed(0)
    with quiet_libraries():
        schedule = Schedule(steps=2, batch_size=1, learning_rate=1e-2, warmup=0)
        trained = train_process_reward(labelled, chat, base, ANSWER, schedule, LoraSettings(rank=2), tmp_path)
    history = json.loads((tmp_path / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert history[0]["loss"] == pytest.approx(float(torch.log(torch.tensor(2.0))), abs=1e-3)  # even chances
    tokens = step_tokens(chat, question.prompt, answer)
    ids = torch.tensor([tokens.ids])
    scorer = trained.model.get_base_model()
    with torch.no_grad():
        hidden = scorer.decoder(input_ids=ids).last_hidden_state[0, tokens.ends]
        head = scorer.score.modules_to_save["default"]
        chances = torch.sigmoid(hidden @ head.weight[0] + head.bias)
    assert trained.step_scores([(question.prompt, answer)])[0] == pytest.approx(chances.tolist(), abs=1e-5)
    loss = binary_cross_entropy(chances, torch.tensor(labels))
    assert loss < history[0]["loss"]
