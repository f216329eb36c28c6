"""How each GGUF architecture stores its tensors: names, fused and stacked ones, row orders, norms with one added.

Knows nothing about metadata or files. Invariant: one layout an architecture. Sources: the format's tensor names; what
its own converters permute, fuse, stack and add.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from penstock.model.dense import GGUF_NAMES, Family
from penstock.model.sources import GGUF_SOURCES, Part, Source
from penstock.model.spec import DecoderSpec

_NAMES = {**GGUF_NAMES, "attn_post_norm": "post_attention_norm", "mlp_post_norm": "post_ffw_norm"}
# Some converters fuse q, k and v, or gate and up; what lies in one tensor lies in this order.
_FUSED_QKV = Part("attn_qkv", ("q", "k", "v"))
_FUSED_GATE_UP = Part("ffn_up", ("gate", "up"))
_FUSED_EXPERTS = Part("ffn_gate_up_exps", ("gate", "up"), stacked=True)
_SOURCES: Mapping[str, tuple[Source, ...]] = {
    **GGUF_SOURCES,
    **{name: (Part(_NAMES[name]), _FUSED_QKV) for name in ("q", "k", "v")},
    **{key: (*GGUF_SOURCES[key], _FUSED_EXPERTS) for key in ("experts.gate", "experts.up")},
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How an architecture's tensors are stored.

    Attributes:
        permuted: rows of q and k have rotary pairs side by side.
        whole_norms: the family's offset is in the stored norms already.
        names, sources: as `Family` has them.
    """

    permuted: bool = False
    whole_norms: bool = False
    names: Mapping[str, str] = field(default_factory=lambda: _NAMES)
    sources: Mapping[str, tuple[Source, ...]] = field(default_factory=lambda: _SOURCES)


_PAIRED = Layout(permuted=True)
_PLAIN = Layout()
_GEMMA = Layout(whole_norms=True)
LAYOUTS: Mapping[str, Layout] = {
    "llama": _PAIRED,
    "mistral3": _PAIRED,
    "granite": _PAIRED,
    "smollm3": _PAIRED,
    "qwen2": _PLAIN,
    "qwen2moe": _PLAIN,
    "qwen3": _PLAIN,
    "qwen3moe": _PLAIN,
    "olmo2": _PLAIN,
    "olmoe": _PLAIN,
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "phi3": Layout(sources={**_SOURCES, "gate": (_FUSED_GATE_UP,), "up": (_FUSED_GATE_UP,)}),
    "gpt-oss": Layout(names={**_NAMES, "mlp_norm": "post_attention_norm"}),
}


def stored_as(architecture: str, family: Family, spec: DecoderSpec) -> tuple[Family, DecoderSpec]:
    """The family with the architecture's layout, and the spec of what that layout holds."""
    layout = LAYOUTS[architecture]
    family = replace(family, gguf_permuted=layout.permuted, gguf_names=layout.names, gguf_sources=layout.sources)
    return family, replace(spec, norm_offset=0.0) if layout.whole_norms else spec
