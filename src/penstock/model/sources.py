"""Where the values of a place lie among a checkpoint's stored tensors: whole, in rows of a fused one, in a stack.

Knows nothing about families or files. Invariant: a reference that is returned names exactly the values of its place, as
a view of what is stored wherever they lie together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple, Protocol

from penstock.formats import RawTensor, num_bytes
from penstock.model.tensor_file import ByteTensor
from penstock.model.weights import WeightRef

Shape = tuple[int, ...]


class Stored(NamedTuple):
    """A tensor that a place needs: its name within the layer and its shape; of plain bytes where `octets`."""

    name: str
    shape: Shape
    octets: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A place to be filled.

    Attributes:
        at: what stands before its name within the layer: "", "shared." or "experts.E.".
        name: its last part, e.g. "gate".
        bias: it is the projection's bias.
        expert: index, -1 outside of experts.
        num_experts: of the layer.
        shape: its shape.
        shapes: all places of the layer (or, for places outside of layers, of the model) → shape.
    """

    at: str
    name: str
    bias: bool
    expert: int
    num_experts: int
    shape: Shape
    shapes: Mapping[str, Shape]

    @property
    def key(self) -> str:
        """Its name in a family's table: without the expert's index and without `.bias`."""
        return f"experts.{self.name}" if self.expert >= 0 else self.at + self.name

    def sibling(self, name: str) -> Shape:
        """The shape of the place beside it that has this name."""
        return self.shapes[f"{self.at}{name}.bias" if self.bias else self.at + name]


def wanted(place: str, num_experts: int, shapes: Mapping[str, Shape]) -> Wanted:
    """A place within its layer, e.g. `experts.3.gate.bias`, taken apart."""
    at, dot, name = place.removesuffix(".bias").rpartition(".")
    expert = int(at[len("experts.") :]) if at.startswith("experts.") else -1
    return Wanted(at + dot, name, place.endswith(".bias"), expert, num_experts, shapes[place], shapes)


class Source(Protocol):
    """One way in which checkpoints store a place."""

    def stored(self, want: Wanted) -> tuple[Stored, ...]:
        """The tensors that it reads."""

    def ref(self, want: Wanted, tensors: Sequence[RawTensor | ByteTensor]) -> WeightRef:
        """The place's values in these tensors, which are the `stored` ones in order, of the shapes asked for."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stored tensor, rows of one, or an expert's slice of a stack.

    Attributes:
        name: stored name within the layer; `{}` stands for the expert's index.
        members: names of the places whose rows the tensor holds one after another; () is this place alone.
        stacked: the first axis is the expert.
        suffixes: what follows the name in the weight's and in the bias's stored name.
    """

    name: str
    members: tuple[str, ...] = ()
    stacked: bool = False
    suffixes: tuple[str, str] = (".weight", ".bias")

    def stored(self, want: Wanted) -> tuple[Stored, ...]:
        """The tensor that it reads."""
        name, shape = self.name + self.suffixes[want.bias], want.shape
        if want.expert >= 0:
            name = name.replace("{}", str(want.expert))
        if self.members:
            shape = (sum(want.sibling(member)[0] for member in self.members), *shape[1:])
        return (Stored(name, (want.num_experts, *shape) if self.stacked else shape),)

    def ref(self, want: Wanted, tensors: Sequence[RawTensor | ByteTensor]) -> WeightRef:
        """A view of the tensor."""
        (tensor,) = tensors
        assert isinstance(tensor, RawTensor)
        if self.stacked:
            tensor = expert_slice(tensor, want.expert)
        if not self.members:
            return WeightRef(tensor)
        before = self.members[: self.members.index(want.name)]
        return WeightRef(tensor, first=sum(want.sibling(name)[0] for name in before), count=want.shape[0])


def expert_slice(tensor: RawTensor, expert: int) -> RawTensor:
    """Entry `expert` of a tensor's first axis, a view."""
    shape = tensor.shape[1:]
    size = num_bytes(tensor.storage, shape)
    return replace(
        tensor, name=f"{tensor.name}[{expert}]", shape=shape, data=tensor.data[expert * size : (expert + 1) * size]
    )


def expert_bytes(tensor: ByteTensor, expert: int) -> ByteTensor:
    """Entry `expert` of a byte tensor's first axis, a view."""
    shape = tensor.shape[1:]
    size = prod(shape)
    return ByteTensor(f"{tensor.name}[{expert}]", shape, tensor.data[expert * size : (expert + 1) * size])


def fused(name: str, *members: str) -> dict[str, tuple[Source, ...]]:
    """Table entries of places whose rows lie one after another in one tensor, e.g. q, k and v."""
    return {member: (Part(name, members),) for member in members}


# A mixture as most families save it: one tensor an expert and projection, or stacks with gate and up fused.
HF_SOURCES: dict[str, tuple[Source, ...]] = {
    "sinks": (Part("self_attn.sinks", suffixes=("", "")),),
    "router": (Part("mlp.gate"),),
    "experts.gate": (
        Part("mlp.experts.{}.gate_proj"),
        Part("mlp.experts.gate_up_proj", ("gate", "up"), True, ("", "_bias")),
    ),
    "experts.up": (
        Part("mlp.experts.{}.up_proj"),
        Part("mlp.experts.gate_up_proj", ("gate", "up"), True, ("", "_bias")),
    ),
    "experts.down": (
        Part("mlp.experts.{}.down_proj"),
        Part("mlp.experts.down_proj", (), True, ("", "_bias")),
    ),
    "shared.gate": (Part("mlp.shared_expert.gate_proj"),),
    "shared.up": (Part("mlp.shared_expert.up_proj"),),
    "shared.down": (Part("mlp.shared_expert.down_proj"),),
    "shared.router": (Part("mlp.shared_expert_gate"),),
}
# GGUF stacks experts; its oldest mixtures have one tensor an expert.
GGUF_SOURCES: dict[str, tuple[Source, ...]] = {
    "sinks": (Part("attn_sinks"),),
    "router": (Part("ffn_gate_inp"),),
    "experts.gate": (Part("ffn_gate_exps", stacked=True), Part("ffn_gate.{}")),
    "experts.up": (Part("ffn_up_exps", stacked=True), Part("ffn_up.{}")),
    "experts.down": (Part("ffn_down_exps", stacked=True), Part("ffn_down.{}")),
    "shared.gate": (Part("ffn_gate_shexp"),),
    "shared.up": (Part("ffn_up_shexp"),),
    "shared.down": (Part("ffn_down_shexp"),),
    "shared.router": (Part("ffn_gate_inp_shexp"),),
}
