"""The tables of the page of results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import result_methods as methods
from result_lines import Line, Table, exported

from edgereason.evaluation import EvaluationSettings, Problem
from edgereason.evaluation.data_sets import problems_of
from edgereason.evaluation.measurement import Mode
from edgereason.files import read_json
from edgereason.text.prompts import Prompt

METHOD_PROBLEMS = 400

_TWO = "two stages"
_PLAIN = "supervised: answer alone"
_MODES: dict[int, Mode] = {1: "answer-only", 2: "two-stage"}
_FORMATS = {"native": "native", "gguf": "llama.cpp", "onnx": "ONNX Runtime"}
_WIDTHS = {"native": "16 bits", "gguf": "F16", "onnx": "float16"}
_INT4 = {"native": "int4", "gguf": "Q4_0", "onnx": "int4"}

SINGLE = "single"
"""An adapter beside the other two that was trained on questions and answers without guidance, if a model has one."""


def held_out_problems(limit: int | None) -> dict[str, list[Problem]]:
    """The problems that the example model's training leaves out, by their data set's name."""
    return {name: problems_of(name, limit=limit) for name in ("held-out", "held-out-structures")}


def calculates(model: Path) -> bool:
    """Whether a model's answers are written for the calculator."""
    return Prompt.from_json(read_json(model / "answer" / "prompt.json"), "prompt.json").calculator


def one_stage_against_two(model: Path, limit: int | None) -> Table:
    """The papers' claim, on a model of this repository."""
    make = exported(model / "base", model / "guidance", model / "answer")
    lines = [
        Line(_TWO, make),
        Line("the answer model alone", make, EvaluationSettings("answer-only"), _TWO),
        Line("the guidance model alone", make, EvaluationSettings("guidance-only"), _TWO),
        Line("two stages, the majority of 5", make, EvaluationSettings(samples=5), _TWO),
    ]
    if calculates(model):
        plain_answer = EvaluationSettings("answer-only", calculator=False)
        lines += [
            Line("two stages, no calculator", make, EvaluationSettings(calculator=False), _TWO),
            Line("the answer model alone, no calculator", make, plain_answer, _TWO),
        ]
    if (model / SINGLE).is_dir():
        alone = exported(model / "base", model / "guidance", model / SINGLE)
        lines.append(Line("a single model, trained without guidance", alone, EvaluationSettings("answer-only"), _TWO))
    text = f"""\
The model in `examples/{model.name}`, native int4. The answer model alone sees the question only, as some of its
training texts did. The guidance model alone writes no answer: what counts as right is guidance whose last number is
the result."""
    return Table(f"One stage against two: {model.name}", text, held_out_problems(limit), lines)


def full_precision_against_int4(model: Path, limit: int | None) -> Table:
    """What quantization costs, engine by engine."""
    text = f"""\
The model in `examples/{model.name}` through both stages, on every engine: in 16 bits,
and in 4 bits, rounded to nearest in groups of 32."""
    return Table(f"Full precision against int4: {model.name}", text, held_out_problems(limit), [*_engine_lines(model)])


def _engine_lines(model: Path) -> Iterator[Line]:
    for format, engine in _FORMATS.items():
        wide = f"{engine}, {_WIDTHS[format]}"
        for name, bits, against in ((wide, 16, ""), (f"{engine}, {_INT4[format]}", 4, wide)):
            make = exported(model / "base", model / "guidance", model / "answer", format=format, bits=bits)
            yield Line(name, make, against=against)


def methods_against_supervised(model: Path, limit: int | None) -> Table:
    """Each published method against plain supervised fine-tuning, from the same demonstrations."""
    base, asked = model / "base", methods.held_out(METHOD_PROBLEMS)
    shown = methods.demonstrations(asked)

    trained = {
        _PLAIN: (methods.SUPERVISED,),
        "SGFT: guidance, then answer": (methods.GUIDANCE, methods.GUIDED),
        "Sci-CoT: rationale, then answer": (methods.RATIONALE, methods.INFERENCE),
        "self-refine: supervised, then DPO": (methods.REFINED,),
        "process feedback: supervised, then ORPO": (methods.PROCESSED,),
        "supervised, twice as long": (methods.LONGER,),
    }
    lines = [
        # One adapter alone stands in both places of its bundle, and is asked in its own.
        Line(name, methods.trained_pair(base, each[0], each[-1], shown), EvaluationSettings(_MODES[len(each)]), _PLAIN)
        for name, each in trained.items()
    ]
    commands = [f"- {name}: {', '.join(f'`{one.command()}`' for one in each)}" for name, each in trained.items()]
    text = f"""\
Adapters of rank 16 on the base in `examples/{model.name}`, each from the same {len(shown)} worked problems of two
steps ([the recipes](recipes.md)), in 16 bits on the native engine. The base has read such problems as a textbook
prints them. Few examples and one small model: this shows that the recipes work and what they do here, not which method
is best. The data are the questions, with what the method learns from: worked answers, guidance, or an answer's
computations and its last line. Sci-CoT's rationales are trained for six epochs: after three they seldom end, since the
base has read a last line behind all computations. Self-refinement and process feedback begin with the supervised
adapter, and see its questions and results again.

"""
    text += "\n".join(commands)
    problems = [Problem(each.question, each.result, structure=each.structure) for each in asked[:limit]]
    return Table(f"The methods against supervised fine-tuning: {model.name}", text, {"two steps": problems}, lines)


TABLES = {
    "stages": one_stage_against_two,
    "engines": full_precision_against_int4,
    "methods": methods_against_supervised,
}
