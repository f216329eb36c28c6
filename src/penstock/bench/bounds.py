"""The check that every number of a workload passes at the door.

Knows nothing about what the numbers mean. Invariant: NaN passes nothing.
"""

from __future__ import annotations

from penstock.core import ConfigError


def check_between(name: str, value: float, least: float, most: float) -> None:
    """Passes a number within [least, most].

    Raises:
        ConfigError: naming it, the number and the limits.
    """
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value:g}.", param=name, hint=f"from {least:g} to {most:g}.")
