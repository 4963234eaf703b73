"""What the rounds of a comparison come to: medians, ratios, fractions of the machine's limits; as table, JSON, plot."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from machine import Limits
from rich.console import Console
from rich.table import Table

from edgereason.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = ("prefill_tok_s", "decode_tok_s", "peak_rss_mb", "load_s")
OURS = "native"
DISTURBED = 0.1
"""Share of the machine that other programs may take during a run without spoiling it."""
Round = Mapping[str, Mapping[str, Any]]
"""Engine -> its figures, and what else it says of itself."""


def summarize(
    rounds: Sequence[Round], limits: Sequence[Limits], bytes_per_token: Mapping[str, int], products: int
) -> dict[str, Any]:
    """Medians over the rounds; of the machine's limits the highest, since what disturbs them can only lower them.

    Args:
        rounds: The figures of each round.
        limits: What the machine reached in each round.
        bytes_per_token: The engines to report, and the bytes of weights that each reads to decode a token.
        products: Multiplications that a prompt's token needs, embedding, head and attention aside.

    Returns:
        `{"machine": {"read_gb_s", "int8_tops", ...}, "engines": [{"engine", "prefill_tok_s", "decode_tok_s",
        "peak_rss_mb", "load_s", ...}], "ratios": [{"engine", "prefill", "decode", ...}], "rounds": rounds}`. A ratio is
        the median of ours over theirs within a round, so that what slows a whole round down does not count.
    """
    read = max(each.read_gb_s for each in limits)
    tops = max(each.int8_tops for each in limits)
    machine = {
        "read_gb_s": read,
        "int8_tops": tops,
        "read_gb_s_small_pages": max(each.read_gb_s_small_pages for each in limits),
        "int8_tops_by_isa": {
            isa: max(each.int8_tops_by_isa[isa] for each in limits) for isa in limits[0].int8_tops_by_isa
        },
    }
    engines = []
    for engine, size in bytes_per_token.items():
        figures = {name: median(each[engine][name] for each in rounds) for name in FIGURES}
        entry = {
            "engine": engine,
            **figures,
            "bytes_per_token": size,
            "decode_of_read_rate": figures["decode_tok_s"] * size / (read * 1e9),
            "prefill_of_int8_rate": figures["prefill_tok_s"] * 2 * products / (tops * 1e12) if tops else None,
        }
        entry["others"] = median(each[engine].get("others", 0.0) for each in rounds)
        about = {name: value for name, value in rounds[0][engine].items() if name not in entry}
        engines.append({**entry, **about})
    return {
        "machine": machine,
        "engines": engines,
        "ratios": _ratios(rounds, list(bytes_per_token)),
        "rounds": [dict(each) for each in rounds],
    }


def _ratios(rounds: Sequence[Round], engines: Sequence[str]) -> list[dict[str, Any]]:
    """Ours over theirs, for each peer."""
    if OURS not in engines:
        return []
    short = {name: name.split("_")[0] for name in FIGURES}
    return [
        {
            "engine": peer,
            **{short[name]: median(each[OURS][name] / each[peer][name] for each in rounds) for name in FIGURES},
        }
        for peer in engines
        if peer != OURS
    ]


def show(results: Mapping[str, Any]) -> None:
    """Print the table."""
    machine = results["machine"]
    caption = (
        f"{results['threads']} threads, medians of {len(results['rounds'])} rounds. "
        f"The machine reads {machine['read_gb_s']:.1f} GB/s ({machine['read_gb_s_small_pages']:.1f} in small pages) "
        f"and multiplies {machine['int8_tops']:.2f} int8 TOPS: % is of these. "
        "Load is to the first token, files in memory. Ours: how many times theirs, median within a round."
    )
    disturbance = max((each["others"] for each in results["engines"]), default=0.0)
    if disturbance > DISTURBED:
        caption += f" Other programs took up to {disturbance:.0%} of the machine: measure again when it is idle."
    title = f"{results['shape']}, int4, {results['prompt_tokens']} tokens of prompt, {results['new_tokens']} decoded"
    table = Table(title=title, caption=caption)
    table.add_column("engine", no_wrap=True)
    for column in ("prefill\ntok/s", "of\nint8", "decode\ntok/s", "of\nreads", "peak\nMB", "load\ns"):
        table.add_column(column, justify="right")
    table.add_column("ours: prefill,\ndecode", justify="right")
    ratios = {each["engine"]: f"{each['prefill']:.2f}x, {each['decode']:.2f}x" for each in results["ratios"]}
    for each in results["engines"]:
        table.add_row(
            each["engine"],
            f"{each['prefill_tok_s']:.0f}",
            _percent(each["prefill_of_int8_rate"]),
            f"{each['decode_tok_s']:.1f}",
            _percent(each["decode_of_read_rate"]),
            f"{each['peak_rss_mb']:.0f}",
            f"{each['load_s']:.2f}",
            ratios.get(each["engine"], ""),
        )
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    for engine, reason in results["skipped"].items():
        console.print(f"{engine}: {reason}", markup=False)


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.0%}"


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """Write the results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(results, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw prefill and decode speeds as bars, the range over the rounds as a line on each.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure = new_figure(9, 3)
    names = [each["engine"] for each in results["engines"]]
    titles = {
        "prefill_tok_s": f"prefill, {results['prompt_tokens']} tokens",
        "decode_tok_s": f"decode, {results['new_tokens']} tokens",
    }
    for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        values = [each[key] for each in results["engines"]]
        rounds = [[each[name][key] for each in results["rounds"]] for name in names]
        low = [value - min(each) for value, each in zip(values, rounds, strict=True)]
        high = [max(each) - value for value, each in zip(values, rounds, strict=True)]
        colors = ["tab:blue" if name == OURS else "tab:gray" for name in names]
        bars = axes.barh(names, values, xerr=(low, high), color=colors)
        axes.bar_label(bars, fmt="{:.0f}", padding=6)
        axes.set_ylim(len(names) - 0.5, -0.5)  # the first on top
        axes.margins(x=0.25)
        axes.set(title=title, xlabel="tokens per second")
    figure.suptitle(f"{results['shape']}, int4, {results['threads']} threads")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("--plot needs matplotlib, which is not installed.", "pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def say(text: str) -> None:
    """Show what is going on: in one line of a terminal, in lines of their own in a log."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)
