"""Keys and values in pages on the device, one pair of tensors a layer.

Knows nothing about sequences or attention. Invariant: a page number means the same place in all layers of its group;
the page behind the last one takes what padding writes and holds nothing that is ever seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from penstock.core import KvGroup
from penstock.model import KV_COSTS, Attention, DecoderSpec, kv_groups

KV_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
_LEAST = 2.0**-119  # below it a head's codes are zeros


@dataclass(frozen=True, slots=True)
class KvLayer:
    """One layer's pages.

    Attributes:
        keys, values: # [P + 1, B, K, D] f32, bf16 or i8
        key_scales, value_scales: of each token and head, where codes are stored.  # [P + 1, B, K] f32
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_scales: torch.Tensor | None = None
    value_scales: torch.Tensor | None = None

    def write(self, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Stores rotated keys and values at flat places, page · B + offset.

        Args:
            places: # [T] i64
            keys: # [T, K, D] f32
            values: # [T, K, D] f32
        """
        for stored, scales, new in (
            (self.keys, self.key_scales, keys),
            (self.values, self.value_scales, values),
        ):
            if scales is None:
                stored.flatten(0, 1)[places] = new.to(stored.dtype)
            else:
                codes, new_scales = _codes(new)
                stored.flatten(0, 1)[places] = codes
                scales.flatten(0, 1)[places] = new_scales

    def read(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values at flat places, as stored.  # twice [*places, K, D] f32."""
        found = []
        for stored, scales in ((self.keys, self.key_scales), (self.values, self.value_scales)):
            taken = stored.flatten(0, 1)[places].float()
            found.append(taken if scales is None else taken * scales.flatten(0, 1)[places][..., None])
        return found[0], found[1]

    def copy(self, source: int, target: int) -> None:
        """Copies a whole page."""
        for tensor in self.tensors:
            tensor[target] = tensor[source]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that a page is made of."""
        every = (self.keys, self.values, self.key_scales, self.value_scales)
        return tuple(tensor for tensor in every if tensor is not None)


def _codes(new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales; a head with a value that is not finite reads as NaN.  # [T, K, D] i8, [T, K] f32."""
    peak = new.abs().amax(-1)
    scale = torch.where(peak < _LEAST, 0.0, peak / 127.0)
    safe = torch.where((scale > 0) & torch.isfinite(scale), scale, 1.0)
    ratio = torch.where(torch.isfinite(scale)[..., None], new, 0.0) / safe[..., None]
    codes = torch.where((scale > 0)[..., None], torch.round(ratio), 0.0).clamp(-127, 127).to(torch.int8)
    return codes, torch.where(torch.isfinite(scale), scale, float("nan"))


def groups_of(spec: DecoderSpec, kv_type: str, page_tokens: int) -> tuple[KvGroup, ...]:
    """The model's KV groups with the bytes of their pages."""
    cost = KV_COSTS[kv_type]
    return tuple(
        KvGroup(
            group.name,
            group.layers,
            page_tokens * sum(cost.bytes_per_token(spec.layers[index].attention) for index in group.layers),
            group.window,
        )
        for group in kv_groups(spec)
    )


def make_layer(attention: Attention, pages: int, page_tokens: int, kv_type: str, device: torch.device) -> KvLayer:
    """Pages of one layer, with whatever the memory held before."""
    shape = (pages + 1, page_tokens, attention.num_kv_heads, attention.head_dim)
    keys, values = (torch.empty(shape, dtype=KV_TYPES[kv_type], device=device) for _ in range(2))
    if kv_type != "int8":
        return KvLayer(keys, values)
    scales = [torch.empty(shape[:3], dtype=torch.float32, device=device) for _ in range(2)]
    return KvLayer(keys, values, *scales)
