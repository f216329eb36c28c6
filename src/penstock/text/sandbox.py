"""Jinja's immutable sandbox with a work budget: chat templates come with models, from strangers.

Knows nothing about messages or tokens. Invariant: a template reaches plain data only (no Python attributes, files,
imports or unlisted filters), and whatever it does ends within its `RenderBudget`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from penstock.text.budget import BudgetSpent, RenderBudget

BUDGET = "budget!"  # a context key that no template can spell
_MAX_INDENT = 16

# fmt: off
_FILTERS = frozenset((
    "abs", "bool", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float",
    "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min",
    "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string",
    "sum", "title", "tojson", "trim", "unique", "upper", "wordcount",
))
# fmt: on
# fmt: off
_STR_METHODS = frozenset((
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii",
    "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower",
    "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition",
    "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
))
# fmt: on
# Published templates keep queues in lists of their own; what a rendering is given is a copy made for it.
_LIST_METHODS = frozenset(("append", "pop"))
_PLAIN_PERCENT = re.compile(r"(?:[^%]|%[%ds])*")
_PLAIN_PLACES = re.compile(r"(?:[^{}]|\{\{|\}\}|\{\w{0,64}\})*")
# Filters that look at everything in a value, and those that go once over its members.
_DEEP = frozenset(
    {"capitalize", "dictsort", "e", "escape", "float", "groupby", "indent", "int", "join", "lower", "max", "min"}
) | frozenset({"replace", "safe", "sort", "string", "sum", "title", "trim", "unique", "upper", "wordcount"})
_LINEAR = frozenset({"list", "map", "reject", "rejectattr", "reverse", "select", "selectattr"})
_COMPARING_TESTS = frozenset({"eq", "==", "equalto", "ne", "!=", "lt", "<", "lessthan", "le", "<="}) | frozenset(
    {"gt", ">", "greaterthan", "ge", ">=", "in"}
)


class TemplateRefusal(TemplateError):
    """What a template says by `raise_exception`."""


def _budget(context: Context) -> RenderBudget:
    """The budget of the rendering under way."""
    budget = context.parent.get(BUDGET) or context.get(BUDGET)
    assert isinstance(budget, RenderBudget)
    return budget


@pass_context
def _tick(context: Context, static_chars: int) -> str:
    """Pays for a turn of a loop or a stretch of fixed text."""
    budget = _budget(context)
    budget.step()
    budget.chars(static_chars)
    return ""


@pass_context
def _written(context: Context, value: Any) -> Any:
    """Pays for a value that is about to become text."""
    return _budget(context).written(value)


@pass_context
def _looked(context: Context, value: Any) -> Any:
    """Pays for a value that is about to be compared; strings are compared in no time."""
    budget = _budget(context)
    budget.step()
    if not isinstance(value, str):
        budget.measure(value)
    return value


@pass_context
def _concat(context: Context, values: list[Any]) -> str:
    """Joins the operands of `~`."""
    budget = _budget(context)
    budget.step()
    budget.chars(sum(budget.measure(value) for value in values))
    return "".join(map(str, values))


@pass_context
def _tojson(
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
    budget = _budget(context)
    if isinstance(value, (Iterator, range)):  # of map, select and the like
        value = _drained(budget, value)
    budget.written(value)
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    budget.chars(len(text))
    return text


@pass_context
def _raise_exception(context: Context, message: Any) -> None:
    """Ends the rendering with the template's own message."""
    _budget(context).written(message)
    raise TemplateRefusal(str(message)[:1000])


class _Meter(NodeTransformer):
    """Puts payments into a template's syntax tree: loops, text, joins and comparisons."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        """A payment a turn."""
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_paid(nodes.Const(0), "penstock_tick"), lineno=node.lineno))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        """A payment for fixed text, and one for each value."""
        self.generic_visit(node)
        fixed = sum(len(part.data) for part in node.nodes if isinstance(part, nodes.TemplateData))
        parts: list[nodes.Expr] = [
            part if isinstance(part, nodes.TemplateData) else _paid(part, "penstock_written") for part in node.nodes
        ]
        if fixed:
            parts.insert(0, _paid(nodes.Const(fixed), "penstock_tick"))
        node.nodes = parts
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        """`~` by our own join."""
        self.generic_visit(node)
        return _paid(nodes.List(node.nodes, lineno=node.lineno), "penstock_concat")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        """A payment for what is compared."""
        self.generic_visit(node)
        if not isinstance(node.expr, nodes.Const):
            node.expr = _paid(node.expr, "penstock_looked")
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Test:
        """The same for comparisons that are written as tests."""
        self.generic_visit(node)
        if node.name in _COMPARING_TESTS:
            node.node = _paid(node.node, "penstock_looked")
        return node


def _paid(node: nodes.Expr, name: str) -> nodes.Filter:
    """A node under one of our filters."""
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class PlainFormat:
    """`str.format` of one text.

    Args:
        text: with places such as {}, {0} and {name}; no attributes, keys, conversions or widths.
    """

    __slots__ = ("places", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.places = text.count("{")

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        """The text with its places filled.

        Raises:
            SecurityError: a place is more than a name or a number.
        """
        if not _PLAIN_PLACES.fullmatch(self.text):
            raise SecurityError("format takes plain places only")
        return self.text.format(*args, **kwargs)


class Generation(Extension):
    """The tag `{% generation %}`, which marks answers for trainers: its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012  (Jinja reads it off the class)

    def parse(self, parser: Parser) -> nodes.Node:
        """The body, in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class MeteredSandbox(ImmutableSandboxedEnvironment):
    """The environment chat templates are written for, metered."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
        kept = {name: _metered(name, self.filters[name]) for name in _FILTERS & self.filters.keys()}
        kept["bool"] = _metered("bool", bool)
        self.filters.clear()
        self.filters.update(
            kept,
            tojson=_tojson,
            penstock_tick=_tick,
            penstock_written=_written,
            penstock_looked=_looked,
            penstock_concat=_concat,
        )
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace", "joiner", "cycler")}
        self.globals["raise_exception"] = _raise_exception

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The syntax tree with its payments."""
        tree: nodes.Template = super()._parse(source, name, filename)
        _Meter().visit(tree)
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, its size checked before it is computed."""
        budget = _budget(context)
        _check_binop(budget, operator, left, right)
        return budget.built(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call: macros, the few globals, and methods of plain data."""
        budget = _budget(__context)
        budget.step()
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, PlainFormat):
            size = sum(budget.measure(value) for value in (*args, *kwargs.values()))
            budget.chars(len(__obj.text) + __obj.places * size)
        elif isinstance(owner, (list, tuple)):
            budget.step(len(owner) // 1024)  # taking the first of a list moves all the others
            for value in args:
                budget.measure(value)
        elif isinstance(owner, str):
            _check_str_call(budget, owner, getattr(__obj, "__name__", ""), args)
        return budget.built(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> PlainFormat | None:
        """`str.format` for plain places; other ways to format stay out: a width can ask for gigabytes."""
        owner = getattr(value, "__self__", None)
        return PlainFormat(owner) if isinstance(owner, str) and value.__name__ == "format" else None

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Plain data's public names; of strings only the methods that can't make them much longer."""
        if isinstance(obj, str):
            return attr in _STR_METHODS
        if isinstance(obj, list) and attr in _LIST_METHODS:
            return True
        return super().is_safe_attribute(obj, attr, value)


def _check_binop(budget: RenderBudget, operator: str, left: Any, right: Any) -> None:
    """Refuses powers and formatting with widths; pays for sequences that are joined or repeated."""
    if operator == "**" or (operator == "%" and isinstance(left, str) and not _PLAIN_PERCENT.fullmatch(left)):
        raise SecurityError(f"the operator {operator}")
    if operator == "%" and isinstance(left, str):
        budget.chars(len(left) + budget.measure(right))
        return
    for value in (left, right):
        if isinstance(value, int):
            budget.measure(value)
    sizes = [len(value) for value in (left, right) if isinstance(value, (str, list, tuple))]
    if operator == "*" and sizes:
        times = right if isinstance(right, int) else left
        budget.chars(sizes[0] * max(0, times if isinstance(times, int) else 0))
    elif operator == "+" and sizes:
        budget.chars(sum(sizes))


def _check_str_call(budget: RenderBudget, owner: str, name: str, args: tuple[Any, ...]) -> None:
    """Pays for what a string method is going to build."""
    budget.chars(len(owner))
    if name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        budget.chars(owner.count(args[0]) * len(args[1]))
    elif name == "join" and args:
        if not isinstance(args[0], (str, list, tuple)):
            raise SecurityError("join takes a list")
        budget.chars(budget.measure(args[0]) + len(owner) * len(args[0]))


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for its input and its result; keeps what Jinja passes first."""
    mark = getattr(function, "jinja_pass_arg", None)
    first = getattr(mark, "name", "")

    @pass_context
    def metered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget(context)
        if name in _DEEP:
            if isinstance(value, (Iterator, range)):
                value = _drained(budget, value)
            budget.written(value)
            _check_growth(budget, name, value, (*args, *kwargs.values()))
        elif name in _LINEAR:
            budget.step(1 + (len(value) if hasattr(value, "__len__") else 0))
        if name == "list" and isinstance(value, (Iterator, range)):
            value = _drained(budget, value)
        passed = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        lead = (passed[first],) if first in passed else ()
        return budget.built(function(*lead, value, *args, **kwargs))

    return metered


def _drained(budget: RenderBudget, values: Iterable[Any]) -> list[Any]:
    """The values of an iterator, each paid for before the next is made."""
    found: list[Any] = []
    for value in values:
        budget.step()
        found.append(value)
    return found


def _check_growth(budget: RenderBudget, name: str, value: Any, args: tuple[Any, ...]) -> None:
    """Pays for filters whose result is larger than what goes in."""
    for arg in args:
        budget.measure(arg)
    if name == "indent":
        width = args[0] if args else 4
        size = len(width) if isinstance(width, str) else int(width)
        budget.chars(max(0, size) * (str(value).count("\n") + 1))
    elif name == "replace" and len(args) >= 2:
        budget.chars(str(value).count(str(args[0])) * len(str(args[1])))
    elif name == "join":
        budget.chars(sum(len(str(arg)) for arg in args) * (len(value) if hasattr(value, "__len__") else 1))


def render_error(error: Exception) -> str:
    """One line about a failed rendering that says nothing about our insides."""
    if isinstance(error, (BudgetSpent, SecurityError, RecursionError, MemoryError)):
        reason = str(error) if isinstance(error, BudgetSpent) else "something templates may not do"
        return f"the template was stopped: {reason}"
    return "the template does not understand these messages"
