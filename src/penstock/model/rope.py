"""A config's rotary fields, in the older and the newer spelling, as a `Rope`.

Knows nothing about tables or angles. Invariant: a rule or a parameter that would change the angles is either in the
result or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.model.fields import Fields, shown
from penstock.model.spec import Rope, RopeKind

_NEEDED: Mapping[RopeKind, tuple[str, ...]] = {
    RopeKind.DEFAULT: (),
    RopeKind.LINEAR: ("factor",),
    RopeKind.DYNAMIC: ("factor",),
    RopeKind.LLAMA3: ("factor", "low_freq_factor", "high_freq_factor"),
    RopeKind.YARN: ("factor",),
    RopeKind.LONGROPE: ("factor",),
}
_OPTIONAL: Mapping[RopeKind, tuple[str, ...]] = {
    RopeKind.YARN: ("beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
}
_FACTORED = (RopeKind.YARN, RopeKind.LONGROPE)  # rules with an attention factor
_LISTS = ("short_factor", "long_factor")
_ELSEWHERE = {
    "rope_type",
    "type",
    "rope_theta",
    "original_max_position_embeddings",
    "truncate",
    "partial_rotary_factor",
}


@dataclass(frozen=True, slots=True)
class RopeRule:
    """What a family allows and assumes of its rotary fields.

    Attributes:
        theta: base where the config names none.
        partial: `partial_rotary_factor` may rotate a part of each head only.
        layer_type: the entry of a `rope_parameters` that has one for every layer type; "" for a flat one.
        names: rope types that the family calls by other names → kind.
    """

    theta: float = 10000.0
    partial: bool = False
    layer_type: str = ""
    names: tuple[tuple[str, RopeKind], ...] = ()


PLAIN_ROPE = RopeRule()


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the rule's parameters stand."""

    fields: Fields
    kind: RopeKind


def parse_rope(config: Fields, head_dim: int, max_tokens: int, rule: RopeRule = PLAIN_ROPE) -> Rope:
    """The rotary embedding that a config describes.

    Reads `rope_parameters` (newer) or `rope_scaling` and `rope_theta` (older).

    Raises:
        ModelFileError: an unknown rule, a missing or an unknown parameter.
    """
    source = _source(config, rule)
    fields = source.fields
    theta = fields.optional_number("rope_theta")
    theta = config.positive("rope_theta", rule.theta) if theta is None else fields.positive("rope_theta")
    dims = _rotated(config, source, head_dim, rule)
    original = _original(source, config, max_tokens)
    long = source.kind is RopeKind.LONGROPE
    short_factors, long_factors = (_factors(fields, name, dims // 2) if long else () for name in _LISTS)
    return Rope(
        theta=theta,
        dims=dims,
        kind=source.kind,
        scaling=_parameters(source, config.positive("max_position_embeddings", max_tokens), original),
        short_factors=short_factors,
        long_factors=long_factors,
        original_tokens=original,
    )


def _source(config: Fields, rule: RopeRule) -> _Source:
    fields = _fields(config, rule)
    name = fields.text("rope_type", fields.text("type", "default"))
    try:
        kind = dict(rule.names).get(name) or RopeKind(name)
    except ValueError:
        raise fields.error(
            f"unknown rope type {shown(name)}.", hint=f"known: {', '.join(k.value for k in RopeKind)}."
        ) from None
    known = {*_NEEDED[kind], *_OPTIONAL.get(kind, ()), *_ELSEWHERE}
    known |= {"attention_factor"} if kind in _FACTORED else set()
    known |= set(_LISTS) if kind is RopeKind.LONGROPE else set()
    if unknown := sorted(key for key, value in fields.values.items() if key not in known and value is not None):
        raise fields.error(f"unknown parameter {shown(unknown[0])} of rope type {kind.value}.")
    return _Source(fields, kind)


def _fields(config: Fields, rule: RopeRule) -> Fields:
    """The object that holds the rule: the older spelling where it says anything, else the newer one."""
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    values = config.get(name)
    values = {} if values is None else values
    if isinstance(values, dict) and rule.layer_type and name == "rope_parameters":
        name = f"{name}.{rule.layer_type}"
        values = values.get(rule.layer_type)
        values = {} if values is None else values
    if not isinstance(values, dict):
        raise config.error(f"{name} is {shown(values)}; an object is needed.")
    return Fields(values, f"{config.source}: {name}")


def _rotated(config: Fields, source: _Source, head_dim: int, rule: RopeRule) -> int:
    """Dimensions of a head that rotate, an even number."""
    share = source.fields.optional_number("partial_rotary_factor")
    share = config.optional_number("partial_rotary_factor") if share is None else share
    share = 1.0 if share is None else share
    if not 0 < share <= 1 or (share != 1 and not rule.partial):
        raise config.error(f"partial_rotary_factor {share:g} is not supported for this family.")
    dims = int(head_dim * share)
    if dims < 2 or dims % 2:
        raise config.error(f"{dims} of a head's {head_dim} dimensions rotate; an even number is needed.")
    return dims


def _factors(fields: Fields, name: str, count: int) -> tuple[float, ...]:
    """A longrope list: one factor a frequency."""
    values = fields.get(name)
    if not isinstance(values, list) or len(values) != count:
        held = len(values) if isinstance(values, list) else shown(values)
        raise fields.error(f"{name} is {held}; a list of {count} numbers is needed.")
    return tuple(Fields({name: value}, fields.source).positive(name) for value in values)


def _parameters(source: _Source, max_tokens: float, original: int) -> tuple[tuple[str, float], ...]:
    fields, found = source.fields, {}
    for name in _NEEDED[source.kind]:
        default = None
        if source.kind is RopeKind.LONGROPE or (source.kind is RopeKind.YARN and "factor" in fields.values):
            # Left out (longrope) or null means the ratio of the declared context to the original one.
            default = max_tokens / original
        found[name] = fields.positive(name, default)
    for name in _OPTIONAL.get(source.kind, ()):
        value = fields.optional_number(name)
        if value:  # zero means "not given", as the reference implementation reads it
            found[name] = value
    if source.kind in _FACTORED and fields.get("attention_factor") is not None:
        found["attention_factor"] = fields.positive("attention_factor")
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
