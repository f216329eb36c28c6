"""A config's rotary fields, in the older and the newer spelling, as a `Rope`.

Knows nothing about tables or angles. Invariant: a rule or a parameter that would change the angles is either in the
result or refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.model.fields import Fields, shown
from penstock.model.spec import Rope, RopeKind

_NEEDED = {
    RopeKind.DEFAULT: (),
    RopeKind.LINEAR: ("factor",),
    RopeKind.DYNAMIC: ("factor",),
    RopeKind.LLAMA3: ("factor", "low_freq_factor", "high_freq_factor"),
    RopeKind.YARN: ("factor",),
}
_OPTIONAL = {
    RopeKind.YARN: ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
}
_ELSEWHERE = {
    "rope_type",
    "type",
    "rope_theta",
    "original_max_position_embeddings",
    "truncate",
    "partial_rotary_factor",
}
_DEFAULT_THETA = 10000.0


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the rule's parameters stand."""

    fields: Fields
    kind: RopeKind


def parse_rope(config: Fields, head_dim: int, max_tokens: int) -> Rope:
    """The rotary embedding that a config describes.

    Reads `rope_parameters` (newer) or `rope_scaling` and `rope_theta` (older).

    Raises:
        ModelFileError: an unknown rule, a missing or an unknown parameter.
    """
    source = _source(config)
    fields = source.fields
    theta = fields.optional_number("rope_theta")
    theta = config.positive("rope_theta", _DEFAULT_THETA) if theta is None else fields.positive("rope_theta")
    if head_dim % 2:
        raise config.error(f"head_dim is {head_dim}; rotary embedding needs an even one.")
    return Rope(
        theta=theta,
        dims=head_dim,
        kind=source.kind,
        scaling=_parameters(source, config.positive("max_position_embeddings", max_tokens)),
        original_tokens=_original(source, config, max_tokens),
    )


def _source(config: Fields) -> _Source:
    name = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    values = config.get(name)
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise config.error(f"{name} is {shown(values)}; an object is needed.")
    fields = Fields(values, f"{config.source}: {name}")
    kind = fields.text("rope_type", fields.text("type", "default"))
    try:
        rule = RopeKind(kind)
        known = {*_NEEDED[rule], *_OPTIONAL.get(rule, ()), *_ELSEWHERE}
    except (ValueError, KeyError):
        raise fields.error(
            f"unknown rope type {shown(kind)}.", hint=f"known: {', '.join(k.value for k in _NEEDED)}."
        ) from None
    for holder in (config, fields):
        if (holder.optional_number("partial_rotary_factor") or 1.0) != 1.0:
            raise holder.error("partial_rotary_factor is not supported for this family.")
    if unknown := sorted(key for key, value in values.items() if key not in known and value is not None):
        raise fields.error(f"unknown parameter {shown(unknown[0])} of rope type {rule.value}.")
    return _Source(fields, rule)


def _parameters(source: _Source, max_tokens: float) -> tuple[tuple[str, float], ...]:
    fields, found = source.fields, {}
    for name in _NEEDED[source.kind]:
        default = None
        if source.kind is RopeKind.YARN and "factor" in fields.values:
            # A null factor means the ratio of the declared context to the original one.
            default = max_tokens / fields.positive("original_max_position_embeddings", max_tokens)
        found[name] = fields.positive(name, default)
    for name in _OPTIONAL.get(source.kind, ()):
        value = fields.optional_number(name)
        if value:  # zero means "not given", as the reference implementation reads it
            found[name] = value
    if source.kind is RopeKind.YARN and not fields.flag("truncate", True):
        found["truncate"] = 0.0
    return tuple(sorted(found.items()))


def _original(source: _Source, config: Fields, max_tokens: int) -> int:
    if source.kind in (RopeKind.DEFAULT, RopeKind.LINEAR):
        return 0
    if source.kind is RopeKind.DYNAMIC:
        return max_tokens
    inner = source.fields.integer("original_max_position_embeddings", max_tokens, high=2**31)
    return config.integer("original_max_position_embeddings", inner, high=2**31)
