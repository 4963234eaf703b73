"""Where things lie. Not in conftest.py: several directories have one, and only one can be imported by that name."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
WORD_PROBLEMS = ROOT / "examples" / "word_problems"
"""The default model: base, adapters, and problems that it was not trained on."""
HELD_OUT = WORD_PROBLEMS / "held_out.jsonl"
