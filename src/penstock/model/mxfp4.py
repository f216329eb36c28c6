"""Experts as published MXFP4: codes apart from their scales, gate and up interleaved.

Knows nothing about families. Invariant: what is made is made for one projection of one expert at a time, when it is
asked for, and the pages of its source are let go again.
Sources: OCP Microscaling Formats v1.0 (E2M1 codes in blocks of 32 with an E8M0 scale); GGUF's MXFP4 block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.core import ModelFileError
from penstock.formats import BLOCKS, RawTensor, Storage, drop_pages
from penstock.model.experts import Transposed
from penstock.model.sources import Stored, Wanted, expert_bytes
from penstock.model.tensor_file import ByteTensor
from penstock.model.weights import WeightRef

Bytes = npt.NDArray[np.uint8]
_BLOCK = BLOCKS[Storage.MXFP4].block  # weights that share a scale
_HALF = _BLOCK // 2


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """Stacked experts as published MXFP4: codes and scales apart, outputs first; output o is row `first + o · step`.

    Attributes:
        name: of the stack within the layer, before `_blocks`, `_scales` and `_bias`.
        first, step: 0 and 2 are the even rows.
    """

    name: str
    first: int = 0
    step: int = 1

    def stored(self, want: Wanted) -> tuple[Stored, ...]:
        """The codes, [experts, outputs · step, blocks, 16], and the scales; or the stack of biases."""
        if want.bias:
            return Transposed(self.name, self.first, self.step).stored(want)
        shape = (want.num_experts, want.shape[0] * self.step, want.shape[1] // _BLOCK)
        return (Stored(f"{self.name}_blocks", (*shape, _HALF), True), Stored(f"{self.name}_scales", shape, True))

    def ref(self, want: Wanted, tensors: Sequence[RawTensor | ByteTensor]) -> WeightRef:
        """The place's values as GGUF's blocks, joined when they are asked for.

        Raises:
            ModelFileError: a row is no whole number of blocks.
        """
        if want.bias:
            return Transposed(self.name, self.first, self.step).ref(want, tensors)
        codes, scales = tensors
        assert isinstance(codes, ByteTensor) and isinstance(scales, ByteTensor)
        if want.shape[1] % _BLOCK:
            raise ModelFileError(f"{codes.name}: rows of {want.shape[1]} are no whole number of blocks of {_BLOCK}.")
        one, its_scales = expert_bytes(codes, want.expert), expert_bytes(scales, want.expert)
        named = f"{one.name}[{self.first}::{self.step}]"

        def load() -> RawTensor:
            rows = slice(self.first, None, self.step)
            data = joined_blocks(one.data.reshape(one.shape)[rows], its_scales.data.reshape(its_scales.shape)[rows])
            drop_pages(one.data)
            return RawTensor(named, Storage.MXFP4, want.shape, data)

        return WeightRef(RawTensor(named, Storage.MXFP4, want.shape, one.data), load=load)


def joined_blocks(codes: Bytes, scales: Bytes) -> Bytes:
    """GGUF's MXFP4 blocks: the scale, then byte j with code j below and code j + 16 above.  # [N · B · 17] u8.

    Args:
        codes: byte m holds code 2m below and code 2m + 1 above.  # [N, B, 16] u8
        scales: # [N, B] u8
    """
    blocks = np.empty((*scales.shape, 1 + _HALF), np.uint8)
    blocks[..., 0] = scales
    low, high = codes[..., : _HALF // 2], codes[..., _HALF // 2 :]
    blocks[..., 1::2] = (low & 0x0F) | (high << 4)
    blocks[..., 2::2] = (low >> 4) | (high & 0xF0)
    return blocks.reshape(-1)
