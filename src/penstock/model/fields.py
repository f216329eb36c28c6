"""Typed, bounded access to a config's fields.

Knows nothing about families. Invariant: a value that is returned has the asked type and lies within its bounds; JSON
null counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from penstock.core import ModelFileError, limits


class Fields:
    """The fields of one JSON object.

    Args:
        values: as parsed.
        source: the file's path, for messages.
    """

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values = values
        self.source = source

    def error(self, message: str, hint: str | None = None) -> ModelFileError:
        """An error about this file."""
        return ModelFileError(f"{self.source}: {message}", hint=hint)

    def get(self, name: str) -> Any:
        """The raw value, None where absent."""
        return self.values.get(name)

    def optional_integer(self, name: str, low: int = 1, high: int = limits.MAX_HIDDEN) -> int | None:
        """An integer in [low, high], or None where absent.

        Raises:
            ModelFileError: another type or out of range.
        """
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(f"{name} is {shown(value)}; an integer is needed.")
        if not low <= value <= high:
            raise self.error(f"{name} is {shown(value)}; it must lie in [{low}, {high}].")
        return value

    def integer(self, name: str, default: int | None = None, low: int = 1, high: int = limits.MAX_HIDDEN) -> int:
        """An integer in [low, high]; `default` where absent.

        Raises:
            ModelFileError: absent without a default, another type or out of range.
        """
        value = self.optional_integer(name, low, high)
        if value is None:
            value = default
        if value is None:
            raise self.error(f"{name} is missing.")
        return value

    def optional_number(self, name: str) -> float | None:
        """A finite number, or None where absent.

        Raises:
            ModelFileError: another type, infinite or NaN.
        """
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(f"{name} is {shown(value)}; a number is needed.")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(f"{name} is {shown(value)}; a finite number is needed.")
        return number

    def positive(self, name: str, default: float | None = None) -> float:
        """A finite number above zero; `default` where absent.

        Raises:
            ModelFileError: absent without a default, another type, or not above zero.
        """
        value = self.optional_number(name)
        if value is None:
            value = default
        if value is None:
            raise self.error(f"{name} is missing.")
        if value <= 0:
            raise self.error(f"{name} is {shown(value)}; it must be above zero.")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A boolean; `default` where absent.

        Raises:
            ModelFileError: another type.
        """
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(f"{name} is {shown(value)}; true or false is needed.")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string; `default` where absent.

        Raises:
            ModelFileError: absent without a default, or another type.
        """
        value = self.get(name)
        if value is None:
            value = default
        if not isinstance(value, str):
            raise self.error(f"{name} is {shown(value)}; a string is needed.")
        return value

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One id or a list of ids as a tuple; () where absent.

        Raises:
            ModelFileError: another type, too many, or an id out of range.
        """
        value = self.get(name)
        items = [] if value is None else value if isinstance(value, list) else [value]
        if len(items) > limits.MAX_STOP_TOKEN_IDS:
            raise self.error(f"{name} has {len(items)} ids; at most {limits.MAX_STOP_TOKEN_IDS}.")
        for item in items:
            if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < limits.MAX_VOCAB:
                raise self.error(f"{name} holds {shown(item)}; token ids are integers in [0, {limits.MAX_VOCAB}).")
        return tuple(items)


def shown(value: object) -> str:
    """A value as it appears in a message: one short line."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than may be printed
        text = "a huge integer"
    return text if len(text) <= 80 else text[:77] + "..."
