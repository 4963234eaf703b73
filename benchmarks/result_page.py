"""Tables of results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from result_lines import Found, Table

from edgereason.evaluation import Accuracy, Comparison

_HEAD = """# Results

`make results` measures what is below and writes this page, whatever it shows. Brackets hold 95% intervals: a bootstrap
over the problems, and for differences one over pairs, since both ways face the same problems. p is McNemar's exact test
([how to read them](evaluation.md)). Decoding is greedy where nothing else is said.
"""


def page(tables: Sequence[tuple[Table, Mapping[str, Sequence[Found]]]]) -> str:
    """The page's text."""
    return "\n".join([_HEAD, *(_section(table, found) for table, found in tables)])


def _section(table: Table, found: Mapping[str, Sequence[Found]]) -> str:
    parts = [f"## {table.title}\n", f"{table.text}\n"]
    for data, lines in found.items():
        parts.append(f"{len(table.problems[data])} problems, `{data}`:\n")
        parts.append(_lines(lines))
    return "\n".join(parts)


def _lines(lines: Sequence[Found]) -> str:
    rows = [f"| {each.line.name} | {_share(each.report.accuracy)} | {_difference(each.against)} |" for each in lines]
    return "\n".join(["| | right | difference |", "| --- | --- | --- |", *rows, ""])


def _share(figures: Accuracy) -> str:
    return f"{100 * figures.accuracy:.1f}% ({100 * figures.low:.1f} to {100 * figures.high:.1f})"


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    c = comparison
    interval = f"{100 * c.low:+.1f} to {100 * c.high:+.1f}"
    return f"{100 * c.difference:+.1f} points ({interval}) to {c.other}, p = {c.p:.2g}"
