"""Reading the fields of a `config.json`, with errors that name the field."""

from __future__ import annotations

from typing import Any

from edgereason.errors import BundleError

_LARGEST = 1 << 31


def integer(values: dict[str, Any], name: str, default: int | None = None) -> int:
    """A positive whole number; `default` where the field is absent or null.

    Raises:
        BundleError: absent without a default, or no positive whole number.
    """
    value = default if values.get(name) is None else values[name]
    if type(value) is not int or not 0 < value < _LARGEST:
        raise BundleError(f"config.json: {name} is {value!r}, it has to be a positive whole number.")
    return value


def number(values: dict[str, Any], name: str, default: float) -> float:
    """A finite number that is not negative."""
    value = default if values.get(name) is None else values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise BundleError(f"config.json: {name} is {value!r}, it has to be a number, at least 0.")
    return float(value)


def refuse(values: dict[str, Any], **covered: object) -> None:
    """Refuse a configuration with a field that has another value than the one that the family's file covers."""
    for name, value in covered.items():
        found = values.get(name)
        if found is not None and found != value:
            raise BundleError(f"config.json: {name} = {found!r} is not covered, only {value!r}.", "Use another format.")
