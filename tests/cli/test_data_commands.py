"""`edgereason data`, as its users meet it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import edgereason


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgereason", "data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_from_a_data_set_to_guided_training_data(tmp_path: Path) -> None:
    question = "Tom has 12 apples and eats 5. How many apples does he have left?"
    source, questions, guided = tmp_path / "gsm8k.jsonl", tmp_path / "questions.jsonl", tmp_path / "guided.jsonl"
    source.write_text(json.dumps({"question": question, "answer": "12-5 = <<12-5=7>>7\n#### 7"}) + "\n")
    done = run("convert", source, questions)
    assert (done.returncode, done.stderr) == (0, f"{questions}: 1 examples\n")
    teacher = Path(edgereason.__file__).parent / "default_bundle"
    done = run("guide", questions, guided, "--teacher", teacher, "--samples", 2, "--json", tmp_path / "counts.json")
    assert done.returncode == 0, done.stderr
    assert "2 texts: 1 kept, for 1 of 1 questions; dropped: 1 " in done.stderr
    example = json.loads(guided.read_text(encoding="utf-8"))
    assert example["guidance"].startswith("Asked:")
    assert (example["answer"], example["result"]) == ("12-5 = <<12-5=7>>7\n#### 7", "7")
    assert json.loads((tmp_path / "counts.json").read_text())["kept"] == 1


def test_bad_data_is_a_sentence_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "How many?"}\n')
    done = run("guide", path, tmp_path / "out.jsonl", "--teacher", "nobody")
    assert done.returncode == 2
    assert f'{path}:1 has no "result"' in done.stderr
    assert "Traceback" not in done.stderr
