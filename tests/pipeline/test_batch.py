"""Batches and votes: the same results as asking one by one, in fewer passes, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import HELD_OUT, WORD_PROBLEMS
from resident import resident_bytes

from edgereason import ContextError, Optimizations, Reasoner, Result, Timings, UsageError, load
from edgereason.engines.native import NativeEngine
from edgereason.errors import CancelledError
from edgereason.export import export
from edgereason.pipeline.options import AskOptions
from edgereason.pipeline.prompting import fit_prompt
from edgereason.pipeline.voting import majority, sample_stages
from edgereason.problems.equivalence import same_result

QUESTIONS = [json.loads(line)["question"] for line in HELD_OUT.read_text().splitlines()[:200]]


@pytest.fixture(scope="module", params=["merged", "shared"])
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reasoner]:
    out = tmp_path_factory.mktemp("example") / request.param
    export(
        WORD_PROBLEMS / "base",
        WORD_PROBLEMS / "guidance",
        WORD_PROBLEMS / "answer",
        out,
        layout=request.param,
        verify=False,
    )
    with load(out) as reasoner:
        yield reasoner


@pytest.fixture(scope="module", params=["merged", "shared"])
def random_pair(request: pytest.FixtureRequest, native_bundle: Path, shared_bundle: Path) -> Iterator[Reasoner]:
    """Two models that write noise up to the limit, in both layouts: texts with no meaning, and no end of their own.

    Nothing is kept from one question to the next, so that passes can be counted.
    """
    optimizations = Optimizations.without(["prefix-cache"])
    with load(native_bundle if request.param == "merged" else shared_bundle, optimizations=optimizations) as reasoner:
        yield reasoner


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each pass of a native engine computes, as passes happen."""
    counted: list[int] = []
    advance = NativeEngine.advance

    def counting(self: NativeEngine, steps: Sequence[tuple]) -> list:
        counted.append(sum(len(ids) for _, ids, _ in steps))
        return advance(self, steps)

    monkeypatch.setattr(NativeEngine, "advance", counting)
    return counted


def texts(result: Result | None) -> tuple[str, str, str | None]:
    assert result is not None
    return result.guidance, result.answer, result.final


def test_a_batch_has_the_results_of_asking_one_by_one(example: Reasoner, rows: list[int]) -> None:
    alone = [texts(example.ask(question)) for question in QUESTIONS[:100]]
    passes = len(rows)
    rows.clear()
    outcomes = list(example.batch(QUESTIONS[:100]))
    assert [texts(outcome.result) for outcome in outcomes] == alone
    assert [outcome.question for outcome in outcomes] == QUESTIONS[:100]
    assert len(rows) < passes / 6


@pytest.mark.usefixtures("rows_as_if_alone")
@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.2, "seed": 5}], ids=["greedy", "sampled"])
def test_rows_of_a_batch_do_not_disturb_each_other(random_pair: Reasoner, size: int, sampling: dict) -> None:
    questions = [f"How many of {count} apples {'are left ' * (count % 5)}?" for count in range(20)]
    alone = [texts(random_pair.ask(question, max_new_tokens=9, **sampling)) for question in questions]
    outcomes = random_pair.batch(iter(questions), batch_size=size, max_new_tokens=9, **sampling)
    assert [texts(outcome.result) for outcome in outcomes] == alone


@pytest.mark.usefixtures("rows_as_if_alone")
def test_long_prompts_are_read_in_pieces_between_the_others_tokens(random_pair: Reasoner, rows: list[int]) -> None:
    questions = ["why? " * 15, "Who?", "how? " * 15]
    alone = [texts(random_pair.ask(question, max_new_tokens=6)) for question in questions]
    rows.clear()
    assert [texts(outcome.result) for outcome in random_pair.batch(questions, max_new_tokens=6)] == alone
    assert max(rows) < 2 * 128


@pytest.mark.usefixtures("rows_as_if_alone")
def test_few_texts_bring_several_tokens_in_a_pass(random_pair: Reasoner, rows: list[int]) -> None:
    """Prompt lookup in batches, too: random models repeat themselves."""
    questions = [f"How many of {count} apples?" for count in range(6)]
    found, passes = [], []
    for off in (["prefix-cache"], ["prefix-cache", "speculation"]):
        with Reasoner(random_pair.bundle, optimizations=Optimizations.without(off)) as reasoner:
            rows.clear()
            outcomes = reasoner.batch(questions, batch_size=3, max_new_tokens=40)
            found.append([texts(outcome.result) for outcome in outcomes])
            passes.append(len(rows))
    assert found[0] == found[1]
    assert passes[0] < 0.95 * passes[1]


def test_stages_of_a_shared_base_go_in_one_pass(example: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first questions are answered, the guidances of the next are written in the same passes."""
    adapters: list[set[int | None]] = []
    advance = NativeEngine.advance

    def noting(self: NativeEngine, steps: Sequence[tuple]) -> list:
        adapters.append({session.adapter for session, _, _ in steps})
        return advance(self, steps)

    monkeypatch.setattr(NativeEngine, "advance", noting)
    list(example.batch(QUESTIONS[:30], batch_size=4))
    one_engine = example.models["guidance"].engine is example.models["answer"].engine
    assert ({0, 1} in adapters) == one_engine == example.bundle.shared


def test_instructions_are_read_once_for_all_questions(native_bundle: Path, tmp_path: Path, rows: list[int]) -> None:
    bundle = shutil.copytree(native_bundle, tmp_path / "bundle")  # of its own, with no instructions on the disk yet
    computed = {}
    for name in ("all", "prefix-cache"):
        with load(bundle, optimizations=Optimizations.without(["all"] if name == "all" else [])) as reasoner:
            fixed = reasoner.bundle.stages["answer"].prompt.system
            instructions = len(reasoner.models["answer"].tokenizer.encode(fixed))
            rows.clear()
            list(reasoner.batch([f"How many of {number}?" for number in range(10)], guidance=False, max_new_tokens=1))
            computed[name] = sum(rows)
    assert computed["all"] - computed["prefix-cache"] > 8 * 0.5 * instructions


def test_a_question_that_fails_fails_alone(random_pair: Reasoner) -> None:
    questions = ["How many?", " ", "why? " * 300, "Who?"]
    outcomes = list(random_pair.batch(questions, max_new_tokens=4))
    assert [outcome.number for outcome in outcomes] == [0, 1, 2, 3]
    assert [type(outcome.error) for outcome in outcomes] == [type(None), UsageError, ContextError, type(None)]
    assert texts(outcomes[3].result) == texts(random_pair.ask("Who?", max_new_tokens=4))
    assert list(random_pair.batch([])) == []


def test_questions_are_taken_as_there_is_room_for_them(random_pair: Reasoner) -> None:
    taken: list[int] = []
    questions = (taken.append(number) or f"{number}?" for number in range(1000))
    outcomes = random_pair.batch(questions, batch_size=4, max_new_tokens=3)
    for number in range(3):
        assert next(outcomes).number == number
    assert len(taken) < 30
    outcomes.close()


def test_engines_without_common_passes_answer_one_by_one(trio: dict[str, Path], tmp_path: Path) -> None:
    export(trio["base"], trio["guidance"], trio["answer"], tmp_path / "bundle", format="gguf", bits=16, verify=False)
    with load(tmp_path / "bundle") as reasoner:
        alone = [texts(reasoner.ask(question, max_new_tokens=5)) for question in ("Who?", "What?", "How many?")]
        outcomes = reasoner.batch(["Who?", "", "What?", "How many?"], max_new_tokens=5)
        results = [texts(outcome.result) for outcome in outcomes if outcome.error is None]
        assert results == alone
        voted = reasoner.ask("Who?", max_new_tokens=5, samples=3, seed=1)
        assert voted.samples == 3


def test_arguments_are_checked_before_anything_runs(random_pair: Reasoner) -> None:
    with pytest.raises(UsageError, match="size is 0"):
        random_pair.batch(["Who?"], batch_size=0)
    with pytest.raises(UsageError, match="samples is 0"):
        random_pair.batch(["Who?"], samples=0)
    with pytest.raises(UsageError, match="at temperature 0 are all the same"):
        random_pair.ask("Who?", samples=4, temperature=0.0)
    with pytest.raises(UsageError, match="max-tokens"):
        random_pair.batch(["Who?"], max_new_tokens=0)


@pytest.mark.usefixtures("rows_as_if_alone")
def test_each_sample_is_what_its_seed_gives_alone(random_pair: Reasoner) -> None:
    """Forks of a prompt that was computed once go on as sessions do that computed it themselves."""
    stages = sample_stages(AskOptions(max_new_tokens=8, seed=11).stages(random_pair.bundle.stages), 5, None)
    seeds = [each["guidance"].sampling.seed for each in stages]
    assert len(set(seeds)) == 5
    alone = [random_pair.ask("How many?", max_new_tokens=8, temperature=0.7, seed=seed) for seed in seeds]
    assert len({texts(result) for result in alone}) > 1
    voted = random_pair.ask("How many?", max_new_tokens=8, samples=5, seed=11)
    assert texts(voted) in [texts(result) for result in alone]
    finals = [result.final for result in alone if result.final is not None]
    most = max((sum(same_result(final, each) for each in finals) for final in finals), default=5)
    assert voted.agreement == most / 5


def test_samples_share_the_reading_of_their_prompt(random_pair: Reasoner, rows: list[int]) -> None:
    stage = random_pair.bundle.stages["answer"]
    prompt = fit_prompt("answer", random_pair.models["answer"], stage, "How many?", None).ids
    rows.clear()
    random_pair.ask("How many?", guidance=False, max_new_tokens=1, samples=6, seed=1)
    assert rows == [len(prompt) - 1, 6]


def test_samples_of_the_example_agree(example: Reasoner) -> None:
    outcomes = list(example.batch(QUESTIONS[:6], samples=3, seed=2))
    for outcome, question in zip(outcomes, QUESTIONS, strict=False):
        assert outcome.result is not None
        assert outcome.result.samples == 3
        assert outcome.result.agreement in (1 / 3, 2 / 3, 1.0)
        if outcome.result.agreement == 1.0:
            assert outcome.result.final == example.ask(question).final


def result_of(final: str | None) -> Result:
    return Result("?", "", final or "", final, "native", "", Timings())


@given(st.lists(st.sampled_from(["7", "$7.00", "1,000", "1000.0", "Seven", "seven", "-7", None]), min_size=1))
def test_the_majority_has_the_most_votes(finals: list[str | None]) -> None:
    values = {"7": 7, "$7.00": 7, "1,000": 1000, "1000.0": 1000, "Seven": "seven", "seven": "seven", "-7": -7}
    votes = Counter(values[final] for final in finals if final is not None)
    found = majority([result_of(final) for final in finals], len(finals))
    assert found.samples == len(finals)
    if not votes:
        assert (found.final, found.agreement) == (None, 1.0)
        return
    assert found.final is not None
    assert votes[values[found.final]] == max(votes.values())
    assert found.agreement == max(votes.values()) / len(finals)


@pytest.mark.parametrize(
    ("finals", "won", "votes"),
    [
        (["7 apples", "8", "7", "$8.00", "7.0 apples"], "7 apples", 3),
        (["1/2", "2", "0.5", "50%"], "1/2", 3),
        (["10:30", "10", "10:30 am"], "10:30", 2),
        (["7 and 8", "7", "8", "7, 8"], "7 and 8", 2),
        (["7 apples", "7 pears", "7 pears"], "7 pears", 2),  # 7 alone is either
        (["7 apples", "7 pears", "7 pears", "7", "7"], "7 apples", 3),
    ],
)
def test_votes_are_for_what_a_result_is(finals: list[str], won: str, votes: int) -> None:
    found = majority([result_of(final) for final in finals], len(finals))
    assert (found.final, found.agreement) == (won, votes / len(finals))


def test_requests_that_are_left_early_leave_nothing_behind(random_pair: Reasoner) -> None:
    def leave(count: int) -> None:
        for number in range(count):
            stream = random_pair.stream(f"How many of {number} are left?")
            next(stream)
            stream.close()  # type: ignore[attr-defined]

    leave(200)  # what is allocated once is allocated now
    before = resident_bytes()
    leave(1000)
    # A session of this model has at least one page of 2 layers x 2 heads x 2 x 16 float16 values per token: 1,000 of
    # them would be 8 MB.
    assert resident_bytes() - before < 2_000_000


def test_batches_that_are_left_early_leave_nothing_behind(random_pair: Reasoner) -> None:
    def leave(count: int) -> None:
        for number in range(count):
            outcomes = random_pair.batch([f"{number}, {each}?" for each in range(40)], max_new_tokens=4 + number % 3)
            next(outcomes)
            outcomes.close()

    leave(15)
    before = resident_bytes()
    leave(60)
    assert resident_bytes() - before < 2_000_000


@pytest.mark.usefixtures("rows_as_if_alone")
def test_a_cancelled_question_ends_alone(random_pair: Reasoner, rows: list[int]) -> None:
    questions = [f"How many of {count}?" for count in range(8)]
    alone = [texts(random_pair.ask(question, max_new_tokens=12)) for question in questions]
    outcomes = random_pair.batch(questions, batch_size=4, max_new_tokens=12)
    outcomes.cancel(2)
    outcomes.cancel(7)  # not taken yet
    found = [next(outcomes)]
    outcomes.cancel(0)  # too late
    found += outcomes
    assert [outcome.number for outcome in found] == list(range(8))
    for outcome, text in zip(found, alone, strict=True):
        if outcome.number in (2, 7):
            assert isinstance(outcome.error, CancelledError)
            assert outcome.result is None
        else:
            assert texts(outcome.result) == text


def test_cancelled_questions_leave_nothing_behind_while_others_go_on(random_pair: Reasoner) -> None:
    def cancel(count: int) -> None:
        def questions() -> Iterator[str]:
            for number in range(count):
                outcomes.cancel(number - 2)  # under way, or answered
                yield f"How many of {number}?"

        outcomes = random_pair.batch(questions(), batch_size=4, max_new_tokens=4)
        ended = [outcome.error is not None for outcome in outcomes]
        assert len(ended) == count
        assert sum(ended) > count / 4

    cancel(40)
    before = resident_bytes()
    cancel(300)  # whose sessions, kept, would be more than 2.4 MB
    assert resident_bytes() - before < 1_000_000


def test_a_vote_is_cancelled_whole(random_pair: Reasoner) -> None:
    outcomes = random_pair.batch(["How many?", "And now?"], samples=3, max_new_tokens=4)
    outcomes.cancel(1)
    first, second = outcomes
    assert first.result is not None
    assert isinstance(second.error, CancelledError)
