"""Jinja's immutable sandbox with a work budget: chat templates come with models, from strangers.

Knows nothing about messages or tokens. Invariant: a template reaches plain data only (no Python attributes, files,
imports or unlisted filters), and whatever it does ends within its `RenderBudget`.
"""

from __future__ import annotations

import re
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from penstock.text.budget import BudgetSpent, RenderBudget
from penstock.text.metered import (
    QuietNamespace,
    budget_of,
    concat,
    contained,
    looked,
    metered_filter,
    metered_test,
    pay_search,
    sliced,
    tick,
    tojson,
    written,
)

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


class TemplateRefusal(TemplateError):
    """What a template says by `raise_exception`."""


@pass_context
def _raise_exception(context: Context, message: Any) -> None:
    """Ends the rendering with the template's own message."""
    budget_of(context).written(message)
    raise TemplateRefusal(str(message)[:1000])


class _Meter(NodeTransformer):
    """Puts payments into a template's syntax tree: loops, text, joins and comparisons."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        """A payment a turn, and one for each that a condition leaves out."""
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.Or(_paid(nodes.Const(0), "penstock_tick"), node.test, lineno=node.lineno)
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

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:
        """A payment for what is compared; `in` is ours."""
        self.generic_visit(node)
        first = node.ops[0]
        if first.op in ("in", "notin"):
            if len(node.ops) > 1:
                raise TemplateSyntaxError("in is no part of a chain here", node.lineno)
            found = _paid(node.expr, "penstock_contained", first.expr)
            return found if first.op == "in" else nodes.Not(found, lineno=node.lineno)
        node.expr = _looked_at(node.expr)
        for operand in node.ops:
            operand.expr = _looked_at(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        """A payment for a slice, and one for a key."""
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _paid(node, "penstock_sliced")
        node.arg = _looked_at(node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        """A payment for the key of a dict."""
        self.generic_visit(node)
        node.key = _looked_at(node.key)
        return node


def _looked_at(node: nodes.Expr) -> nodes.Expr:
    """A node that pays for its value's size; what a template spells out has a small one."""
    return node if isinstance(node, nodes.Const) else _paid(node, "penstock_looked")


def _paid(node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
    """A node under one of our filters."""
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


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
        kept = {name: metered_filter(name, self.filters[name]) for name in _FILTERS & self.filters.keys()}
        kept["bool"] = metered_filter("bool", bool)
        self.filters.clear()
        self.filters.update(
            kept,
            tojson=tojson,
            penstock_tick=tick,
            penstock_written=written,
            penstock_looked=looked,
            penstock_sliced=sliced,
            penstock_contained=contained,
            penstock_concat=concat,
        )
        known: dict[str, Any] = dict(self.tests)
        tests = {name: metered_test(name, test) for name, test in known.items()}
        self.tests.clear()
        self.tests.update(tests)
        self.globals = {name: self.globals[name] for name in ("range", "dict", "joiner", "cycler")}
        self.globals["namespace"] = QuietNamespace
        self.globals["raise_exception"] = _raise_exception

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The syntax tree with its payments."""
        tree: nodes.Template = super()._parse(source, name, filename)
        _Meter().visit(tree)
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, its size checked before it is computed."""
        budget = budget_of(context)
        _check_binop(budget, operator, left, right)
        return budget.built(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call: macros, the few globals, and methods of plain data."""
        budget = budget_of(__context)
        budget.step()
        budget.held(len(args) + len(kwargs))
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, PlainFormat):
            size = sum(budget.measure(value) for value in (*args, *kwargs.values()))
            budget.chars(len(__obj.text) + __obj.places * size)
        elif isinstance(owner, (list, tuple)):
            budget.step(len(owner) // 1024)  # taking the first of a list moves all the others
            for value in args:
                pay_search(budget, owner if __obj.__name__ in ("count", "index") else (), value)
        elif isinstance(owner, (dict, LoopContext)):  # a key, or what `loop.changed` compares
            for value in args[:1] if isinstance(owner, dict) else args:
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
        budget.fits(sizes[0] * max(0, times if isinstance(times, int) else 0))
    elif operator == "+" and sizes:
        budget.fits(sum(sizes))


def _check_str_call(budget: RenderBudget, owner: str, name: str, args: tuple[Any, ...]) -> None:
    """Pays for what a string method is going to build."""
    if name not in ("endswith", "startswith"):
        budget.chars(len(owner))
    if name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        budget.chars(owner.count(args[0]) * len(args[1]))
    elif name == "join" and args:
        if not isinstance(args[0], (str, list, tuple)):
            raise SecurityError("join takes a list")
        budget.chars(budget.measure(args[0]) + len(owner) * len(args[0]))


def render_error(error: Exception) -> str:
    """One line about a failed rendering that says nothing about our insides."""
    if isinstance(error, (BudgetSpent, SecurityError, RecursionError, MemoryError)):
        reason = "something templates may not do"
        if isinstance(error, BudgetSpent):
            reason = str(error)
        elif not isinstance(error, SecurityError):
            reason = "calls nested too deeply" if isinstance(error, RecursionError) else "too much memory"
        return f"the template was stopped: {reason}"
    return "the template does not understand these messages"
