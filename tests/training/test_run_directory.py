"""What a training may replace, and what it goes on from after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgereason.errors import UsageError
from edgereason.training.run_directory import last_whole_checkpoint, run_directory


def train(out: Path, text: str = "new", stop: bool = False, **options: bool) -> None:
    with run_directory(out, {"steps": 1}, **options) as run:
        (run.result / "adapter_config.json").write_text(text)
        if stop:
            raise KeyboardInterrupt


def checkpoint(directory: Path, step: int, state: str | None) -> Path:
    made = directory / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "adapter_model.safetensors").write_bytes(b"")
    if state is not None:
        (made / "trainer_state.json").write_text(state)
    return made


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(tmp_path: Path) -> None:
    assert last_whole_checkpoint(tmp_path / "nowhere") is None
    checkpoint(tmp_path, 200, None)
    assert last_whole_checkpoint(tmp_path) is None
    whole = checkpoint(tmp_path, 90, '{"global_step": 90}')
    checkpoint(tmp_path, 80, '{"global_step": 80}')
    checkpoint(tmp_path, 100, '{"global_st')
    (tmp_path / "checkpoint-best").mkdir()
    assert last_whole_checkpoint(tmp_path) == str(whole)


def test_force_replaces_an_adapter(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    train(out, "old")
    with pytest.raises(UsageError, match="exists already"):
        train(out)
    train(out, force=True)
    assert (out / "adapter_config.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("content", [["thesis.tex"], ["config.json", "adapter_config.json"], ["guidance/adapter.txt"]])
def test_force_replaces_nothing_else(tmp_path: Path, content: list[str]) -> None:
    out = tmp_path / "mine"
    for name in content:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    with pytest.raises(UsageError, match="is not an adapter's directory, and so is not replaced"):
        train(out, force=True)
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "file").write_text("mine")
    for name in ("link", "file"):
        with pytest.raises(UsageError, match="is not replaced"):
            train(tmp_path / name, force=True)
    assert all((out / name).read_text() == "mine" for name in content)


def test_what_a_killed_training_had_moved_aside_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    train(out, "old")
    out.rename(tmp_path / ".adapter.123.old")
    with pytest.raises(KeyboardInterrupt):
        train(out, force=True, stop=True)
    assert (out / "adapter_config.json").read_text() == "old"
    train(out, force=True)
    assert list(tmp_path.iterdir()) == [out]
