"""One Jinja template of a model, compiled: rendered within limits, and asked what it reads and which form it takes.

Knows nothing about requests' options or control tokens. Invariant: whatever a template does, the caller gets text or
one line that says why not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property
from typing import Any, Final

from jinja2 import Template, meta
from jinja2.exceptions import TemplateError, UndefinedError

from penstock.core import InvalidRequest, ModelFileError, limits
from penstock.text.budget import BudgetSpent, RenderBudget
from penstock.text.metered import BUDGET
from penstock.text.sandbox import MeteredSandbox, TemplateRefusal, render_error
from penstock.text.shape import TemplateShape, probe

_DEVELOPER: Final = re.compile(r"""['"]developer['"]""")
_TRIAL: Final = {"documents": None, "add_generation_prompt": True}
_MISSING: Final = re.compile(r"'([A-Za-z]\w{0,63})' is undefined")


class CompiledTemplate:
    """A template, ready to render.

    Args:
        source: its text.
        values: what every rendering is given (special names, `strftime_now`).
        origin: the file it comes from, for messages.

    Raises:
        ModelFileError: longer than MAX_TEMPLATE_CHARS, or no template.
    """

    def __init__(self, source: str, values: Mapping[str, Any], origin: str) -> None:
        self.source = source
        self._values = values
        self._template = _compile(source, origin)

    @cached_property
    def reads(self) -> frozenset[str]:
        """Names that the template takes from outside (or sets itself in a loop)."""
        return frozenset(meta.find_undeclared_variables(MeteredSandbox().parse(self.source)))

    @cached_property
    def shape(self) -> TemplateShape:
        """The form in which it takes messages, found by rendering small ones."""
        return probe(self._shown, takes_tools="tools" in self.reads, developer=bool(_DEVELOPER.search(self.source)))

    def render(self, values: Mapping[str, Any], budget: RenderBudget | None = None) -> str:
        """The text for messages, tools and options, within its limits (a request's, if no budget is given).

        Raises:
            InvalidRequest: the template refuses the messages, fails over them, or is stopped.
        """
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate({**self._values, **values, BUDGET: budget or RenderBudget()}):
                size += len(piece)
                if size > limits.MAX_RENDERED_CHARS:
                    raise BudgetSpent("too long a prompt")
                pieces.append(piece)
        except TemplateRefusal as error:
            raise InvalidRequest(f"The chat template refuses: {error.message}", param="messages") from None
        except UndefinedError as error:
            missing = _MISSING.fullmatch(str(error.message))
            reason = f"it needs {missing[1]}, which is not given" if missing else render_error(error)
            raise InvalidRequest(f"Chat template: {reason}.", param="messages") from None
        except (BudgetSpent, RecursionError, MemoryError, TemplateError) as error:
            raise InvalidRequest(f"Chat template: {render_error(error)}.", param="messages") from None
        except Exception as error:  # what a template's code may raise has no end: NameError of 1e999 is one
            raise InvalidRequest(f"Chat template: {render_error(error)}.", param="messages") from None
        return "".join(pieces)

    def _shown(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str | None:
        """What it makes of a trial conversation; None where it fails."""
        try:
            values = deepcopy({**_TRIAL, "messages": messages, "tools": tools})  # templates may change lists
            return self.render(values, RenderBudget(limits.MAX_TRIAL_STEPS, limits.MAX_TRIAL_WORK_CHARS))
        except InvalidRequest:
            return None


def _compile(source: str, origin: str) -> Template:
    """The compiled template; a template that isn't one is the model's fault."""
    if len(source) > limits.MAX_TEMPLATE_CHARS:
        raise ModelFileError(
            f"{origin}: chat template of {len(source)} characters; at most {limits.MAX_TEMPLATE_CHARS} are taken."
        )
    try:
        return MeteredSandbox().from_string(source)
    except (TemplateError, RecursionError, MemoryError, SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f" at line {line}" if line else ""
        raise ModelFileError(f"{origin}: not a valid chat template{where}.") from None
