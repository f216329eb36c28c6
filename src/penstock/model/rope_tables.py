"""Rotary tables of every scaling rule, made once at load.

Knows nothing about layers or threads. Invariant: a table is a function of the rope's facts and max_model_tokens alone,
never of the length that a sequence has at the moment, so that a position always gets the same bits.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from penstock.core import ModelFileError
from penstock.model.spec import Rope, RopeKind

_F64 = npt.NDArray[np.float64]
_BLOCK = 4096  # positions


class RopeTable:
    """Cosines and sines of positions, the attention factor multiplied in.

    The arrays reach from position 0 to max_model_tokens, but only positions that were filled take memory: a checkpoint
    may declare a context that no KV of this machine could hold.

    Attributes:
        cos, sin: # [max_model_tokens, dims / 2] f32

    Raises:
        ModelFileError: the rule misses a parameter or has an impossible one.
    """

    def __init__(self, rope: Rope, max_model_tokens: int) -> None:
        self._frequencies, self._factor = rope_frequencies(rope, max_model_tokens)
        self.cos = np.empty((max_model_tokens, len(self._frequencies)), np.float32)
        self.sin = np.empty_like(self.cos)

    def fill(self, num_positions: int) -> None:
        """Makes positions [0, num_positions) ready: angles in float64, rounded once."""
        for first in range(0, min(num_positions, len(self.cos)), _BLOCK):  # bounds the float64 in between
            end = min(first + _BLOCK, num_positions, len(self.cos))
            angles = np.arange(first, end, dtype=np.float64)[:, None] * self._frequencies
            self.cos[first:end] = np.cos(angles) * self._factor
            self.sin[first:end] = np.sin(angles) * self._factor


def rope_frequencies(rope: Rope, max_model_tokens: int) -> tuple[_F64, float]:
    """Radians a position for each rotated pair, and the factor of cosines and sines.  # [dims / 2] f64.

    Raises:
        ModelFileError: the rule misses a parameter or has an impossible one.
    """
    if rope.dims < 2 or rope.dims % 2 or not (math.isfinite(rope.theta) and rope.theta > 0):
        raise ModelFileError(
            f"rope dims {rope.dims} or theta {rope.theta} is impossible; dims must be even, theta > 0."
        )
    try:
        with np.errstate(all="ignore"):
            result = _by_rule(rope, max_model_tokens)
    except (ArithmeticError, ValueError):  # beyond what floats can hold
        result = np.full(1, np.nan), 1.0
    if not np.isfinite(result[0]).all() or not math.isfinite(result[1]):
        raise ModelFileError(f"rope scaling {rope.kind.value} gives frequencies that are not finite.")
    return result


def _by_rule(rope: Rope, max_model_tokens: int) -> tuple[_F64, float]:
    scaling = dict(rope.scaling)
    default = _default(rope.theta, rope.dims)
    if rope.kind is RopeKind.DEFAULT:
        return default, 1.0
    if rope.kind is RopeKind.LINEAR:
        return default / _positive(scaling, "factor"), 1.0
    if rope.kind is RopeKind.DYNAMIC:
        return _dynamic(rope, scaling, max_model_tokens), 1.0
    if rope.kind is RopeKind.LLAMA3:
        return _llama3(rope, scaling, default), 1.0
    if rope.kind is RopeKind.YARN:
        return _yarn(rope, scaling, default)
    return _longrope(rope, scaling, default, max_model_tokens)


def _default(theta: float, dims: int) -> _F64:
    return 1.0 / theta ** (np.arange(0, dims, 2, dtype=np.float64) / dims)


def _positive(scaling: dict[str, float], name: str, default: float | None = None) -> float:
    value = scaling.get(name, default)
    if value is None or not math.isfinite(value) or value <= 0:
        raise ModelFileError(f"rope scaling's {name} is {value}; it must be a positive number.")
    return value


def _original(rope: Rope) -> int:
    if rope.original_tokens < 1:
        raise ModelFileError(
            f"rope scaling {rope.kind.value} needs the original context length and has {rope.original_tokens}."
        )
    return rope.original_tokens


def _dynamic(rope: Rope, scaling: dict[str, float], max_model_tokens: int) -> _F64:
    """NTK-aware base for the longest sequence that will be served."""
    factor, original = _positive(scaling, "factor"), _original(rope)
    if rope.dims <= 2:
        raise ModelFileError(f"rope scaling dynamic needs more than 2 rotated dimensions and has {rope.dims}.")
    length = max(max_model_tokens, original)
    stretch = factor * length / original - (factor - 1)
    return _default(rope.theta * stretch ** (rope.dims / (rope.dims - 2)), rope.dims)


def _llama3(rope: Rope, scaling: dict[str, float], default: _F64) -> _F64:
    """Llama 3.1's rule: long wavelengths divided by factor, short ones kept, a ramp between."""
    factor, original = _positive(scaling, "factor"), _original(rope)
    low, high = _positive(scaling, "low_freq_factor"), _positive(scaling, "high_freq_factor")
    if high <= low:
        raise ModelFileError(f"rope scaling's high_freq_factor {high} must exceed low_freq_factor {low}.")
    wavelengths = 2 * math.pi / default
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * default / factor + smooth * default


def _mscale(scale: float, mscale: float = 1.0) -> float:
    return 1.0 if scale <= 1 else 0.1 * mscale * math.log(scale) + 1.0


def _yarn(rope: Rope, scaling: dict[str, float], default: _F64) -> tuple[_F64, float]:
    """YaRN (Peng et al. 2023): interpolation of slow dimensions, extrapolation of fast ones, a ramp between."""
    factor, original = _positive(scaling, "factor"), _original(rope)
    attention = scaling.get("attention_factor")
    if attention is None:
        mscale, all_dim = scaling.get("mscale", 0.0), scaling.get("mscale_all_dim", 0.0)
        attention = _mscale(factor, mscale) / _mscale(factor, all_dim) if mscale and all_dim else _mscale(factor)

    def dimension(rotations: float) -> float:
        return rope.dims * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = dimension(_positive(scaling, "beta_fast", 32.0))
    high = dimension(_positive(scaling, "beta_slow", 1.0))
    if scaling.get("truncate", 1.0):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dims - 1)
    span = high - low if high != low else 0.001
    interpolated = np.clip((np.arange(rope.dims // 2, dtype=np.float64) - low) / span, 0.0, 1.0)
    return default / factor * interpolated + default * (1 - interpolated), attention


def _longrope(rope: Rope, scaling: dict[str, float], default: _F64, max_model_tokens: int) -> tuple[_F64, float]:
    """LongRoPE (Ding et al. 2024): one factor a frequency; the long set past the original context."""
    original = _original(rope)
    factors = rope.long_factors if max_model_tokens > original else rope.short_factors
    if len(factors) != len(default) or min(factors) <= 0:
        raise ModelFileError(
            f"rope scaling longrope has {len(factors)} factors; {len(default)} positive ones are needed."
        )
    factor = _positive(scaling, "factor", 1.0)
    attention = scaling.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    return default / np.asarray(factors, dtype=np.float64), attention
