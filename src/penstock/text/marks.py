"""Marks in the place of whatever a stranger's text could be mistaken for: control tokens.

Knows nothing about templates or ids. Invariant: what people wrote stays text. Spellings of control tokens in messages
and tools are replaced by private marks before a template sees them and put back only as ordinary text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.core import InvalidRequest, limits
from penstock.text.vocab import ControlTokens

_FIXED_KEYS = frozenset({"role", "type"})
_ESCAPED_BY_JSON = re.compile(r"""["\\\x00-\x1f]+""")
_ESCAPED = re.compile(r"\\u([eE][0-9a-fA-F]{3}|[fF][0-8][0-9a-fA-F]{2})")


class Marked:
    """Messages and tools in which a stranger's spellings of control tokens are replaced by marks.

    A mark is a private-use character, a number and the same character; `alphabet` and the texts themselves are
    searched for a private-use character that none of them has, so no text can forge a mark.

    Args:
        controls: the control tokens.
        messages: checked messages.
        tools: tool descriptions, or None.
        alphabet: characters that must not be used for marks.
    """

    def __init__(
        self,
        controls: ControlTokens,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        alphabet: frozenset[str],
    ) -> None:
        self._controls = controls
        self._texts: list[str] = []
        used: set[str] = set(alphabet)
        _collect(messages, used, 0)
        _collect(tools, used, 0)
        self._fence = next((chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used), "")
        if not self._fence:
            raise InvalidRequest("The messages use every private-use character there is.", param="messages")
        self._escaped = f"\\u{ord(self._fence):04x}"  # what a template makes of it that asks for ASCII
        self._mark = re.compile(f"{self._fence}([0-9]+){self._fence}")
        escaped = re.escape(self._escaped)
        self._escaped_mark = re.compile(f"{escaped}([0-9]+){escaped}")
        self.end_mark = f"{self._fence}end{self._fence}"
        self.messages: list[dict[str, Any]] = self._walk(messages)
        self.tools: list[Any] | None = self._walk(list(tools)) if tools is not None else None

    def restore(self, text: str) -> str:
        """The text with its marks replaced by what they stand for."""
        if self._escaped in text:
            text = self._escaped_mark.sub(lambda match: json.dumps(self._original(match))[1:-1], text)
        if self._fence not in text:
            return text
        return self._mark.sub(self._original, text).replace(self._fence, "")

    def _original(self, match: re.Match[str]) -> str:
        """What one mark stands for."""
        index = int(match[1]) if len(match[1]) < 9 else len(self._texts)
        return self._texts[index] if index < len(self._texts) else ""

    def _walk(self, value: Any, key: str = "") -> Any:
        """A copy with every string marked, keys included; roles and types are names that were checked."""
        if isinstance(value, str):
            return value if key in _FIXED_KEYS and value.isidentifier() else self._marked(value)
        if isinstance(value, Mapping):
            return {self._marked(str(name)): self._walk(item, str(name)) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._walk(item) for item in value]
        return value

    def _marked(self, text: str) -> str:
        """The text with marks for its risky spans."""
        spans = self._controls.risky(text)
        if not spans:
            return text
        parts, at = [], 0
        for start, end in spans:
            parts += [text[at:start], self._hidden(text[start:end])]
            at = end
        return "".join([*parts, text[at:]])

    def _hidden(self, text: str) -> str:
        """A risky span as marks; what JSON escapes stays between them, so that a template's `tojson` sees it."""
        runs = _ESCAPED_BY_JSON.split(text)
        if not any(runs):
            return self._mark_for(text)
        escaped = [*_ESCAPED_BY_JSON.findall(text), ""]
        return "".join(self._mark_for(run) + between for run, between in zip(runs, escaped, strict=True))

    def _mark_for(self, text: str) -> str:
        """The mark that stands for a text; no text needs none."""
        if not text:
            return ""
        self._texts.append(text)
        return f"{self._fence}{len(self._texts) - 1}{self._fence}"


def _collect(value: Any, used: set[str], depth: int) -> None:
    """Adds the private-use characters of all strings to `used`, spelled out or as JSON escapes."""
    if depth > limits.MAX_JSON_DEPTH:
        raise InvalidRequest(
            "a message or a tool is nested too deeply.",
            param="messages",
            hint=f"at most {limits.MAX_JSON_DEPTH} levels are taken, a tool call's arguments among them.",
        )
    if isinstance(value, str):
        if not value.isascii():
            used.update(char for char in set(value) if "\ue000" <= char <= "\uf8ff")
        if "\\u" in value:
            used.update(chr(int(code, 16)) for code in _ESCAPED.findall(value))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _collect(str(name), used, depth + 1)
            _collect(item, used, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, used, depth + 1)
