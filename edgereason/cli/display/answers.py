"""Answers on a terminal, as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from edgereason.pipeline.results import Event, Result

OUTSIDE = "outside of what this small model knows"


def show_events(events: Iterator[Event], console: Console) -> Result:
    """Write the stages' text as it comes, the guidance dimmed, and a line of timings at the end."""
    styles = {"guidance": "dim", "answer": ""}
    stage = None
    for event in events:
        if event.result is not None:
            break
        if stage is not None and event.stage != stage:
            console.print("\n")
        stage = event.stage
        console.print(event.text, style=styles[stage], end="", markup=False)
    result = event.result
    assert result is not None
    console.print()
    if result.final is not None:
        console.print(f"\n{result.final}", style="bold", markup=False)
    if result.agreement is not None:
        agreeing = round(result.agreement * result.samples)
        console.print(f"{agreeing} of {result.samples} answers agree", style="dim", markup=False)
    if result.in_domain is False:
        console.print(OUTSIDE, style="yellow")
    for notice in result.notices:
        console.print(notice, style="yellow", markup=False)
    console.print(timing_line(result), style="dim", markup=False)
    return result


def timing_line(result: Result) -> str:
    """Where the time went, in one line."""
    timings = result.timings
    parts = [f"load {timings.load_s:.2f} s"]
    for name, stage in (("guidance", timings.guidance), ("answer", timings.answer)):
        if stage.new_tokens:
            rate = f", {(stage.new_tokens - 1) / stage.decode_s:.0f} tok/s" if stage.decode_s else ""
            parts.append(f"{name} {stage.new_tokens} tokens (first after {stage.ttft_s * 1000:.0f} ms{rate})")
    return f"{result.engine}: {' · '.join(parts)} · total {timings.total_s:.2f} s"
