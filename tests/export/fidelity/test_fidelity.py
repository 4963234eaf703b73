"""The ladder: it holds where nothing is lost, and names the rung that was broken on purpose."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from edgereason.bundle import STAGES, Bundle
from edgereason.errors import ExportError, FidelityError, UsageError
from edgereason.export import export
from edgereason.export.fidelity import FidelityReport, default_limits, ladder, parse_thresholds
from edgereason.export.fidelity.causes import explain
from edgereason.export.fidelity.limits import exceeded, in_whole_counts
from edgereason.export.fidelity.measure import measure_bundle
from edgereason.export.fidelity.questions import read_verification_questions
from edgereason.export.fidelity.references import StageSource
from edgereason.export.inputs.adapter import open_adapter
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.quantization.calibration import DEFAULT_CALIBRATION_FILE
from edgereason.export.settings import GGUF_TYPES
from edgereason.text.prompts import DEFAULT_PROMPTS

Trio = dict[str, Path]
QUESTIONS = ["Tom has 12 apples and buys 30 more. How many?", "How many are left?", "Is 91 a prime number?", "é 猫 ✓?"]
# Untrained models are unsure between many tokens: rounding decides more often than in trained ones.
LENIENT = ("quantized.top1=0.9", "engine.top1=0.9", "quantized.greedy=0", "engine.greedy=0")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.txt"
    path.write_text("\n".join(QUESTIONS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def bundle8(trio: Trio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    export(trio["base"], trio["guidance"], trio["answer"], out, bits=8, verify=False)
    return out


@pytest.fixture
def bundle(bundle8: Path, tmp_path: Path) -> Bundle:
    """A copy that may be broken; opened without its checksums."""
    return Bundle.open(Path(shutil.copytree(bundle8, tmp_path / "bundle")), verify=False)


def sources(trio: Trio) -> dict[str, StageSource]:
    base = open_base(trio["base"])
    adapters = {stage: open_adapter(trio[stage], DEFAULT_PROMPTS[stage]) for stage in STAGES}
    return {stage: StageSource(base, adapter, merge(base, adapter)) for stage, adapter in adapters.items()}


def broken_rung(report: FidelityReport) -> tuple[str, str] | None:
    return (report.finding.stage, report.finding.rung) if report.finding else None


OPTIONS = [{}, {"layout": "shared"}, {"format": "gptq", "method": "rtn"}, {"format": "gguf"}, {"format": "onnx"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_nothing_is_lost_by_an_export_of_8_bits(
    trio: Trio, questions: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    bundle = export(
        *(trio[name] for name in ("base", "guidance", "answer")),
        tmp_path / "out",
        bits=8,
        prompts=questions,
        thresholds=LENIENT,
        **options,
    )
    report = FidelityReport.from_json(Bundle.open(tmp_path / "out").fidelity, "bundle.json")
    assert report.passed
    assert bundle.fidelity["passed"] is True
    assert bundle.fidelity["allow_loss"] is False
    for stage in report.stages.values():
        rungs = {rung.name: rung.measures for rung in stage.rungs}
        expected = ["tokenizer", "gguf_tokenizer", "template", "stops", "merged", "stored", "quantized", "engine"]
        left_out = {"shared": ["merged"], "onnx": ["stored"]}.get(options.get("layout") or options.get("format"), [])
        left_out += [] if options.get("format") == "gguf" else ["gguf_tokenizer"]
        assert list(rungs) == [name for name in expected if name not in left_out]
        assert rungs["tokenizer"]["compared"] > 150  # each token that is a text of its own, at least
        # Rounding loses something, and all rungs see the same texts.
        assert 0 < rungs["quantized"]["kl"] < 0.005
        if "merged" in rungs:
            assert rungs["merged"]["kl"] < 1e-8
    alone = measure_bundle(bundle, prompts=questions, thresholds=parse_thresholds(LENIENT))
    assert alone.passed
    names = [rung.name for rung in alone.stages["answer"].rungs if rung.name != "gguf_tokenizer"]
    assert names == ["tokenizer", "template", "stops", "engine"]


def test_every_type_has_limits_that_grow_with_its_bits() -> None:
    limits = [default_limits(bits)["quantized"]["kl"] for bits in sorted(set(GGUF_TYPES.values()))]
    assert limits == sorted(limits, reverse=True)
    assert len(set(limits)) == len(limits)


@pytest.mark.parametrize(("limit", "positions", "misses"), [(0.995, 160, 1), (0.9, 10, 1), (0.9, 40, 4), (1, 7, 0)])
def test_limits_on_shares_allow_whole_positions(limit: float, positions: int, misses: int) -> None:
    allowed = in_whole_counts({"engine": {"top1": limit, "kl": 0.1}}, positions, 2)["engine"]
    assert allowed["kl"] == 0.1
    for missed in range(3):
        measures = {"kl": 0.0, "top1": (positions - misses - missed) / positions}
        assert exceeded(measures, allowed) == (("top1",) if missed else ())


def test_the_questions_are_not_those_of_calibration() -> None:
    asked = {question.text for question in read_verification_questions()}
    assert len(asked) >= 64
    seen = [json.loads(line)["question"] for line in DEFAULT_CALIBRATION_FILE.read_text(encoding="utf-8").splitlines()]
    assert asked.isdisjoint(seen)


def lose_one_merge(bundle: Bundle) -> None:
    path = bundle.path / "answer/tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    del tokenizer["model"]["merges"][-1]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def drop_the_system_turn(bundle: Bundle) -> None:
    path = bundle.path / "guidance/tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["chat_template"] = config["chat_template"].replace("in messages", "in messages if message.role != 'system'")
    path.write_text(json.dumps(config), encoding="utf-8")


def shuffle_scales(bundle: Bundle) -> None:
    path = bundle.path / "answer/model.safetensors"
    metadata = _metadata(path)
    tensors = load_file(path)
    name = "model.layers.1.mlp.down_proj.scales"
    tensors[name] = np.ascontiguousarray(tensors[name][::-1, :, ::-1])
    save_file(tensors, path, metadata)


def _metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


def change_the_rope_base(bundle: Bundle) -> None:
    path = bundle.path / "answer/config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rope_parameters"]["rope_theta"] = 50.0
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "stage", "rung", "words", "cause"),
    [
        (lose_one_merge, "answer", "tokenizer", "texts have other token ids", "answer/tokenizer.json is not the one"),
        (drop_the_system_turn, "guidance", "template", "prompts are rendered differently", "template is not the one"),
        (shuffle_scales, "answer", "quantized", "model.layers.1.mlp.down_proj.weight is off by", "than quantization"),
        (change_the_rope_base, "answer", "engine", "KL divergence", "The engine does not compute the weights"),
    ],
)
def test_damage_to_a_bundle_is_named(
    trio: Trio,
    questions: Path,
    bundle: Bundle,
    damage: Callable[[Bundle], None],
    stage: str,
    rung: str,
    words: str,
    cause: str,
) -> None:
    damage(bundle)
    report = measure_bundle(bundle, sources(trio), prompts=questions, thresholds=parse_thresholds(LENIENT))
    assert broken_rung(report) == (stage, rung)
    assert report.finding is not None
    assert words in report.finding.sentence
    assert cause in report.finding.cause
    assert report.finding.cure
    assert FidelityReport.from_json(report.to_json(), "bundle.json").finding == report.finding


def test_a_lost_merge_inside_a_gguf_file_is_named(trio: Trio, questions: Path, tmp_path: Path) -> None:
    """edgereason reads tokenizer.json and does not see it, other programs do."""
    out = tmp_path / "out"
    bundle = export(trio["base"], trio["guidance"], trio["answer"], out, format="gguf", bits=16, verify=False)
    tokenizer = json.loads((out / "answer/tokenizer.json").read_text(encoding="utf-8"))
    left, right = (part.encode() for part in tokenizer["model"]["merges"][0])
    length = (len(left) + len(right) + 1).to_bytes(8, "little")
    file = out / "answer/model.gguf"
    content = file.read_bytes()
    assert content.count(length + left + b" " + right) == 1
    file.write_bytes(content.replace(length + left + b" " + right, length + right + b" " + left))
    report = measure_bundle(bundle, sources(trio), prompts=questions)
    assert broken_rung(report) == ("answer", "gguf_tokenizer")
    allowed = measure_bundle(bundle, sources(trio), prompts=questions, thresholds={"gguf_tokenizer": {"different": 99}})
    assert broken_rung(allowed) is None


def test_a_lost_end_token_is_named(trio: Trio, questions: Path, bundle: Bundle) -> None:
    lost = replace(bundle.stages["guidance"], stop_ids=frozenset())
    report = measure_bundle(
        replace(bundle, stages={**bundle.stages, "guidance": lost}), sources(trio), prompts=questions
    )
    assert broken_rung(report) == ("guidance", "stops")
    assert report.finding is not None
    assert "bundle.json names none, the reference [2]" in report.finding.sentence


MERGES: dict[str, tuple[str, Callable[[str, Any, Any], Any]]] = {
    "twice": ("was merged twice, as model.layers", lambda name, base, merged: 2 * merged - base),
    "with a scale": ("was merged with 0.5 times its scale", lambda name, base, merged: (merged + base) / 2),
    "into others": (
        "is not the base's with the adapter",
        lambda name, base, merged: merged[::-1].copy() if base.ndim == 2 else merged,
    ),
    # Where the weight that is looked at is right, no cause is made up.
    "rightly": (
        "no cause was found",
        lambda name, base, merged: merged * 1.5 if name.endswith("norm.weight") else merged,
    ),
}


@pytest.mark.parametrize("how", MERGES)
def test_how_an_adapter_was_merged_is_said_where_the_weights_show_it(
    trio: Trio, questions: Path, bundle: Bundle, how: str
) -> None:
    against = sources(trio)
    right = against["guidance"]
    words, change = MERGES[how]
    assert right.merged is not None
    stored = right.merged
    wrong = replace(stored, compute=lambda name: change(name, right.base.read(name), stored[name]))
    report = measure_bundle(bundle, {**against, "guidance": replace(right, merged=wrong)}, prompts=questions)
    assert broken_rung(report) == ("guidance", "merged")
    assert report.finding is not None
    assert words in report.finding.cause


def test_a_prompt_of_another_adapter_is_named(trio: Trio, questions: Path, bundle: Bundle) -> None:
    asked = replace(
        bundle.stages["guidance"], prompt=replace(bundle.stages["guidance"].prompt, user="Say it: {question}")
    )
    report = measure_bundle(
        replace(bundle, stages={**bundle.stages, "guidance": asked}), sources(trio), prompts=questions
    )
    assert broken_rung(report) == ("guidance", "template")
    assert report.finding is not None
    assert report.finding.cause == "The bundle's prompt is not the adapter's."


@pytest.mark.parametrize(
    ("rung", "measures", "exceeded_", "bits", "words"),
    [
        ("stored", {"kl": 1.0, "weight": math.inf}, ("kl", "weight"), 8, "above 65,504"),
        ("stored", {"kl": 1.0, "weight": 0.5}, ("kl", "weight"), 8, "too small for float16"),
        ("stored", {"kl": 1.0, "weight": 1e-4}, ("kl",), 8, "no cause was found"),
        ("stored", {"kl": 1.0}, ("kl",), 8, "no cause was found"),
        ("quantized", {"kl": 1.0, "weight": 1e-4}, ("kl",), 16, "are close to the merged ones"),
        ("quantized", {"kl": 1.0, "weight": 0.9}, ("kl", "weight"), 4, "than quantization explains"),
        ("quantized", {"kl": 1.0, "weight": 0.1}, ("kl",), 4, "so few bits"),
        ("engine", {"kl": 1.0, "step_kl": 1e-4}, ("kl",), 4, "adds little"),
        ("engine", {"kl": 1.0, "step_kl": 0.9}, ("kl", "step_kl"), 4, "does not compute the weights"),
    ],
)
def test_measures_name_the_cause_that_they_show(
    rung: str, measures: dict[str, float], exceeded_: tuple[str, ...], bits: int, words: str
) -> None:
    found = explain("answer", rung, measures, dict.fromkeys(measures, 0.01), exceeded_, "", bits)
    assert words in found.cause
    assert found.cure


def fail_in_torch() -> None:
    torch.nn.Linear(5, 4)(torch.ones(2, 3))


def fail_in_tokenizers() -> None:
    Tokenizer.from_str("{}")


def fail_in_transformers() -> None:
    AutoModelForCausalLM.from_pretrained("/nowhere/at/all", local_files_only=True)


@pytest.mark.parametrize(
    ("fail", "library"),
    [
        (fail_in_torch, "torch"),
        (fail_in_tokenizers, "tokenizers"),
        (fail_in_transformers, "transformers|huggingface_hub"),
    ],
)
def test_what_fails_in_a_library_is_one_sentence(
    trio: Trio,
    questions: Path,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[], None],
    library: str,
) -> None:
    monkeypatch.setattr(ladder, "make_texts", lambda *_: fail())
    with pytest.raises(ExportError, match=rf"The proof of the guidance model failed in ({library}): \S") as caught:
        measure_bundle(bundle, sources(trio), prompts=questions)
    assert "\n" not in caught.value.what
    assert "--no-verify" in caught.value.cure


def test_our_own_errors_in_the_proof_are_not_blamed_on_a_library(
    trio: Trio, questions: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "make_texts", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        measure_bundle(bundle, sources(trio), prompts=questions)


def test_weights_that_16_bits_do_not_hold_are_named(trio: Trio, questions: Path, tmp_path: Path) -> None:
    """Rows of up_proj times 262,144, the columns of down_proj that they meet divided by it: the same in fp32."""
    other = {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in trio.items()}
    with torch.no_grad():
        base = load_torch(other["base"] / "model.safetensors")
        base["model.layers.0.mlp.up_proj.weight"] *= 2.0**18
        base["model.layers.0.mlp.down_proj.weight"] *= 2.0**-18
        save_torch(base, other["base"] / "model.safetensors", {"format": "pt"})
        for stage in STAGES:
            adapter = load_torch(other[stage] / "adapter_model.safetensors")
            adapter["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"] *= 2.0**18
            adapter["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"] *= 2.0**-18
            save_torch(adapter, other[stage] / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(FidelityError, match=r"'stored'(.|\n)*float16") as caught:
        export(other["base"], other["guidance"], other["answer"], tmp_path / "out", bits=4, prompts=questions)
    assert "model.layers.0.mlp" in caught.value.what
    assert not (tmp_path / "out").exists()


def test_a_loss_fails_the_export_unless_it_is_allowed(trio: Trio, questions: Path, tmp_path: Path) -> None:
    trained = (trio["base"], trio["guidance"], trio["answer"], tmp_path / "out")
    options: dict[str, Any] = {"bits": 8, "prompts": questions, "thresholds": ("quantized.kl=1e-9",)}
    with pytest.raises(FidelityError, match="where 1e-09 is allowed") as caught:
        export(*trained, **options)
    assert list(tmp_path.iterdir()) == []
    assert caught.value.report["finding"]["rung"] == "quantized"
    bundle = export(*trained, **options, allow_loss=True)
    assert bundle.fidelity["allow_loss"] is True
    assert bundle.fidelity["passed"] is False


def test_prompts_beyond_the_context_are_left_out_and_counted(trio: Trio, bundle: Bundle, tmp_path: Path) -> None:
    questions = tmp_path / "long.txt"
    questions.write_text("How many are left?\n" + "Tom has 12 apples. " * 40)  # the context holds 256 tokens
    report = measure_bundle(bundle, sources(trio), prompts=questions, thresholds=parse_thresholds(LENIENT))
    assert report.passed
    for stage in report.stages.values():
        assert (stage.prompts, stage.too_long) == (1, 1)
    assert FidelityReport.from_json(report.to_json(), "bundle.json").to_json() == report.to_json()
    assert all("1 longer" in str(table.title) for table in report.tables())
    questions.write_text("Tom has 12 apples. " * 40)
    with pytest.raises(UsageError, match="has 421 tokens, the model's context 256"):
        measure_bundle(bundle, sources(trio), prompts=questions)


@pytest.mark.parametrize(
    "threshold", ["quantized", "quantized.kl", "quantized.kl=", "quantized.kl=x", "none.kl=1", "merged.speed=1"]
)
def test_a_threshold_that_says_nothing_is_refused(threshold: str) -> None:
    with pytest.raises(UsageError, match="threshold"):
        export("base", "guidance", "answer", "out", thresholds=(threshold,))
