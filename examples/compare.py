"""Ask several bundles the same question and compare guidance, answers and timings.

    python examples/compare.py "Tom has 12 apples and eats 5. How many are left?" one.bundle another.bundle

This is what `make demo` runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from edgereason import EdgeReasonError, Result, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question")
    parser.add_argument("bundles", nargs="+")
    arguments = parser.parse_args()
    results = []
    for bundle in arguments.bundles:
        with load(bundle) as reasoner:
            results.append(reasoner.ask(arguments.question))
    console = Console(highlight=False)
    console.print(f"[bold]{arguments.question}[/bold]\n")
    for result in results:
        body = f"[dim]{result.guidance}[/dim]\n\n{result.answer}\n\n[bold]{result.final}[/bold]"
        console.print(Panel(body, title=f"{result.engine}  ({result.bundle})", title_align="left"))
    console.print(timings_table(results))


def timings_table(results: list[Result]) -> Table:
    """Milliseconds and rates of each result, one column per bundle."""
    table = Table(title="timings", title_justify="left", box=None)
    table.add_column("")
    for result in results:
        table.add_column(Path(result.bundle).name, justify="right")
    table.add_row("load, ms", *(f"{result.timings.load_s * 1000:.0f}" for result in results))
    for name in ("guidance", "answer"):
        stages = [getattr(result.timings, name) for result in results]
        table.add_row(f"{name}: prompt, tokens", *(str(stage.prompt_tokens) for stage in stages))
        table.add_row(f"{name}: prefill, ms", *(f"{stage.prefill_s * 1000:.1f}" for stage in stages))
        table.add_row(f"{name}: first token, ms", *(f"{stage.ttft_s * 1000:.1f}" for stage in stages))
        table.add_row(f"{name}: new tokens", *(str(stage.new_tokens) for stage in stages))
        rates = (f"{(stage.new_tokens - 1) / stage.decode_s:.0f}" if stage.decode_s else "-" for stage in stages)
        table.add_row(f"{name}: tokens/s", *rates)
    table.add_row("handover, ms", *(f"{result.timings.handover_s * 1000:.1f}" for result in results))
    table.add_row("total, ms", *(f"{result.timings.total_s * 1000:.0f}" for result in results))
    return table


if __name__ == "__main__":
    try:
        main()
    except EdgeReasonError as error:
        sys.exit(f"error: {error}")
