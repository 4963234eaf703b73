"""Progress without a terminal: a line when a step is complete, and one every interval however long a step takes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Standing:
    """Where work stands.

    Attributes:
        step: What is being done.
        done: Units of it that are done.
        total: Units in all; None where that is not known yet.
        detail: What else there is to say, such as a loss.
        seconds: How long the step has been going on.
        seconds_left: How long it will still take at the speed so far; None where that is not known yet.
    """

    step: str
    done: int = 0
    total: int | None = None
    detail: str = ""
    seconds: float = 0.0
    seconds_left: float | None = None

    @property
    def complete(self) -> bool:
        return self.total is not None and self.done >= self.total


def text_line(standing: Standing) -> str:
    """A line for people.

    >>> text_line(Standing("eval my.bundle", 120, 1319, "84.2% right", 20.0, 200.0))
    'eval my.bundle: 120 of 1,319 (9%), 84.2% right, 3 min left'
    >>> text_line(Standing("export", seconds=31.0))
    'export: for 31 s'
    """
    if standing.total is None:
        parts = [f"for {_duration(standing.seconds)}"]
    else:
        share = standing.done / standing.total if standing.total else 1.0
        parts = [f"{standing.done:,} of {standing.total:,} ({share:.0%})"]
    if standing.detail:
        parts.append(standing.detail)
    if standing.complete:
        parts.append("done")
    elif standing.seconds_left is not None:
        parts.append(f"{_duration(standing.seconds_left)} left")
    return f"{standing.step}: {', '.join(parts)}"


def json_line(standing: Standing, command: str) -> str:
    """A JSON object for machines; `detail` is there where there is something to say."""
    left = standing.seconds_left
    if left is not None:
        left = 0.0 if standing.complete else max(round(left, 1), 0.1)  # 0 says that the step is complete
    value = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "step": standing.step,
        "done": standing.done,
        "total": standing.total,
        "seconds_left": left,
    }
    return json.dumps(value | ({"detail": standing.detail} if standing.detail else {}), ensure_ascii=False)


class ProgressLog:
    """Follows the steps of one piece of work and writes where it stands.

    Args:
        what: Names the work while no step has reported itself.
        write: Gets each standing.
        clock: Seconds; only differences count.
    """

    def __init__(
        self, what: str, write: Callable[[Standing], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._total: int | None = None
        self._completed: tuple[str, int] | None = None
        self._begin(what, 0)

    def report(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Note how far a step is; a complete one is written at once."""
        with self._lock:
            if done >= total and (step, total) == self._completed:
                return
            if step != self._step or self._total is None:
                self._begin(step, done)
            self._done, self._total, self._detail, self._reported = done, total, detail, self._clock()
            if done >= total:
                self._write(self._standing())
                self._begin(self._what, 0)
                self._completed = (step, total)

    def tick(self) -> None:
        """Write where the work stands now."""
        with self._lock:
            self._write(self._standing())

    def _begin(self, step: str, done: int) -> None:
        self._step, self._first, self._done, self._detail = step, done, done, ""
        self._total = self._completed = None
        self._started = self._reported = self._clock()

    def _standing(self) -> Standing:
        seconds = self._clock() - self._started
        return Standing(self._step, self._done, self._total, self._detail, seconds, self._seconds_left())

    def _seconds_left(self) -> float | None:
        if self._total is None or (self._done < self._total and self._done <= self._first):
            return None
        if self._done >= self._total:
            return 0.0
        each = (self._reported - self._started) / (self._done - self._first)
        since = self._clock() - self._reported
        # At least something: the step has not ended, however long its last unit takes.
        return max(each * (self._total - self._done) - since, each / 10)


@contextmanager
def every(interval_s: float, action: Callable[[], object]) -> Iterator[None]:
    """Run an action again and again, in a thread that ends with the block."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(interval_s):
            action()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
