"""Which tokens a training step sees: a pure function of the seed and the step number.

Knows nothing about text or networks. Invariant: `rows(step)` is the same whatever was asked before, so a resumed run
sees exactly what an uninterrupted one would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Domain:
    """Token arrays drawn from together, and the share of rows that come from them."""

    files: tuple[Path, ...]
    share: float


class BatchSource:
    """Rows of `row_tokens` consecutive tokens drawn at random places of memory-mapped arrays."""

    def __init__(self, domains: list[Domain], row_tokens: int, num_rows: int, seed: int) -> None:
        """Open the arrays.

        Raises:
            ConfigError: a domain has no array with a whole row in it, or no domain has a share above zero.
        """
        self._row_tokens, self._num_rows, self._seed = row_tokens, num_rows, seed
        self._arrays: list[list[npt.NDArray[np.uint16]]] = []
        for domain in domains:
            arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in domain.files]
            arrays = [array for array in arrays if len(array) >= row_tokens]
            if not arrays:
                raise ConfigError(f"no token array holds a row of {row_tokens} tokens", hint="give more text")
            self._arrays.append(arrays)
        total = sum(domain.share for domain in domains)
        if total <= 0:
            raise ConfigError(f"the shares of the domains add up to {total}", hint="give one a share above 0")
        self._shares = np.array([domain.share / total for domain in domains])

    @property
    def num_tokens(self) -> int:
        """How many tokens there are to draw from."""
        return sum(len(array) for arrays in self._arrays for array in arrays)

    def rows(self, step: int) -> npt.NDArray[np.int64]:
        """Return the rows of one step.  # [N, T] i64."""
        rng = np.random.default_rng([self._seed, step])
        out = np.empty((self._num_rows, self._row_tokens), dtype=np.int64)
        for row, domain in zip(out, rng.choice(len(self._arrays), self._num_rows, p=self._shares), strict=True):
            arrays = self._arrays[domain]
            places = np.array([len(array) - self._row_tokens + 1 for array in arrays])
            place = int(rng.integers(places.sum()))
            index = int(np.searchsorted(np.cumsum(places), place, side="right"))
            start = place - int(places[:index].sum())
            row[:] = arrays[index][start : start + self._row_tokens]
        return out
