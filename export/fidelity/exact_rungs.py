"""The rungs on which nothing may differ: token ids, rendered prompts, end tokens.

The reference is what an adapter was trained with: transformers' own tokenizer, chat template and generation settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edgereason.errors import BundleError, ExportError
from edgereason.text.prompts import Prompt
from edgereason.text.tokenizer import Tokenizer

ExactComparison = tuple[dict[str, float], str]
"""`compared` and `different`, and a description of the first difference (empty where all are equal)."""

PROBES = (
    "She sells 16 eggs.",
    "",
    " ",
    "  two  spaces,\ttab\n\nand lines \r\n",
    "Don't we'll I'M THEY'VE",
    "3.14159 and 1,000,000 - 12% of $5 = 42",
    "naïve café Ünïcödé \uff21\uff22 ﬁ e\u0301",
    "Привет, мир! 你好世界。 こんにちは 안녕 שלום مرحبا नमस्ते",
    "👩‍👩‍👧 ✓ → ∑ \u200b\ufeff",
    "def f(x):\n    return {'a': [1, 2]}  # <tag/>",
    "#### 42",
)


def compare_ids(reference: Any, bundle: Tokenizer, texts: Sequence[str]) -> ExactComparison:
    """Compare the token ids of texts, of probes in several scripts, and of every token's own text.

    Args:
        reference: transformers' tokenizer.
        bundle: The bundle's tokenizer.
        texts: What the models read and write.
    """
    vocabulary = [text for text in reference.batch_decode([[i] for i in range(len(reference))]) if "\ufffd" not in text]
    return compare_texts(reference, bundle.encode, [*texts, *PROBES, *vocabulary])


def compare_texts(reference: Any, encode: Callable[[str], list[int]], texts: Sequence[str]) -> ExactComparison:
    """Compare the token ids of texts from transformers' tokenizer `reference` with those from `encode`."""
    checked = list(dict.fromkeys(texts))
    expected = reference(checked, add_special_tokens=False)["input_ids"]
    different = [
        (text, ids, found) for text, ids in zip(checked, expected, strict=True) if (found := encode(text)) != list(ids)
    ]
    first = ""
    if different:
        text, ids, found = different[0]
        at = next((i for i, pair in enumerate(zip(ids, found, strict=False)) if pair[0] != pair[1]), 0)
        first = f"{_shortened(text)} has {found[at : at + 4]} where {list(ids[at : at + 4])} is right"
    return _counts(len(checked), len(different)), first


def compare_prompts(
    reference: Any, prompt: Prompt, bundle: Tokenizer, bundle_prompt: Prompt, asked: Iterable[tuple[str, str | None]]
) -> ExactComparison:
    """Compare rendered prompts: the adapter's prompt in the chat template of its training with the bundle's.

    Args:
        reference, prompt: transformers' tokenizer, and the adapter's prompt.
        bundle, bundle_prompt: The bundle's tokenizer and prompt.
        asked: Questions, each with its guidance or None.
    """
    compared, different, first = 0, 0, ""
    for question, guidance in asked:
        expected = render_prompt(reference, prompt, question, guidance)
        try:
            # Both take today for today: what the bundle keeps for it is the day of the training or export.
            found = bundle.render(bundle_prompt.messages(question, guidance))
        except BundleError as error:
            found = f"(refused: {error.what})"
        compared += 1
        if found != expected:
            different += 1
            first = first or _difference(found, expected)
    return _counts(compared, different), first


def render_prompt(tokenizer: Any, prompt: Prompt, question: str, guidance: str | None) -> str:
    """A prompt's text as transformers renders it."""
    return _rendered(tokenizer, prompt.messages(question, guidance))


def turn_end(tokenizer: Any) -> int | None:
    """The token that transformers' chat template puts behind an assistant's turn; None where it puts none."""
    turns = [{"role": "user", "content": "edgereason"}, {"role": "assistant", "content": "edgereasonanswer"}]
    try:
        behind = _rendered(tokenizer, turns, generate=False).rpartition("edgereasonanswer")[2].strip()
    except ExportError:
        return None
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
    return next((int(id_) for id_ in ids[:1] if id_ in tokenizer.added_tokens_decoder), None)


def _rendered(tokenizer: Any, messages: list[dict[str, str]], generate: bool = True) -> str:
    """A conversation as transformers renders it; of a system turn that the template does not take, the text goes first.

    Raises:
        ExportError: the template refuses these turns.
    """
    if messages[0]["role"] == "system" and not _takes_system(tokenizer):
        text = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        messages = [{"role": "user", "content": text}, *messages[2:]]
    try:
        return _apply(tokenizer, messages, generate)
    except Exception as error:
        raise ExportError(
            f"The chat template of {tokenizer.name_or_path} failed in transformers: {error}.",
            "Give the adapter a chat template that takes its prompt.",
        ) from error


def _takes_system(tokenizer: Any) -> bool:
    """Whether transformers' chat template shows the text of a system turn."""
    system = [{"role": "system", "content": "edgereasonsystem"}, {"role": "user", "content": "edgereason"}]
    try:
        return "edgereasonsystem" in _apply(tokenizer, system, True)
    except Exception:  # whatever a template raises
        return False


def _apply(tokenizer: Any, messages: list[dict[str, str]], generate: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))


def compare_stops(expected: frozenset[int], found: Mapping[str, Iterable[int]]) -> ExactComparison:
    """Compare the stop tokens of each of the bundle's files with the reference's.

    Args:
        expected: The reference's stop tokens.
        found: The bundle's, by the file that names them. The manifest has to name all of them, since the decoding loop
            uses it; other files may name some of them, and no others.
    """
    different, first = 0, ""
    for where, tokens in found.items():
        named = frozenset(tokens)
        lost, added = expected - named if where == "bundle.json" else frozenset(), named - expected
        if lost or added or not named:
            different += 1
            first = first or f"{where} names {sorted(named) or 'none'}, the reference {sorted(expected)}"
    return _counts(len(found), different), first


def _counts(compared: int, different: int) -> dict[str, float]:
    return {"compared": compared, "different": different}


def _difference(found: str, expected: str) -> str:
    at = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(found), len(expected)) if at is None else at
    start = max(0, at - 12)
    return f"at character {at} {_shortened(found[start:])} stands for {_shortened(expected[start:])}"


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
