"""`edgereason export` of two models, each a base with an adapter: `CHECKPOINT/..` holds base, guidance and answer."""

from __future__ import annotations

from pathlib import Path

from edgereason.export import export


def unverified(base: Path, out: Path) -> None:
    """Merge, quantize, write."""
    _export(base, out, verify=False)


def verified(base: Path, out: Path) -> None:
    """The same, and the fidelity report. Random weights lose much, so that losses are allowed."""
    _export(base, out, verify=True)


def _export(base: Path, out: Path, verify: bool) -> None:
    pair = base.parent
    export(pair / "base", pair / "guidance", pair / "answer", out / "bundle", verify=verify, allow_loss=True)
