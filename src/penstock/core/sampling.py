"""The door check of sampling parameters: types, finiteness, ranges and counts, with the field's name in every error.

Knows nothing about HTTP or tokenizers. Invariant: parameters that pass here can be run by every backend.
"""

from __future__ import annotations

import math

from penstock.core import limits
from penstock.core.errors import InvalidRequest
from penstock.core.types import SamplingParams

_FLOATS: tuple[tuple[str, float, float, bool], ...] = (
    # name, low, high, low itself allowed
    ("temperature", 0.0, limits.MAX_TEMPERATURE, True),
    ("top_p", 0.0, 1.0, False),
    ("min_p", 0.0, 1.0, True),
    ("typical_p", 0.0, 1.0, False),
    ("repetition_penalty", 0.0, limits.MAX_REPETITION_PENALTY, False),
    ("presence_penalty", -limits.MAX_PENALTY, limits.MAX_PENALTY, True),
    ("frequency_penalty", -limits.MAX_PENALTY, limits.MAX_PENALTY, True),
)


def check_sampling(params: SamplingParams, vocab_size: int) -> None:
    """Passes, or raises for the first field that no backend could honour.

    Args:
        params: as asked; the seed may still be None.
        vocab_size: ids must lie below it.

    Raises:
        InvalidRequest: naming the field, the value and the limit.
    """
    for name, low, high, closed in _FLOATS:
        _check_float(name, getattr(params, name), low, high, closed)
    _check_int("top_k", params.top_k, 0, 2**31 - 1)
    _check_int("min_tokens", params.min_tokens, 0, 2**31 - 1)
    _check_int("n", params.n, 1, limits.MAX_SAMPLES)
    for name, low, high in (
        ("max_tokens", 1, 2**31 - 1),
        ("seed", limits.MIN_SEED, limits.MAX_SEED),
        ("logprobs", 0, limits.MAX_LOGPROBS),
        ("prompt_logprobs", 0, limits.MAX_LOGPROBS),
    ):
        value = getattr(params, name)
        if value is not None:
            _check_int(name, value, low, high)
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise InvalidRequest(
            f"min_tokens is {params.min_tokens}, more than max_tokens {params.max_tokens}.",
            param="min_tokens",
            hint="lower min_tokens or raise max_tokens.",
        )
    _check_stops(params)
    _check_bias(params, vocab_size)
    _check_ids("stop_token_ids", params.stop_token_ids, vocab_size, limits.MAX_STOP_TOKEN_IDS)


def _check_float(name: str, value: object, low: float, high: float, closed: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidRequest(f"{name} is not a finite number.", param=name, hint=_span(low, high, closed))
    if value > high or value < low or (value == low and not closed):
        raise InvalidRequest(f"{name} is {value:g}.", param=name, hint=_span(low, high, closed))


def _span(low: float, high: float, closed: bool) -> str:
    return f"it must lie in {'[' if closed else '('}{low:g}, {high:g}]."


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} is not an integer.", param=name, hint=f"it must be from {low} to {high}.")
    if not low <= value <= high:
        shown = str(value) if abs(value) < 10**20 else "an integer of over 20 digits"
        raise InvalidRequest(f"{name} is {shown}.", param=name, hint=f"it must be from {low} to {high}.")


def _check_stops(params: SamplingParams) -> None:
    _check_count("stop", len(params.stop), limits.MAX_STOP_STRINGS)
    for stop in params.stop:
        if not isinstance(stop, str) or not 0 < len(stop) <= limits.MAX_STOP_CHARS:
            raise InvalidRequest(
                "a stop string is empty, too long or not a string.",
                param="stop",
                hint=f"each must have 1 to {limits.MAX_STOP_CHARS} characters.",
            )


def _check_bias(params: SamplingParams, vocab_size: int) -> None:
    _check_count("logit_bias", len(params.logit_bias), limits.MAX_LOGIT_BIAS)
    _check_ids("logit_bias", tuple(token for token, _ in params.logit_bias), vocab_size, limits.MAX_LOGIT_BIAS)
    for _, bias in params.logit_bias:
        _check_float("logit_bias", bias, -limits.MAX_LOGIT_BIAS_VALUE, limits.MAX_LOGIT_BIAS_VALUE, True)


def _check_count(name: str, count: int, limit: int) -> None:
    if count > limit:
        raise InvalidRequest(f"{name} has {count} entries.", param=name, hint=f"at most {limit} are taken.")


def _check_ids(name: str, ids: tuple[int, ...], vocab_size: int, limit: int) -> None:
    _check_count(name, len(ids), limit)
    if not all(type(token) is int and 0 <= token < vocab_size for token in ids):
        raise InvalidRequest(
            f"{name} names a token outside the vocabulary.", param=name, hint=f"ids lie in [0, {vocab_size})."
        )
