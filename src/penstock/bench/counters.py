"""Counts the tokens of a prompt as a server will: by asking it, or by the same tokenizer here.

Knows nothing about how prompts are made. Invariant: what is counted is the whole prompt as the model sees it, with the
chat template and the beginning that the server adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

import httpx

from penstock.bench.bounded import read_bounded
from penstock.bench.client import Endpoint
from penstock.core import ConfigError, check_json_bounds
from penstock.core.limits import MAX_COUNTED_ANSWER_BYTES
from penstock.text import Tokenizer

Message = Mapping[str, Any]
PROBE = "the"  # a text of at least one token to every tokenizer
SAMPLES = (
    "The river is 12 km long; it's wide, too.",
    "def f(x):\n    return {'a': [x, 3.5e-2]}  # ok\n",
    "Grüße aus Köln, 東京 и Москва 🙂",
)


class TokenCounter(Protocol):
    """Says how many tokens a prompt is."""

    def count(self, prompt: str | Sequence[Message], tools: Sequence[Message] = ()) -> int:
        """Tokens of a text as a whole prompt, or of a conversation under the chat template."""
        ...

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text alone, nothing put around it."""
        ...


class LocalCounter:
    """Counts by a model's tokenizer in this process.

    Args:
        tokenizer: the one that the server has; `disagreement` finds out.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def count(self, prompt: str | Sequence[Message], tools: Sequence[Message] = ()) -> int:
        """Tokens of a text as a whole prompt, or of a conversation under the chat template."""
        if isinstance(prompt, str):
            return len(self._tokenizer.encode(prompt))
        return len(self._tokenizer.encode_chat(prompt, tools=tools or None))

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text alone."""
        return self._tokenizer.encode(text, add_special_tokens=False)


class Dialect(Enum):
    """How servers want to be asked."""

    PROMPT = "prompt"  # {"model", "prompt" or "messages"} → {"count", "tokens"}: penstock, vLLM
    CONTENT = "content"  # {"content", "add_special"} → {"tokens"}, /apply-template → {"prompt"}: llama-server


class ServerCounter:
    """Counts by the /tokenize of the server under test; close it, or use it in a `with`.

    Args:
        endpoint: of the run; /tokenize lies beside its /v1.

    Raises:
        ConfigError: there is no /tokenize that answers in a known way.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        parts = endpoint.parts
        headers = {} if endpoint.api_key is None else {"Authorization": f"Bearer {endpoint.api_key}"}
        self._root = parts._replace(path=parts.path.removesuffix("/v1")).geturl()
        self._model = endpoint.model
        self._http = httpx.Client(headers=headers, timeout=min(endpoint.timeout_s, 60.0), trust_env=False)
        try:
            self._dialect = self._find_dialect()
        except BaseException:
            self._http.close()
            raise

    def __enter__(self) -> ServerCounter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connection."""
        self._http.close()

    def count(self, prompt: str | Sequence[Message], tools: Sequence[Message] = ()) -> int:
        """Tokens of a text as a whole prompt, or of a conversation under the chat template.

        Raises:
            ConfigError: the server doesn't say.
        """
        if isinstance(prompt, str):
            return len(self._text_ids(prompt, True))
        body: dict[str, Any] = {"messages": [dict(message) for message in prompt]}
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        if self._dialect is Dialect.PROMPT:
            return len(tokens_of(self._post("/tokenize", {"model": self._model} | body)))
        text = self._post("/apply-template", body).get("prompt")
        if not isinstance(text, str):
            raise silent("/apply-template")
        return len(self._text_ids(text, True))

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text alone.

        Raises:
            ConfigError: the server doesn't say.
        """
        return tuple(self._text_ids(text, False))

    def _text_ids(self, text: str, whole: bool) -> list[int]:
        if self._dialect is Dialect.PROMPT:
            body = {"model": self._model, "prompt": text, "add_special_tokens": whole}
        else:
            body = {"content": text, "add_special": whole, "parse_special": whole}
        return tokens_of(self._post("/tokenize", body))

    def _find_dialect(self) -> Dialect:
        """The dialect in which a text of a token has one; asked wrongly, a server refuses or says there is none."""
        why = ""
        for dialect in Dialect:
            self._dialect = dialect
            try:
                if self._text_ids(PROBE, False):
                    return dialect
            except ConfigError as error:
                why = why or f" ({error.message})"
        raise ConfigError(
            f"{self._root} has no /tokenize that counts tokens{why}.",
            param="tokenizer",
            hint="give a local tokenizer: the folder of the model that the server runs.",
        )

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The object that the server answers."""
        try:
            with self._http.stream("POST", self._root + path, json=body) as answer:
                data = read_bounded(answer, MAX_COUNTED_ANSWER_BYTES)
                if answer.status_code != 200:
                    raise ValueError(f"status {answer.status_code}: {data[:200].decode('utf-8', 'replace')!r}")
            check_json_bounds(data, MAX_COUNTED_ANSWER_BYTES)
            found = json.loads(data)
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{self._root}{path} doesn't answer: {str(error)[:300] or type(error).__name__}.",
                param="tokenizer",
                hint="is it up, and does it serve this model?",
            ) from None
        if not isinstance(found, dict):
            raise silent(path)
        return found


def tokens_of(answer: dict[str, Any]) -> list[int]:
    """The ids that /tokenize names.

    Raises:
        ConfigError: it names none.
    """
    tokens = answer.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise silent("/tokenize")
    return tokens


def silent(path: str) -> ConfigError:
    """The error for an answer that doesn't say what was asked."""
    return ConfigError(
        f"{path} answers in no known way.", param="tokenizer", hint="give a local tokenizer: the model's folder."
    )


def disagreement(one: TokenCounter, other: TokenCounter) -> str | None:
    """A line for people where two counters cut the same text differently, or None: is the local one the server's?"""
    for sample in SAMPLES:
        ids, others = one.ids(sample), other.ids(sample)
        if ids != others:
            return f"the two tokenizers cut {sample[:24]!r} differently, into {len(ids)} and {len(others)} tokens"
        whole, others_whole = one.count(sample), other.count(sample)
        if whole != others_whole:
            return f"the two tokenizers make a prompt of {sample[:24]!r} of {whole} and {others_whole} tokens"
    return None
