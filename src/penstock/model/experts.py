"""Experts that are stored inputs first, their gate and up interleaved.

Knows nothing about families. Invariant: what is made is made for one projection of one expert at a time, when it is
asked for, and the pages of its source are let go again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.formats import BLOCKS, RawTensor, drop_pages
from penstock.model.sources import Stored, Wanted, expert_slice
from penstock.model.tensor_file import ByteTensor
from penstock.model.weights import WeightRef


@dataclass(frozen=True, slots=True)
class Transposed:
    """Stacked experts stored inputs first; output o of the place is column `first + o · step`.

    Attributes:
        name: of the weight within the layer; the bias's is followed by `_bias`.
        first, step: 0 and 2 are the even columns.
    """

    name: str
    first: int = 0
    step: int = 1

    def stored(self, want: Wanted) -> tuple[Stored, ...]:
        """The stack of weights, [experts, inputs, outputs · step], or of biases."""
        outputs = want.shape[0] * self.step
        if want.bias:
            return (Stored(f"{self.name}_bias", (want.num_experts, outputs)),)
        return (Stored(self.name, (want.num_experts, want.shape[1], outputs)),)

    def ref(self, want: Wanted, tensors: Sequence[RawTensor | ByteTensor]) -> WeightRef:
        """The place's values, turned over when they are asked for."""
        (tensor,) = tensors
        assert isinstance(tensor, RawTensor)
        taken = expert_slice(tensor, want.expert)
        if want.bias and self.step == 1:
            return WeightRef(taken)
        named = f"{taken.name}[{self.first}::{self.step}]"

        def load() -> RawTensor:
            values = taken.data.view(f"u{BLOCKS[taken.storage].bytes}").reshape(
                taken.shape
            )  # [K, N · step] or [N · step]
            turned = np.ascontiguousarray(values[..., self.first :: self.step].T)
            drop_pages(taken.data)
            return RawTensor(named, taken.storage, want.shape, turned.reshape(-1).view(np.uint8))

        return WeightRef(RawTensor(named, taken.storage, want.shape, taken.data), load=load)
