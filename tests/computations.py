"""What stands behind the `=` of a computation by Python's own parser, and a small model that writes computations."""

from __future__ import annotations

import ast
import json
import operator
import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import torch
from random_model import save_adapter, save_base
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from edgereason.text.prompts import ANSWER, GUIDANCE

_DUE = re.compile(r"<<([^<>=]*)=$")
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_LARGEST = 10**15


def due(text: str) -> str | None:
    """What has to follow `text` where it ends with `<<EXPRESSION=`: decimals, + - * / and parentheses."""
    match = _DUE.search(text)
    if match is None:
        return None
    try:
        # Numbers become names, because Python reads 012 and 0.1 in its own way.
        names: dict[str, str] = {}
        named = _NUMBER.sub(lambda number: f" {names.setdefault(number[0], f'n{len(names)}')} ", match[1])
        numbers = {name: Fraction(number) for number, name in names.items()}
        value = _value(ast.parse(" ".join(named.split()), mode="eval").body, numbers)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None
    if abs(value) > _LARGEST:
        return None
    decimals = f"{Decimal(value.numerator) / Decimal(value.denominator):.6f}".rstrip("0").rstrip(".")
    return f"{'0' if decimals == '-0' else decimals}>>"


def _value(node: ast.expr, numbers: dict[str, Fraction]) -> Fraction:
    match node:
        case ast.Name(id=name) if name in numbers:
            return numbers[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, numbers)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, numbers)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return Fraction(_OPERATIONS[type(operation)](_value(left, numbers), _value(right, numbers)))
    raise ValueError(ast.dump(node))


# Which characters like to follow which, some more than others.
_FOLLOWS = {
    "<": "<<<<<111222333444555666777888999((",
    **dict.fromkeys("123456789", "123456789++++---****///===="),
    **dict.fromkeys("+-*/(", "123456789"),
    ")": "+-=",
    "=": "\n\n\nab",
    ">": "\n<<",
    "\n": "<<a",
    "a": "<<<b",
    "b": "<<<a",
}


def save_calculating_trio(directory: Path) -> dict[str, Path]:
    """A base that writes computations, and random adapters, of which the answer's was trained so: paths for an export.

    The base's next token depends on the last one most, as `_FOLLOWS` says, and on the others through its layers.
    """
    paths = {name: directory / name for name in ("base", "guidance", "answer")}
    save_base(paths["base"], tie_word_embeddings=False, initializer_range=0.14, max_position_embeddings=512)
    tokenizer = Tokenizer.from_file(str(paths["base"] / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(paths["base"], dtype=torch.float32)
    torch.manual_seed(4)
    embeddings = torch.randn(model.get_input_embeddings().weight.shape)
    head = 0.02 * torch.randn(embeddings.shape)
    for last, followers in _FOLLOWS.items():
        for follower in followers:
            head[_id(tokenizer, follower)] += 0.11 * embeddings[_id(tokenizer, last)]
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(embeddings)
        model.get_output_embeddings().weight.copy_(head)
    model.to(torch.bfloat16).save_pretrained(paths["base"])
    save_adapter(paths["base"], paths["guidance"], GUIDANCE, seed=1)
    save_adapter(paths["base"], paths["answer"], replace(ANSWER, calculator=True), seed=2)
    config = json.loads((paths["base"] / "tokenizer_config.json").read_text())
    (paths["base"] / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 512}))
    return paths


def _id(tokenizer: Tokenizer, character: str) -> int:
    (token,) = tokenizer.encode(character, add_special_tokens=False).ids
    return int(token)
