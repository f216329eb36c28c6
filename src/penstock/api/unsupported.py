"""Fields that clients send and that are not honoured: harmless ones are ignored, the others refused by name.

Knows nothing about values beyond the neutral ones. Invariant: a field that would change the answer is never ignored;
docs/api.md lists both tables (a test holds the page to them).
"""

from __future__ import annotations

from typing import Any, Final

from penstock.core import InvalidRequest

# Labels, accounting and speed hints: the answer is the same with and without them.
IGNORED: Final[frozenset[str]] = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "session_id",
        "store",
        "user",
    }
)

# Field → values that ask for nothing (null always does); with any other value the request is refused. A route that
# honours one of them takes it out of this table: chat does so with the fields of its templates.
REFUSED: Final[dict[str, tuple[Any, ...]]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "chat_template": (),
    "documents": ([],),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "kv_transfer_params": (),
    "length_penalty": (1, 1.0),
    "logits_processors": ([],),
    "logprob_token_ids": (),
    "mm_processor_kwargs": (),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "priority": (0,),  # the engine serves lower ones strictly first: any client could starve all others
    "reasoning_effort": (),
    "repetition_detection": (),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "structured_outputs": (),
    "suffix": ("",),
    "thinking_token_budget": (),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "truncation_side": (),
    "use_beam_search": (False,),
    "verbosity": (),
    "web_search_options": (),
}


def honoured_fields(body: dict[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    """The body without the ignored fields and without the refused ones that ask for nothing.

    Args:
        body: as sent.
        fields: names that this route honours; they win over both tables.

    Raises:
        InvalidRequest: a field that would change the answer is asked for and not supported.
    """
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if name in fields:
            kept[name] = value
        elif name == "best_of":
            _check_best_of(value, body.get("n"))
        elif name in REFUSED:
            _check_neutral(name, value)
        elif name not in IGNORED:
            kept[name] = value
    return kept


def _check_neutral(name: str, value: Any) -> None:
    if value is None or any(type(value) is type(neutral) and value == neutral for neutral in REFUSED[name]):
        return
    raise InvalidRequest(
        f"{name} is not supported.", param=name, code="unsupported_parameter", hint="leave it out; see GET /docs."
    )


def _check_best_of(value: Any, n: Any) -> None:
    if value is None or (type(value) is int and value == (1 if n is None else n)):
        return
    raise InvalidRequest(
        "best_of other than n is not supported.",
        param="best_of",
        code="unsupported_parameter",
        hint="leave it out, or set it to n.",
    )
