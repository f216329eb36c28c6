"""Log probabilities in the three shapes that clients know: chat, legacy completions, and prompt logprobs.

Knows nothing about requests. Invariant: every number is finite; a token that cannot occur has -9999.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock.core import TokenLogprobs

if TYPE_CHECKING:
    from penstock.text import Tokenizer

IMPOSSIBLE = -9999.0


def finite(logprob: float) -> float:
    """The value, or -9999.0 for minus infinity."""
    return logprob if logprob > IMPOSSIBLE else IMPOSSIBLE


def chat_logprobs(entries: Sequence[TokenLogprobs], tokenizer: Tokenizer, count: int) -> dict[str, Any]:
    """`choices[].logprobs` of a chat answer, with `count` alternatives a token."""
    content = []
    for entry in entries:
        shown = _chat_token(entry.token, entry.logprob, tokenizer)
        shown["top_logprobs"] = [_chat_token(token, value, tokenizer) for token, value in entry.top[:count]]
        content.append(shown)
    return {"content": content, "refusal": None}


def _chat_token(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "token": tokenizer.token_text(token),
        "logprob": finite(logprob),
        "bytes": list(tokenizer.token_bytes(token)),
    }


def legacy_logprobs(
    entries: Sequence[TokenLogprobs | None], tokens: Sequence[int], tokenizer: Tokenizer, count: int, offset: int
) -> dict[str, Any]:
    """`choices[].logprobs` of a text completion.

    Args:
        entries: one a token; None for a prompt's first.
        tokens: the ids that the entries belong to.
        tokenizer: for their texts.
        count: alternatives a token.
        offset: characters of text before the first token.
    """
    texts = [tokenizer.token_text(token) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [None if entry is None else finite(entry.logprob) for entry in entries],
        "top_logprobs": [None if entry is None else _legacy_top(entry, tokenizer, count) for entry in entries],
        "text_offset": offsets,
    }


def _legacy_top(entry: TokenLogprobs, tokenizer: Tokenizer, count: int) -> dict[str, float]:
    """Texts of the likeliest tokens, and of the one that stands there; of two with one text the likelier stays."""
    top: dict[str, float] = {}
    for token, value in (*entry.top[:count], (entry.token, entry.logprob)):
        top.setdefault(tokenizer.token_text(token), finite(value))
    return top


def prompt_logprobs(
    entries: Sequence[TokenLogprobs | None], tokenizer: Tokenizer, count: int
) -> list[dict[str, Any] | None]:
    """The prompt's log probabilities as vLLM gives them: None, then id → value, rank and text."""
    return [None if entry is None else _ranked(entry, tokenizer, count) for entry in entries]


def _ranked(entry: TokenLogprobs, tokenizer: Tokenizer, count: int) -> dict[str, Any]:
    ranked = {token: (value, rank) for rank, (token, value) in enumerate(entry.top[:count], 1)}
    ranked.setdefault(entry.token, (entry.logprob, entry.rank))
    return {
        str(token): {"logprob": finite(value), "rank": rank, "decoded_token": tokenizer.token_text(token)}
        for token, (value, rank) in ranked.items()
    }
