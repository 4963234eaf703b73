"""The program as its users meet it: output, exit codes, messages, and what it imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "edgereason"]


def run(*arguments: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


def error_of(*arguments: str | Path, code: int, stdin: str = "") -> str:
    """The message of a run that has to fail: one sentence and its cure, and no traceback."""
    done = run(*arguments, stdin=stdin)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_json_has_every_field(native_bundle: Path) -> None:
    done = run("ask", "How many?", "--bundle", native_bundle, "--json", "--max-tokens", "5")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {
        *("question", "guidance", "answer", "final", "engine", "bundle", "timings", "samples", "agreement", "notices"),
        *("confidence", "in_domain"),
    }
    assert set(result["timings"]) == {"load_s", "guidance", "answer", "handover_s", "total_s"}
    for stage in ("guidance", "answer"):
        timings = result["timings"][stage]
        assert set(timings) == {"prompt_tokens", "cached_tokens", "prefill_s", "ttft_s", "new_tokens", "decode_s"}
        assert 1 <= timings["new_tokens"] <= 5
        assert 0 < timings["prefill_s"] <= timings["ttft_s"] < result["timings"]["total_s"]


def test_the_question_may_come_from_standard_input(native_bundle: Path) -> None:
    done = run("ask", "--bundle", native_bundle, "--json", "--max-tokens", "2", stdin="How many?\n")
    assert json.loads(done.stdout)["question"] == "How many?"


def test_without_guidance_there_is_no_first_stage(native_bundle: Path) -> None:
    done = run("ask", "How many?", "--bundle", native_bundle, "--json", "--max-tokens", "2", "--no-guidance")
    result = json.loads(done.stdout)
    assert result["guidance"] == ""
    assert result["timings"]["guidance"]["new_tokens"] == 0


def test_sampling_is_repeatable_by_seed(native_bundle: Path) -> None:
    arguments = ("ask", "How?", "--bundle", native_bundle, "--json", "--max-tokens", "8", "--temperature", "1.5")
    texts = [json.loads(run(*arguments, "--seed", seed).stdout)["answer"] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_samples_are_voted_on(native_bundle: Path) -> None:
    arguments = ("ask", "How?", "--bundle", native_bundle, "--max-tokens", "4", "--samples", "3", "--seed", "1")
    result = json.loads(run(*arguments, "--json").stdout)
    assert result["samples"] == 3
    assert f"{round(3 * result['agreement'])} of 3 answers agree" in run(*arguments).stdout


def test_quiet_prints_one_thing(native_bundle: Path) -> None:
    asked = ("ask", "How many?", "--bundle", native_bundle, "--max-tokens", "5")
    result = json.loads(run(*asked, "--json").stdout)
    expected = result["final"] if result["final"] is not None else result["answer"]
    assert run(*asked, "--quiet").stdout == f"{expected}\n"


def test_the_text_is_streamed_with_its_timings(native_bundle: Path) -> None:
    done = run("ask", "How many?", "--bundle", native_bundle, "--max-tokens", "5")
    assert done.returncode == 0
    assert "native: load" in done.stdout
    assert "total" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("question", ["", "   \n"])
def test_an_empty_question_is_refused(native_bundle: Path, question: str) -> None:
    assert "The question is empty." in error_of("ask", question, "--bundle", native_bundle, code=2)
    assert "The question is empty." in error_of("ask", "--bundle", native_bundle, code=2, stdin=question)


def test_a_question_longer_than_the_context_is_refused(native_bundle: Path) -> None:
    message = error_of("ask", "why? " * 500, "--bundle", native_bundle, code=2)
    assert "too many for the guidance model's context of 256." in message


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--engine", "vllm", "There is no engine 'vllm'."),
        ("--engine", "onnx", "is for the engine native, not for onnx."),
        ("--max-tokens", "0", "max-tokens is 0."),
        ("--temperature", "-1", "temperature is -1.0"),
        ("--threads", "0", "threads is 0."),
        ("--bundle", "nowhere", "nowhere is not a bundle"),
        ("--seed", "-5", "seed is -5"),
    ],
)
def test_bad_options_are_named(native_bundle: Path, option: str, value: str, message: str) -> None:
    code = 1 if option == "--bundle" else 2
    assert message in error_of("ask", "How?", "--bundle", native_bundle, option, value, code=code)


def test_the_version_is_the_package_s() -> None:
    assert run("--version").stdout == f"edgereason {version('edgereason')}\n"


def test_debug_shows_the_traceback(native_bundle: Path) -> None:
    done = run("--debug", "ask", "", "--bundle", native_bundle)
    assert "Traceback" in done.stderr


def test_help_starts_quickly_and_ask_stays_light(native_bundle: Path) -> None:
    """No torch and no transformers for an answer, no numpy for the help page."""
    script = """
import sys
from edgereason.cli.app import app
app({arguments!r}, standalone_mode=False)
print([name for name in {heavy!r} if name in sys.modules])
"""
    asking = ["ask", "How many?", "--bundle", str(native_bundle), "--max-tokens", "3", "--quiet"]
    for arguments, heavy in ((asking, ["torch", "transformers", "peft"]), (["--help"], ["numpy", "torch"])):
        code = script.format(arguments=arguments, heavy=heavy)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
def test_interrupting_stops_cleanly(native_bundle: Path) -> None:
    command = [
        *PROGRAM,
        "ask",
        "How many?",
        "--bundle",
        str(native_bundle),
        "--temperature",
        "5",
        "--max-tokens",
        "200",
    ]
    # A shell starts background jobs with Ctrl-C ignored: the program gets it back, whoever runs these tests.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    process.stdout.read(1)  # the first text has come
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "\nstopped.\n")


def test_inspect_shows_what_is_inside(native_bundle: Path) -> None:
    shown = run("inspect", native_bundle).stdout
    for text in ("merged native bundle", "llama", "answer/model.safetensors", "bits 4"):
        assert text in shown
    manifest = json.loads(run("inspect", native_bundle, "--json").stdout)
    assert manifest == json.loads((native_bundle / "bundle.json").read_text())


def test_a_closed_pipe_is_no_error(native_bundle: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        f'"{sys.executable}" -m edgereason ask "How?" --bundle "{native_bundle}" --max-tokens 200 | head -c 1',
        shell=True,
        capture_output=True,
    )
    assert b"Traceback" not in done.stderr
    assert time.monotonic() - started < 60


def test_verify_compares_a_bundle_with_what_it_was_made_from(
    trio: dict[str, Path], native_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "questions.txt").write_text("How many apples?\nHow many are left?\n")
    lenient = [f"{rung}.{name}" for rung in ("quantized", "engine") for name in ("kl=9", "kl_p99=99", "top1=0")]
    lenient += ["quantized.perplexity=99", "engine.perplexity=99", "engine.step_kl=9"]
    options = ["--prompts", tmp_path / "questions.txt", "--json", tmp_path / "report.json"]
    options += [word for limit in lenient for word in ("--threshold", limit)]
    against = ["--against", trio["base"], trio["guidance"], trio["answer"]]
    done = run("verify", native_bundle, *against, *options, "--plot", tmp_path / "ladder.png")
    assert done.returncode == 0, done.stderr
    for text in ("match their checksums", "answer: 2 prompts", "merged, fp32", "on the engine"):
        assert text in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is True
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")
    swapped = ["--against", trio["base"], trio["answer"], trio["guidance"]]
    assert "is not what the guidance model of" in error_of("verify", native_bundle, *swapped, *options, code=2)
    failed = run("verify", native_bundle, *options, "--threshold", "engine.kl=0")
    assert failed.returncode == 1
    assert "the guidance model loses too much on the rung 'engine'" in failed.stderr.lower()
    assert "rungs before it have lost" in failed.stderr
