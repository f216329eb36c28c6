"""Dataclasses to JSON values and back: the fields' types are the schema.

Knows nothing about benchmarks or files. Invariant: what is read back has exactly the types that its class declares,
every number is finite, and a name that the class does not have is refused; nothing is guessed or cut.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from penstock.core import ConfigError

Data = TypeVar("Data")
MAX_WHOLE = 2**53  # whole numbers that every JSON reader holds exactly
MAX_SHOWN_CHARS = 60


def to_json(value: Any) -> Any:
    """The JSON value of a dataclass, or of what its fields hold; fields that have their default are left out.

    Raises:
        ConfigError: a number is not finite, or a value has no JSON form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(one)
            for field in dataclasses.fields(value)
            if not _is_default(field, one := getattr(value, field.name))
        }
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{value} can't be written to a record.", hint="leave out what was not measured.")
        return value
    if isinstance(value, tuple | list):
        return [to_json(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(one) for key, one in value.items()}
    raise ConfigError(f"a {type(value).__name__} can't be written to a record.", hint="write numbers, text and lists.")


def from_json(kind: type[Data], value: object, where: str) -> Data:
    """A dataclass from its JSON value.

    Args:
        kind: the dataclass.
        value: as parsed.
        where: of the value, for messages.

    Raises:
        ConfigError: a field is missing, unknown, of another type, or not finite; says where.
    """
    if not isinstance(value, dict):
        raise _mismatch(where, kind.__name__, value)
    hints = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        at = f"{where}.{field.name}"
        if field.name in value:
            found[field.name] = _read(hints[field.name], value[field.name], at)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{at} is missing.", hint="the record was cut or written by another program.")
    unknown = [name for name in value if name not in found]
    if unknown:
        name = repr(str(unknown[0])[:MAX_SHOWN_CHARS])
        raise ConfigError(f"{where} has {name}, which nobody knows.", hint="a newer version may have written it.")
    return kind(**found)


def _read(hint: Any, value: Any, where: str) -> Any:
    """A value of a declared type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _read_union(inner, value, where)
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise _mismatch(where, "a list", value)
        found = [_read(inner[0], one, f"{where}[{index}]") for index, one in enumerate(value)]
        return tuple(found) if origin is tuple else found
    if origin is dict:
        if not isinstance(value, dict):
            raise _mismatch(where, "an object", value)
        return {name: _read(inner[1], one, f"{where}.{str(name)[:MAX_SHOWN_CHARS]}") for name, one in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type[Any], hint), value, where)
    return _read_plain(hint, value, where)


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """None, or a value of the one other type that a union here has."""
    others = [kind for kind in kinds if kind is not type(None)]
    assert len(others) == 1, kinds
    return None if value is None and len(others) < len(kinds) else _read(others[0], value, where)


def _read_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        check_finite(value, where)
        return value
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError as error:
            raise _mismatch(where, f"one of {', '.join(str(one.value) for one in hint)}", value) from error
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
            raise _mismatch(where, "a finite number", value)
        return float(value)
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_WHOLE:
            raise _mismatch(where, "a whole number", value)
        return value
    if not isinstance(value, hint):
        raise _mismatch(where, {"str": "text", "bool": "true or false"}[hint.__name__], value)
    return value


def check_finite(value: Any, where: str) -> None:
    """Passes a parsed JSON value that holds no number beyond the finite ones.

    Raises:
        ConfigError: it does.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise _mismatch(where, "a finite number", value)
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        check_finite(one, where)


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return field.default is not dataclasses.MISSING and bool(value == field.default)


def _mismatch(where: str, wanted: str, value: object) -> ConfigError:
    shown = repr(value)[:MAX_SHOWN_CHARS] if isinstance(value, str | int | float | None) else type(value).__name__
    return ConfigError(f"{where} is {shown}, not {wanted}.", hint="the record was damaged or written by hand.")
