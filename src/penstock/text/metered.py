"""What templates may do to values, each with its price: filters, tests, comparisons, slices and text.

Knows nothing about syntax trees. Invariant: whatever takes longer, or more memory, the larger its values are is paid
for by their size, before it happens wherever the size can be known then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from jinja2 import pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.utils import Namespace

from penstock.text.budget import RenderBudget

BUDGET: Final = "budget!"  # a context key that no template can spell
_MAX_INDENT: Final = 16
_MAX_SEPARATOR_CHARS: Final = 8
_MAX_DIGITS: Final = 64
_GLANCE_CHARS: Final = 1024  # characters that are looked through in the time of one step
_GLANCE_ITEMS: Final = 64
# Filters that look at everything in a value, and those that go once over its members.
_DEEP: Final = frozenset(
    {"capitalize", "dictsort", "e", "escape", "float", "groupby", "indent", "int", "join", "lower", "max", "min"}
) | frozenset({"replace", "safe", "sort", "string", "sum", "title", "trim", "unique", "upper", "wordcount"})
_LINEAR: Final = frozenset({"list", "map", "reject", "rejectattr", "reverse", "select", "selectattr"})
_SEARCHES: Final = frozenset({"in"})
_WHOLE: Final = frozenset({"lower", "upper"})
_NUMERIC: Final = frozenset({"divisibleby", "even", "odd"})


class QuietNamespace(Namespace):
    """A namespace whose text does not show what is in it, which could be any size."""

    def __repr__(self) -> str:
        return "<Namespace>"


def budget_of(context: Context) -> RenderBudget:
    """The budget of the rendering under way."""
    budget = context.parent.get(BUDGET) or context.get(BUDGET)
    assert isinstance(budget, RenderBudget)
    return budget


@pass_context
def tick(context: Context, static_chars: int) -> str:
    """Pays for a turn of a loop or a stretch of fixed text."""
    budget = budget_of(context)
    budget.step()
    budget.chars(static_chars)
    return ""


@pass_context
def written(context: Context, value: Any) -> Any:
    """Pays for a value that is about to become text."""
    return budget_of(context).written(value)


@pass_context
def looked(context: Context, value: Any) -> Any:
    """Pays for a value that is about to be compared, or to be a key."""
    _look(budget_of(context), value)
    return value


@pass_context
def sliced(context: Context, value: Any) -> Any:
    """Pays for a slice that was just cut out."""
    return budget_of(context).built(value)


@pass_context
def contained(context: Context, value: Any, container: Any) -> bool:
    """The operator `in`, paid for."""
    pay_search(budget_of(context), container, value)
    return value in container


@pass_context
def concat(context: Context, values: list[Any]) -> str:
    """Joins the operands of `~`."""
    budget = budget_of(context)
    budget.step()
    budget.fits(sum(budget.measure(value) for value in values))
    return str(budget.built("".join(map(str, values))))


@pass_context
def tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates expect it: no HTML escapes, other scripts as they are."""
    if indent is not None and not 0 <= indent <= _MAX_INDENT:
        raise SecurityError(f"tojson(indent={indent})")
    if separators is not None and max(map(len, separators)) > _MAX_SEPARATOR_CHARS:
        raise SecurityError("tojson with long separators")
    budget = budget_of(context)
    if isinstance(value, (Iterator, range)):  # of map, select and the like
        value = drained(budget, value)
    budget.written(value)
    if indent:
        budget.chars(indent * _depths(value, 1))
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    budget.chars(len(text))
    return text


def metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for its input and its result; keeps what Jinja passes first."""
    mark = getattr(function, "jinja_pass_arg", None)
    first = getattr(mark, "name", "")

    @pass_context
    def metered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        value = _pay_filter(budget, name, value, args, kwargs)
        passed = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        lead = (passed[first],) if first in passed else ()
        return budget.built(function(*lead, value, *args, **kwargs))

    return metered


def metered_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A test (`is …`, `select(…)`) that pays for what it looks at."""
    mark = getattr(function, "jinja_pass_arg", None)

    @pass_context
    def metered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        budget.step()
        given = (*args, *kwargs.values())
        if name in _NUMERIC and not all(isinstance(number, (int, float)) for number in (value, *given)):
            raise SecurityError(f"{name} takes numbers")  # of a text, the remainder is a format
        if name in _WHOLE:
            budget.written(value)
        elif name in _SEARCHES and given:
            pay_search(budget, given[0], value)
        elif given:
            for each in (value, *given):
                _look(budget, each)
        return function(*(() if mark is None else (context.environment,)), value, *args, **kwargs)

    return metered


def pay_search(budget: RenderBudget, container: Any, value: Any) -> None:
    """Pays for looking for a value among the characters or the members of a container."""
    budget.step()
    size = budget.measure(value)
    if isinstance(container, str):
        budget.step(len(container) // _GLANCE_CHARS)
    elif hasattr(container, "__len__") and not isinstance(container, Mapping):
        budget.step(len(container) // _GLANCE_ITEMS * (1 + size // _GLANCE_CHARS))


def drained(budget: RenderBudget, values: Iterable[Any]) -> list[Any]:
    """The values of an iterator, each paid for before the next is made."""
    found: list[Any] = []
    for value in values:
        budget.step()
        found.append(value)
    return found


def _look(budget: RenderBudget, value: Any) -> None:
    """Pays for looking at a whole value."""
    budget.step(1 + len(value) // _GLANCE_CHARS if isinstance(value, str) else 1)
    budget.measure(value)


def _pay_filter(budget: RenderBudget, name: str, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The filter's input, paid for; a list in the place of an iterator that is looked at whole."""
    given = (*args, *kwargs.values())
    if name in _DEEP or name == "list":
        value = drained(budget, value) if isinstance(value, (Iterator, range)) else value
    if name in _DEEP:
        budget.written(value)
        _pay_growth(budget, name, value, args, kwargs)
    count = len(value) if hasattr(value, "__len__") else 1
    if name in _LINEAR:
        budget.step(1 + count)
    if name in _DEEP | _LINEAR:
        # Attributes' paths and what members are compared with are gone through once a member.
        letters = sum(len(each) for each in given if isinstance(each, str))
        budget.step(count * (letters // _GLANCE_CHARS))
        for each in given:
            budget.measure(each)
    if name == "round" and not all(isinstance(each, str) or abs(each) <= _MAX_DIGITS for each in given):
        raise SecurityError("round to so many digits")
    return value


def _pay_growth(budget: RenderBudget, name: str, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Pays for filters whose result is larger than what goes in."""
    if name == "indent":
        width = kwargs.get("width", args[0] if args else 4)
        size = len(width) if isinstance(width, str) else int(width)
        budget.chars(max(0, size) * (str(value).count("\n") + 1))
    elif name == "replace":
        old, new = (str(kwargs.get(key, args[at] if at < len(args) else "")) for at, key in enumerate(("old", "new")))
        budget.chars(str(value).count(old) * len(new))
    elif name in ("join", "sum"):  # a list of lists has a sum that is made anew for each of them
        count = len(value) if hasattr(value, "__len__") else 1
        for arg in (*args, *kwargs.values()):
            budget.chars(count * (budget.measure(value) if name == "sum" and _is_list(arg) else len(str(arg))))


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _depths(value: Any, depth: int) -> int:
    """How many times JSON that is laid out in lines indents, all in all."""
    if isinstance(value, Mapping):
        return sum(_depths(item, depth + 1) + depth for item in value.values()) + depth
    if _is_list(value):
        return sum(_depths(item, depth + 1) + depth for item in value) + depth
    return 0
