"""The calculator in the decoding loop, against a loop that asks for one token after the other, with Python's parser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from computations import due, save_calculating_trio
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import save_pieces
from random_model import save_tokenizer
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers

from edgereason import Optimizations, Reasoner, UsageError, load
from edgereason.bundle import Sampling
from edgereason.decoding.continuous_batching import Generation, Work, run
from edgereason.decoding.loop import DecodeRequest, decode_ids
from edgereason.decoding.prompt_lookup import MOST_ROWS, PromptLookup
from edgereason.decoding.result_forcing import ResultForcing, continuation
from edgereason.decoding.sampling import Sampler
from edgereason.decoding.timings import StageTimings
from edgereason.engines.base import Logits
from edgereason.export import export
from edgereason.pipeline.options import AskKeywords
from edgereason.text.calculator import evaluate, written
from edgereason.text.tokenizer import Tokenizer

MERGED = ["<<", ">>", "=1", "3=", "2=", "2==", "22", "=\n", "><"]
"""Tokens of several characters, some of which end behind the place where a result belongs."""


def save_small_tokenizer(directory: Path) -> Tokenizer:
    tokens = [*"0123456789<>=+-*/().\n", *MERGED]
    merges = [
        ("<", "<"),
        (">", ">"),
        ("=", "1"),
        ("3", "="),
        ("2", "="),
        ("2=", "="),
        ("2", "2"),
        ("=", "\n"),
        (">", "<"),
    ]
    fast = FastTokenizer(models.BPE({token: id_ for id_, token in enumerate(tokens)}, merges))
    fast.pre_tokenizer = pre_tokenizers.Split("never there", "isolated")
    fast.decoder = decoders.Fuse()
    fast.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text("{}")
    return Tokenizer(directory)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return save_small_tokenizer(tmp_path_factory.mktemp("small"))


class Markov:
    """A session whose next token depends on the last one alone; no pass has more rows than are computed exactly."""

    def __init__(self, table: np.ndarray) -> None:
        self.table, self.ids, self.passes = table, list[int](), 0

    @property
    def length(self) -> int:
        return len(self.ids)

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        assert len(ids) <= MOST_ROWS
        self.ids += ids
        self.passes += 1
        return np.ascontiguousarray(self.table[list(ids) if every else list(ids)[-1:]])

    def truncate(self, length: int) -> None:
        del self.ids[length:]

    def close(self) -> None:
        pass


def transitions(tokenizer: Tokenizer, seed: int) -> np.ndarray:
    """Random logits, in which computations are begun, go on, and come to their `=` often."""
    texts = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    table = np.random.default_rng(seed).normal(size=(len(texts), len(texts))).astype(np.float32)
    for row, last in zip(table, texts, strict=True):
        for token, text in enumerate(texts):
            row[token] += 2 * (text[0] in ("123(" if last[-1] in "<+-*/(" else "=+-*23<"))
            row[token] -= 3 * (text[0] in "<>" and last[-1] in "+-*/(123")
            row[token] += 4 * (text[0] in "<" and last[-1] in "=>\n")
    return table


def one_by_one(tokenizer: Tokenizer, table: np.ndarray, prompt: list[int], sampler: Sampler, limit: int) -> str:
    """The text that the rule describes, at least `limit` characters of it: draw a token, look at the whole text."""
    text, last = "", prompt[-1]
    while len(text) < limit:
        last = sampler.sample(np.ascontiguousarray(table[last]))
        piece = tokenizer.decode([last])
        for cut in range(1, len(piece) + 1):
            result = due(text + piece[:cut])
            if result is not None:
                piece, last = piece[:cut] + result, tokenizer.encode(">>")[-1]
                break
        text += piece
    return text


@given(
    seed=st.integers(0, 500),
    prompt=st.text("123+=<", min_size=1, max_size=10),
    limit=st.integers(1, 120),
    greedy=st.booleans(),
)
@settings(deadline=None, max_examples=120)
def test_texts_are_those_of_asking_for_one_token_after_the_other(
    small: Tokenizer, seed: int, prompt: str, limit: int, greedy: bool
) -> None:
    table, ids = transitions(small, seed), small.encode(prompt)
    sampling = Sampling(temperature=0.0 if greedy else 1.0, seed=seed)
    expected = one_by_one(small, table, ids, Sampler(sampling), 4 * limit)
    sessions = []
    for lookup in (None, PromptLookup(ids, token_cost=0.01)):
        timings = StageTimings()
        sessions.append(Markov(table))
        found = list(
            decode_ids(
                sessions[-1],  # type: ignore[arg-type]
                DecodeRequest(ids, limit, sampling, lookup=lookup, forcing=ResultForcing(small), timings=timings),
            )
        )
        assert len(found) == timings.new_tokens == limit
        assert expected.startswith(small.decode(found))
        computed = sessions[-1].ids[len(ids) :]  # nothing that was wrong; what the limit cuts is not needed
        assert computed == found[: len(computed)]
    assert sessions[1].passes <= sessions[0].passes


def test_the_random_texts_above_have_computations(small: Tokenizer) -> None:
    texts = [
        one_by_one(small, transitions(small, seed), [0], Sampler(Sampling(1.0, seed=1)), 300) for seed in range(20)
    ]
    results = re.findall(r"<<[^<>=]+=-?[\d.]+>>", "".join(texts))
    assert len(results) > 40
    assert len({len(result) for result in results}) > 5


def certain(tokenizer: Tokenizer, *texts: str) -> np.ndarray:
    """Logits with which each of the tokens is followed by the next one, and the last by the first."""
    table = np.full((tokenizer.vocab_size, tokenizer.vocab_size), -9, np.float32)
    ids = [tokenizer.encode(text)[0] for text in texts]
    table[ids, ids[1:] + ids[:1]] = 9
    return table


def test_what_is_forced_takes_one_pass(small: Tokenizer) -> None:
    session = Markov(certain(small, ">>", "<<", "22", "*", "3", ".", "1", "="))
    request = DecodeRequest(small.encode(">>"), 60, forcing=ResultForcing(small))
    found = list(decode_ids(session, request))  # type: ignore[arg-type]
    assert small.decode(found) == "<<22*3.1=68.2>>" * 5
    assert session.passes == 7 * 5  # of each twelve tokens seven are drawn


def test_a_stop_token_ends_the_text_before_anything_is_forced(small: Tokenizer) -> None:
    stop = small.encode("=")[0]
    session, forcing = Markov(certain(small, ">>", "<<", "1", "+", "2", "=")), ResultForcing(small)
    request = DecodeRequest(small.encode(">>"), 9, stop_ids=frozenset({stop}), forcing=forcing)
    found = list(decode_ids(session, request))  # type: ignore[arg-type]
    assert small.decode(found) == "<<1+2"


class MarkovEngine:
    """Computes sessions in common passes, of no more rows than are computed exactly."""

    def __init__(self) -> None:
        self.passes: list[int] = []

    def advance(self, steps: Sequence[tuple[Markov, Sequence[int], int]]) -> list[Logits]:
        self.passes.append(sum(len(ids) for _, ids, _ in steps))
        return [session.advance(ids, every=True)[len(ids) - outputs :] for session, ids, outputs in steps]


@pytest.mark.parametrize("size", [1, 3, 15, 16])
def test_texts_of_a_batch_are_those_of_each_alone(small: Tokenizer, size: int) -> None:
    engine = MarkovEngine()

    def request(seed: int) -> DecodeRequest:
        return DecodeRequest([0], 80, Sampling(1.0, seed=seed), forcing=ResultForcing(small))

    def work(seed: int) -> Work[str]:
        table = transitions(small, seed)
        text = Generation(engine, lambda: Markov(table), request(seed), small.stream())  # type: ignore[arg-type]
        yield text
        return text.text

    found = dict(run((work(seed) for seed in range(40)), size))
    for seed in range(40):
        alone = decode_ids(Markov(transitions(small, seed)), request(seed))  # type: ignore[arg-type]
        assert small.decode(list(alone)) == found[seed]
    assert max(engine.passes, default=0) <= MOST_ROWS
    assert (size == 1) == (not engine.passes)  # a single sequence is computed by its session
    assert size in (1, 16) or any(rows > size for rows in engine.passes)


# ---- vocabularies ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["bytes", "pieces", "pieces without a first space", "small"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    if request.param == "bytes":
        save_tokenizer(directory)
    elif request.param == "small":
        return save_small_tokenizer(directory)
    else:
        save_pieces(directory, prefix=request.param == "pieces")
    return Tokenizer(directory)


numbers = st.integers(0, 999).map(str)
expressions = st.lists(numbers, min_size=1, max_size=6).flatmap(
    lambda parts: st.lists(st.sampled_from("+-*/"), min_size=len(parts), max_size=len(parts)).map(
        lambda signs: "".join(part + sign for part, sign in zip(parts, signs, strict=True))[:-1]
    )
)


@given(expression=expressions, before=st.sampled_from(["", "1=", "3\n", "1+2>><", "(2)"]))
@settings(deadline=None)
def test_every_vocabulary_writes_results(tokenizer: Tokenizer, expression: str, before: str) -> None:
    start = tokenizer.encode(f"{before}<<{expression}=")
    if "=" not in tokenizer.decode(start[-1:]):  # the end of a token that reaches further
        return
    forcing = ResultForcing(tokenizer)
    taken = [forcing.take(token) for token in start]
    value = evaluate(expression)
    result = "" if value is None else f"{written(value)}>>"
    assert tokenizer.decode(list(chain.from_iterable(taken))) == tokenizer.decode(start) + result
    assert taken[:-1] == [[token] for token in start[:-1]]


def test_what_a_token_brings_behind_the_equals_sign_gives_way(small: Tokenizer) -> None:
    for token in ("=", "=1", "=\n"):
        forcing = ResultForcing(small)
        ids = [id_ for text in ("<<", "2", "*", "3", token) for id_ in forcing.take(*small.encode(text))]
        assert small.decode(ids) == "<<2*3=6>>"
    forcing = ResultForcing(small)
    ids = [id_ for text in ("<<", "1", "+", "2==") for id_ in forcing.take(*small.encode(text))]
    assert small.decode(ids) == "<<1+2=3>>"


@pytest.mark.parametrize(
    "text", ["1+1=2", "<<1+=", "<<1/(2-2)=", "<<1>>2+3=", "<<=", "<" * 900 + "(=", "<<" + "1" * 900 + "="]
)
def test_what_has_no_result_stays_as_it_is(small: Tokenizer, text: str) -> None:
    ids = [small.encode(character)[0] for character in text]
    forcing = ResultForcing(small)
    assert [forcing.take(token) for token in ids] == [[token] for token in ids]


@given(st.text("123<>=+-*/().\n", max_size=30), st.text("123<>=+-*/().\n", min_size=1, max_size=30))
@settings(deadline=None)
def test_a_continuation_decodes_to_the_whole_text(tokenizer: Tokenizer, text: str, more: str) -> None:
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids) + more
    rest = continuation(tokenizer, ids, whole)
    if rest is None:  # a token reaches over the end, and a vocabulary that begins each text with a space has no other
        assert tokenizer.decode(tokenizer.encode(more)) == f" {more}"
    else:
        assert tokenizer.decode([*ids, *rest]) == whole


# ---- engines ---------------------------------------------------------------------------------------------------------

QUESTIONS = [f"How many {word}?" for word in ("left", "12", "books", "red", "new", "five", "Tom", "cakes", "30", "old")]
FORMATS = {
    "native": {},
    "shared": {"layout": "shared"},
    "llama.cpp": {"format": "gguf", "bits": 16},
    "onnx": {"format": "onnx", "bits": 16},
}


@pytest.fixture(scope="module")
def calculating(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_calculating_trio(tmp_path_factory.mktemp("calculating"))


@pytest.fixture(scope="module", params=FORMATS)
def bundle(
    request: pytest.FixtureRequest, calculating: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("bundle") / request.param
    paths = [calculating[name] for name in ("base", "guidance", "answer")]
    export(*paths, out, verify=False, **FORMATS[request.param])
    return out


@pytest.fixture
def reasoner(bundle: Path, rows_as_if_alone: None) -> Iterator[Reasoner]:
    with load(bundle, threads=1) as opened:
        yield opened


LIMIT = 100


def asked_again(reasoner: Reasoner, question: str) -> str:
    """The answer by the logits of the whole text so far, computed anew for every token."""
    model, stage = reasoner.models["answer"], reasoner.bundle.stages["answer"]
    ids = model.tokenizer.encode(model.tokenizer.render(stage.prompt.messages(question)))
    sampler, end = Sampler(Sampling()), len(ids) + LIMIT
    written_ = len(ids)
    while len(ids) < end:
        token = sampler.sample(model.logits(ids)[-1])
        if token in stage.stop_ids:
            break
        ids.append(token)
        result = due(model.tokenizer.decode(ids[written_:]))
        ids += [model.tokenizer.encode(character)[0] for character in result or ""]
    return model.tokenizer.decode(ids[written_:end]).strip()


def test_answers_are_those_of_asking_again_for_every_token(reasoner: Reasoner) -> None:
    # The other engines read the whole text token by token, again and again.
    questions = QUESTIONS if reasoner.bundle.engine == "native" else QUESTIONS[:2]
    results = [reasoner.ask(question, max_new_tokens=LIMIT, guidance=False) for question in questions]
    assert [result.answer for result in results] == [asked_again(reasoner, result.question) for result in results]
    assert sum(len(re.findall("=[^=]+>>", result.answer)) for result in results) >= 1
    alone = [reasoner.ask(question, max_new_tokens=LIMIT, calculator=False).answer for question in questions]
    assert not re.findall("=[^=]+>>", "".join(alone))


@pytest.fixture(scope="module", params=["native", "shared"])
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    calculating: dict[str, Path] = request.getfixturevalue("calculating")
    out = tmp_path_factory.mktemp("bundle") / request.param
    paths = [calculating[name] for name in ("base", "guidance", "answer")]
    export(*paths, out, verify=False, **FORMATS[request.param])
    return out


@pytest.mark.parametrize("temperature", [0.0, 0.2])
def test_batches_streams_and_techniques_change_nothing(
    native: Path, rows_as_if_alone: None, temperature: float
) -> None:
    limits = {"guidance": 3, "answer": LIMIT}
    options = AskKeywords(max_new_tokens=limits, temperature=temperature, seed=5)
    with load(native) as reasoner:
        answers = [reasoner.ask(question, **options).answer for question in QUESTIONS]
        assert len(re.findall("=[^=]+>>", "".join(answers))) >= 1
        batched = [outcome.result for outcome in reasoner.batch(QUESTIONS, batch_size=4, **options)]
        assert [result.answer for result in batched if result] == answers
        streamed = "".join(event.text for event in reasoner.stream(QUESTIONS[0], **options) if event.stage == "answer")
        assert streamed.strip() == answers[0]
        assert all(result.timings.answer.new_tokens <= LIMIT for result in batched if result)
    with load(native, optimizations=Optimizations.without(["all"])) as plain:
        assert [plain.ask(question, **options).answer for question in QUESTIONS] == answers


def test_votes_have_computed_results(native: Path) -> None:
    with load(native) as reasoner:
        voted = reasoner.ask(QUESTIONS[0], samples=4, seed=1, temperature=0.1, guidance=False, max_new_tokens=LIMIT)
        computed = re.findall("<<([^<>=]+)=([^<>=]+)>>", voted.answer)
        assert computed
        assert all(due(f"<<{expression}=") == f"{result}>>" for expression, result in computed)


def test_a_server_writes_its_answer_itself(native: Path) -> None:
    # A named model is not looked up: nobody has to listen at this address.
    with (
        load(native, answer_model="http://127.0.0.1:9/v1#named") as reasoner,
        pytest.raises(UsageError, match="without our calculator"),
    ):
        reasoner.stream("How many?", calculator=True)
