"""The two stages together: events, results, threads, and stopping early."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgereason import ContextError, Reasoner, UsageError, load, load_model
from edgereason.kernels import cpu
from edgereason.problems.final_result import final_result


@pytest.fixture(scope="module")
def reasoner(native_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reasoner]:
    """Without a prefix cache from before and with rows computed as if alone: how a prompt is cut changes no logits."""
    bundle = tmp_path_factory.mktemp("reasoner") / "bundle"
    shutil.copytree(native_bundle, bundle, ignore=shutil.ignore_patterns("cache"))
    cpu.use_spans(False)
    with load(bundle) as reasoner:
        yield reasoner
    cpu.use_spans(True)


def text_of(reasoner: Reasoner, question: str) -> tuple[str, str]:
    result = reasoner.ask(question, max_new_tokens=12)
    return result.guidance, result.answer


def test_events_add_up_to_the_result(reasoner: Reasoner) -> None:
    *pieces, last = reasoner.stream("How many?", max_new_tokens=20)
    result = last.result
    assert result is not None
    assert last.stage == "result"
    for stage, text in (("guidance", result.guidance), ("answer", result.answer)):
        assert "".join(piece.text for piece in pieces if piece.stage == stage).strip() == text
    stages = [piece.stage for piece in pieces]
    assert stages == sorted(stages, reverse=True)  # all guidance before all answer
    assert result.final == final_result(result.answer)


def test_the_answer_model_reads_question_and_guidance(reasoner: Reasoner) -> None:
    """The witness puts the two stages together by hand, from two single models."""
    result = reasoner.ask("How many apples?", max_new_tokens=10)
    guidance = None
    for stage, text in (("guidance", result.guidance), ("answer", result.answer)):
        with load_model(reasoner.bundle.path / stage) as model:
            messages = reasoner.bundle.stages[stage].prompt.messages("How many apples?", guidance)
            ids = model.tokenizer.encode(model.tokenizer.render(messages))
            written = model.tokenizer.decode(list(model.generate(ids, max_new_tokens=10))).strip()
            guidance = result.guidance
        assert text == written.replace("�", "").strip() or written.startswith(text)


def test_several_threads_get_the_answers_of_one(reasoner: Reasoner) -> None:
    questions = [f"How many of {count} apples are left?" for count in range(12)]
    alone = [text_of(reasoner, question) for question in questions]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda question: text_of(reasoner, question), questions)) == alone


def test_a_stream_may_be_left_early_and_the_reasoner_used_again(reasoner: Reasoner) -> None:
    expected = text_of(reasoner, "How many?")
    for _ in range(20):
        stream = reasoner.stream("How many?")
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert text_of(reasoner, "How many?") == expected


def test_arguments_are_checked_before_anything_runs(reasoner: Reasoner) -> None:
    with pytest.raises(UsageError, match="question is empty"):
        reasoner.stream(" ")
    with pytest.raises(UsageError, match="question is not UTF-8 text"):
        reasoner.stream("How many \udcff eggs?")
    with pytest.raises(UsageError, match="max-tokens"):
        reasoner.stream("How?", max_new_tokens=0)
    with pytest.raises(UsageError, match="temperature"):
        reasoner.stream("How?", temperature=-1)
    with pytest.raises(ContextError, match=r"too many for the guidance model.s context of 256"):
        reasoner.ask("why? " * 300)


def test_a_model_checks_its_ids(reasoner: Reasoner) -> None:
    model = reasoner.models["answer"]
    for ids in ([], [-1], [10**6]):
        with pytest.raises(UsageError, match="ids"):
            model.logits(ids)
        with pytest.raises(UsageError, match="ids"):
            model.generate(ids)


def test_logits_have_a_row_for_each_id_and_generation_follows_them(reasoner: Reasoner) -> None:
    model = reasoner.models["answer"]
    ids = model.tokenizer.encode("How many apples?")
    written = list(model.generate(ids, max_new_tokens=5, stop_ids=frozenset()))
    logits = model.logits(ids + written)
    assert logits.shape == (len(ids) + 5, model.engine.vocab_size)
    assert logits.argmax(-1)[len(ids) - 1 : -1].tolist() == written
