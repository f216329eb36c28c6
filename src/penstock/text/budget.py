"""How much work one rendering may do: counted, so that a hostile template ends after the same step every time.

Knows nothing about Jinja. Invariant: every loop turn, call, operator and built string pays before or when it happens;
once the budget is spent nothing more runs.
"""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from typing import Any

from penstock.core import limits

_MAX_INT_BITS = 256
_ASCII_SHARE = 4  # others take up to four bytes; published templates copy the prompt so far at every message
_MEMBER_CHARS = 4  # what one place in a container takes


class BudgetSpent(Exception):
    """The rendering took more work than it may."""


class RenderBudget:
    """Work left to one rendering: steps (loop turns, calls, elements looked at) and characters built.

    Args:
        steps: how many steps.
        chars: how many characters.
    """

    __slots__ = ("_chars", "_steps")

    def __init__(self, steps: int = limits.MAX_RENDER_STEPS, chars: int = limits.MAX_RENDER_WORK_CHARS) -> None:
        self._steps = steps
        self._chars = chars

    def step(self, count: int = 1) -> None:
        """Pays for steps."""
        self._steps -= count
        if self._steps < 0:
            raise BudgetSpent("too many steps")

    def fits(self, count: int) -> None:
        """Passes if a string of that many characters may be built; it is paid for once it is (`built`)."""
        if count > limits.MAX_RENDERED_CHARS:
            raise BudgetSpent("too long a string")

    def chars(self, count: int) -> None:
        """Pays for characters."""
        self.fits(count)
        self._chars -= count
        if self._chars < 0:
            raise BudgetSpent("too many characters")

    def measure(self, value: Any) -> int:
        """Pays for looking at a whole value, containers opened; returns its size in characters, roughly."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, int):
            if value.bit_length() > _MAX_INT_BITS:
                raise BudgetSpent("too large a number")
            return 8
        if value is None or isinstance(value, float):
            return 16
        if isinstance(value, (list, tuple)):  # before the abstract types, which take long to tell
            self.step(len(value) + 1)
            return 2 * len(value) + sum(map(self.measure, value))
        if isinstance(value, Mapping):
            self.step(len(value) + 1)
            return 4 * len(value) + sum(map(self.measure, value)) + sum(map(self.measure, value.values()))
        if isinstance(value, (set, frozenset, KeysView, ValuesView, ItemsView)):
            self.step(len(value) + 1)
            return 2 * len(value) + sum(map(self.measure, value))
        return 16

    def built(self, value: Any) -> Any:
        """The value itself, once its size has been paid for."""
        self.step()
        if isinstance(value, str):
            self.fits(len(value))
            self.chars(len(value) // _ASCII_SHARE if value.isascii() else len(value))
        elif isinstance(value, int):
            self.measure(value)
        elif isinstance(value, (list, tuple, dict)):
            self.held(len(value))
        return value

    def held(self, count: int) -> None:
        """Pays for a container of that many values."""
        self.chars(_MEMBER_CHARS * count)

    def written(self, value: Any) -> Any:
        """The value itself, once what its text takes has been paid for; before the text is made."""
        self.step()
        self.chars(self.measure(value))
        return value
