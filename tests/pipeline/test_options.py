"""What a caller may wish of an answer: given guidances, limits by stage, time limits, contexts that are full."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgereason import load
from edgereason.bundle import Bundle
from edgereason.engines import open_engine
from edgereason.engines.probe import MICRO_MODELS
from edgereason.errors import ContextError, OutOfTimeError, UsageError
from edgereason.pipeline.reasoner import Reasoner
from edgereason.pipeline.results import Event

QUESTION = "Tom has 12 apples and eats 5. How many apples does he have left?"

OTHER = """Asked: how many apples Tom has in the end.
Given: Tom has 12 apples; Tom gets 5 more.
Steps: add the 5 that Tom gets."""


@pytest.fixture(scope="module")
def example() -> Iterator[Reasoner]:
    with load() as reasoner:
        yield reasoner


@pytest.fixture(scope="module")
def small(native_bundle: Path) -> Iterator[Reasoner]:
    with load(native_bundle) as reasoner:  # random weights, a context of 256 tokens
        yield reasoner


def test_a_given_guidance_stands_in_for_a_written_one(example: Reasoner) -> None:
    written = example.ask(QUESTION)
    events = list(example.stream(QUESTION, guidance=written.guidance))
    assert {event.stage for event in events} == {"answer", "result"}
    result = events[-1].result
    assert result is not None
    assert (result.guidance, result.answer, result.final) == (written.guidance, written.answer, "7")
    assert example.ask(QUESTION, guidance=OTHER).final == "17"
    assert next(example.batch([QUESTION], guidance=OTHER)).result.final == "17"  # type: ignore[union-attr]


def test_guidance_alone_ends_after_the_first_stage(example: Reasoner) -> None:
    result = example.ask(QUESTION, answer=False)
    assert (result.answer, result.final) == ("", None)
    assert result.guidance == example.ask(QUESTION).guidance


def test_limits_may_differ_by_stage(small: Reasoner) -> None:
    result = small.ask("How many?", max_new_tokens={"guidance": 3, "answer": 7})
    assert (result.timings.guidance.new_tokens, result.timings.answer.new_tokens) == (3, 7)


def test_wishes_that_make_no_sense_are_refused(small: Reasoner) -> None:
    for wish, message in (
        ({"max_new_tokens": {"guide": 3}}, "no stage 'guide'"),
        ({"guidance": " "}, "guidance is empty"),
        ({"guidance": False, "answer": False}, "Neither guidance nor answer"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": 1, "samples": 3}, "Several samples"),
    ):
        with pytest.raises(UsageError, match=message):
            small.stream("How many?", **wish)  # type: ignore[arg-type]


def test_a_timeout_ends_what_takes_too_long(small: Reasoner) -> None:
    with pytest.raises(OutOfTimeError, match=r"not complete after 1e-06 s"):
        small.ask("How many?", timeout=1e-6)
    assert small.ask("How many?", timeout=1000, max_new_tokens=2).answer is not None


def test_a_guidance_that_is_too_long_is_shortened_from_its_end_and_said_so(small: Reasoner) -> None:
    words = " ".join(str(number) for number in range(200))
    result = small.ask("How many?", guidance=words, max_new_tokens=64)
    assert result.timings.answer.prompt_tokens <= 256 - 64
    assert result.timings.answer.prompt_tokens > 256 - 64 - 8
    [notice] = result.notices
    assert notice.startswith("The guidance was shortened from ")
    assert next(small.batch(["How many?"], guidance=words, max_new_tokens=64)).result.notices == (notice,)  # type: ignore[union-attr]
    with pytest.raises(ContextError, match="The question comes to"):
        small.ask("why? " * 300, guidance=words)


def test_every_event_reaches_the_callback(small: Reasoner) -> None:
    heard: list[Event] = []
    result = small.ask("How many?", max_new_tokens=4, on_event=heard.append)
    assert heard[-1].result is result
    assert "".join(event.text for event in heard if event.stage == "answer").strip() == result.answer


def test_asyncio_gets_the_same_and_cancelling_stops_the_work(small: Reasoner) -> None:
    async def all_ways() -> None:
        expected = small.ask("How many?", max_new_tokens=5)
        result = await small.aask("How many?", max_new_tokens=5)
        assert (result.guidance, result.answer) == (expected.guidance, expected.answer)
        pieces = [event.text async for event in small.astream("How many?", max_new_tokens=5)]
        assert pieces == [event.text for event in small.stream("How many?", max_new_tokens=5)]
        two = await asyncio.gather(*(small.aask("Who?", max_new_tokens=5) for _ in range(2)))
        assert two[0].answer == two[1].answer
        task = asyncio.create_task(small.aask("How many?"))
        await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(UsageError, match="question is empty"):
            await small.aask(" ")

    asyncio.run(all_ways())


def test_another_bundle_may_answer(example: Reasoner, native_bundle: Path) -> None:
    with load(native_bundle) as random, load(answer_model=native_bundle) as mixed:
        result = mixed.ask(QUESTION, max_new_tokens=6)
        assert result.guidance == example.ask(QUESTION, max_new_tokens=6).guidance
        assert result.answer == random.ask(QUESTION, guidance=result.guidance, max_new_tokens=6).answer


def test_a_gguf_file_may_answer(example: Reasoner, tmp_path: Path) -> None:
    from random_model import save_base

    from edgereason.export.gguf import write_gguf

    save_base(tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "F16")
    with load(answer_model=tmp_path / "model.gguf") as mixed:
        result = mixed.ask("How many?", max_new_tokens=5)
        assert result.engine == "llama.cpp"
        assert result.guidance == example.ask("How many?", max_new_tokens=5).guidance
        assert 1 <= result.timings.answer.new_tokens <= 5
    with pytest.raises(UsageError, match="is no answer model"):
        load(answer_model=tmp_path)


def test_layers_on_a_gpu_are_those_of_the_model_that_llama_cpp_runs(tmp_path: Path, native_bundle: Path) -> None:
    pytest.importorskip("llama_cpp")
    shutil.copy(MICRO_MODELS / "model.gguf", tmp_path)
    with load(native_bundle, answer_model=tmp_path / "model.gguf", gpu_layers=0) as mixed:
        assert [model.engine.name for model in mixed.models.values()] == ["native", "llama.cpp"]


def test_layers_on_a_gpu_without_llama_cpp_are_refused(native_bundle: Path) -> None:
    with pytest.raises(UsageError, match="gpu-layers is 0"):
        load(native_bundle, answer_model=native_bundle, gpu_layers=0)
    with pytest.raises(UsageError, match="gpu-layers is 0"):
        load(native_bundle, answer_model="http://localhost:1", gpu_layers=0)


def test_a_model_that_never_saw_earlier_turns_is_not_shown_them(native_bundle: Path) -> None:
    bundle = Bundle.open(native_bundle)
    prompt = bundle.stages["answer"].prompt
    assert len(prompt.after([("a?", None, "b")]).messages("c?")) == len(prompt.messages("c?")) + 2
    alone = replace(prompt, history=False)
    assert alone.after([("a?", None, "b")]).messages("c?") == prompt.messages("c?")
    assert alone.to_json()["history"] is False
    assert type(prompt).from_json(alone.to_json(), "here") == alone


def test_layers_go_to_a_gpu_with_llama_cpp_alone(native_bundle: Path) -> None:
    with pytest.raises(UsageError, match="gpu-layers is 3 for the engine native"):
        load(native_bundle, gpu_layers=3)
    engine = open_engine(MICRO_MODELS / "model.gguf", gpu_layers=0)  # what a build for CPUs has in any case
    assert engine.vocab_size > 0
    engine.close()
