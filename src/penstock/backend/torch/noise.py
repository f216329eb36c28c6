"""The counter-based noise of sampling on any device, equal to the native core's bit for bit.

Knows nothing about logits. Invariant: noise is a function of (seed, sample, position, token id) alone.
Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
"""

from __future__ import annotations

import torch

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_WORD = 2**64 - 1


def noise_key(seed: int, sample: int, position: int) -> int:
    """What tokens are mixed with at one position, as a signed word."""
    key = _mix(seed + _GOLDEN)
    key = _mix(key + (sample + 1) * _GOLDEN)
    return _signed(_mix(key + (position + 1) * _GOLDEN))


def gumbel(keys: torch.Tensor, vocab: int) -> torch.Tensor:
    """Gumbel noise of every token of a vocabulary.  # [N, V] f64.

    Args:
        keys: of `noise_key`.  # [N] i64
        vocab: V.
    """
    tokens = torch.arange(1, vocab + 1, dtype=torch.int64, device=keys.device)
    z = keys[:, None] + tokens * _signed(_GOLDEN)  # wraps, as the words of the core do
    z = (z ^ _shifted(z, 30)) * _signed(_FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(_SECOND)
    bits = _shifted(z ^ _shifted(z, 31), 11)
    return -torch.log(-torch.log1p(-(bits.double() + 0.5) * 2.0**-53))


def _mix(z: int) -> int:
    z &= _WORD
    z = ((z ^ (z >> 30)) * _FIRST) & _WORD
    z = ((z ^ (z >> 27)) * _SECOND) & _WORD
    return z ^ (z >> 31)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _shifted(z: torch.Tensor, count: int) -> torch.Tensor:
    """A word's bits moved down, zeros above."""
    return (z >> count) & ((1 << (64 - count)) - 1)
