"""The directory of a training: nothing has its name before it is complete, and an interrupted one can be resumed.

    my-adapter.partial/        while training
      run.json                 what is trained: settings, and the sums of base and data
      checkpoints/             transformers' own
      result/                  becomes my-adapter
    my-adapter/
      adapter_config.json  adapter_model.safetensors  prompt.json
      run.json  trainer_state.json  loss.png

Under `accelerate launch` the first process alone creates, removes and renames; the others wait for it.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from edgereason.errors import BundleError, UsageError
from edgereason.files import new_file, read_json, write_json
from edgereason.publishing import publish, recover
from edgereason.training.distributed import processes

RECORD = "run.json"


@dataclass(frozen=True)
class Run:
    """A training in progress.

    Attributes:
        path: The directory that holds everything until the end; a recipe of several steps makes its own in it.
        settings: What `run.json` records.
    """

    path: Path
    settings: Mapping[str, Any]

    @property
    def checkpoints(self) -> Path:
        """Where transformers' Trainer saves its state."""
        return self.path / "checkpoints"

    @property
    def result(self) -> Path:
        """Becomes the adapter's directory."""
        return self.path / "result"

    def last_checkpoint(self) -> str | None:
        """What to resume from, in the form that `Trainer.train` takes; None at the beginning."""
        return last_whole_checkpoint(self.checkpoints)


def last_whole_checkpoint(directory: Path) -> str | None:
    """The newest of the Trainer's checkpoints in a directory that was written to its end; None where there is none.

    The Trainer writes `trainer_state.json` last. A kill before that leaves a checkpoint that cannot be resumed from, or
    worse, only in part.
    """
    whole: dict[int, Path] = {}
    for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        with suppress(BundleError):
            if step.isdecimal() and read_json(path / "trainer_state.json"):
                whole[int(step)] = path
    return str(whole[max(whole)]) if whole else None


@contextmanager
def run_directory(out: Path, settings: Mapping[str, Any], resume: bool = False, force: bool = False) -> Iterator[Run]:
    """A place to train in, whose result becomes `out` when the block ends well; otherwise it stays, to be resumed.

    Args:
        out: The adapter's directory.
        settings: JSON that tells this training from another; what it changes is not resumed.
        resume: Resume an interrupted training with the same settings.
        force: Replace the adapter at `out`, and start over where a training was interrupted.

    Raises:
        UsageError: `out` exists and is not to be replaced, or is no adapter; an interrupted training is there and
            neither resumed nor replaced, or its settings were others.
    """
    state = processes()
    # As a file gives them back, where tuples are lists.
    run = Run(_place(out), json.loads(json.dumps(settings)))
    if state.is_main_process:
        recover(out)
    state.wait_for_everyone()
    # Every process looks before the first one writes.
    _check(out, run, resume, force)
    state.wait_for_everyone()
    if state.is_main_process:
        _prepare(run, resume)
    state.wait_for_everyone()
    yield run
    state.wait_for_everyone()
    if state.is_main_process:
        write_json(run.result / RECORD, run.settings)
        publish(run.result, out, force)
        shutil.rmtree(run.path)
    state.wait_for_everyone()


def first_day(out: Path, resume: bool) -> datetime.date:
    """The day that a resumed training of `out` began on, as the prompt in its record has it; or today."""
    record = _place(out) / RECORD
    prompt = read_json(record).get("prompt") if resume and record.is_file() else None
    began = prompt.get("date") if isinstance(prompt, dict) else None
    with suppress(ValueError, TypeError):
        return datetime.date.fromisoformat(began)  # type: ignore[arg-type]
    return datetime.date.today()


def _place(out: Path) -> Path:
    return out.absolute().with_name(f"{out.name}.partial")


def _check(out: Path, run: Run, resume: bool, force: bool) -> None:
    if out.exists() and not force:
        raise UsageError(f"{out} exists already.", "Give another --out, or --force to replace it.")
    if os.path.lexists(out) and not _replaceable(out):
        raise UsageError(f"{out} is not an adapter's directory, and so is not replaced.", "Give another --out.")
    record = run.path / RECORD
    if not record.is_file() or (force and not resume):
        return
    if not resume:
        raise UsageError(
            f"{run.path} is an interrupted training.", "Resume it with --resume, or start over with --force."
        )
    before = read_json(record)
    changed = sorted(name for name in {*before, *run.settings} if before.get(name) != run.settings.get(name))
    if changed:
        raise UsageError(
            f"{run.path} was started with another {', '.join(changed)}.",
            "Use the same settings, or start over with --force and without --resume.",
        )


def _replaceable(out: Path) -> bool:
    """Whether it is an adapter's directory or an empty one, and no link to one."""
    if out.is_symlink() or not out.is_dir() or (out / "config.json").exists():
        return False
    return (out / "adapter_config.json").is_file() or not any(out.iterdir())


def _prepare(run: Run, resume: bool) -> None:
    if not (resume and (run.path / RECORD).is_file()):
        shutil.rmtree(run.path, ignore_errors=True)
    shutil.rmtree(run.result, ignore_errors=True)
    run.result.mkdir(parents=True)
    with new_file(run.path / RECORD) as partial:
        write_json(partial, run.settings)
