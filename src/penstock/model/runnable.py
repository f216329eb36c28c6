"""Whether a `DecoderSpec`, and the sizes chosen for it, can be run at all, whichever backend it is.

Knows nothing about files or kernels. Invariant: what no backend can run is refused by the name of its field before
memory is taken.
"""

from __future__ import annotations

import math
from typing import Protocol

from penstock.core import ConfigError, ModelFileError, limits
from penstock.model.kv_groups import KV_COSTS
from penstock.model.spec import Attention, DecoderSpec, Layer, Mlp

PAGE_MULTIPLE = 16  # positions of a tile of stored keys


class Sizes(Protocol):
    """What a backend's options have in common."""

    @property
    def max_model_tokens(self) -> int: ...  # noqa: D102
    @property
    def page_tokens(self) -> int: ...  # noqa: D102
    @property
    def kv_type(self) -> str: ...  # noqa: D102


def check_sizes(options: Sizes) -> None:
    """Passes when a backend can have these sizes and this KV type.

    Raises:
        ConfigError: naming the option that it cannot.
    """
    for name in ("max_model_tokens", "max_running", "max_step_tokens", "page_tokens"):
        if getattr(options, name) < 1:
            raise ConfigError(f"{name} is {getattr(options, name)}; it must be at least 1.", param=name)
    if options.max_model_tokens > limits.MAX_MODEL_TOKENS:
        raise ConfigError(
            f"max_model_tokens is {options.max_model_tokens:,}; at most {limits.MAX_MODEL_TOKENS:,} are served.",
            param="max_model_tokens",
            hint="pass a smaller --max-model-tokens.",
        )
    if options.page_tokens % PAGE_MULTIPLE:
        raise ConfigError(
            f"page_tokens is {options.page_tokens}; it must be a multiple of {PAGE_MULTIPLE}.", param="page_tokens"
        )
    if options.kv_type not in ("auto", *KV_COSTS):
        raise ConfigError(f"kv_type is {options.kv_type!r}; auto, f32, bf16 and int8 exist.", param="kv_type")


def check_spec(spec: DecoderSpec) -> None:
    """Passes when the core can run the spec.

    Raises:
        ModelFileError: naming the layer and the field that it cannot.
    """
    checked: set[Layer] = set()
    for index, layer in enumerate(spec.layers):
        if layer not in checked:
            _check_attention(f"layers.{index}.attention", layer.attention)
            _check_mlp(f"layers.{index}.mlp", layer.mlp)
            checked.add(layer)


def _check_attention(at: str, attention: Attention) -> None:
    if attention.num_kv_heads < 1 or attention.num_heads < 1 or attention.num_heads % attention.num_kv_heads:
        raise ModelFileError(f"{at}: {attention.num_heads} heads are no multiple of {attention.num_kv_heads} kv heads.")
    if attention.rope is not None and attention.rope.dims > attention.head_dim:
        raise ModelFileError(f"{at}.rope.dims is {attention.rope.dims}; a head has {attention.head_dim}.")
    if attention.window is not None and attention.window < 1:
        raise ModelFileError(f"{at}.window is {attention.window}; it must be at least 1.")
    for name in ("softcap", "qkv_clip"):
        _check_limit(f"{at}.{name}", getattr(attention, name))


def _check_mlp(at: str, mlp: Mlp) -> None:
    _check_limit(f"{at}.clamp", mlp.clamp)
    if not mlp.num_experts:
        for name in ("experts_per_token", "shared_intermediate", "shared_gate", "router_bias", "norm_topk"):
            if getattr(mlp, name):
                raise ModelFileError(f"{at}.{name} is {getattr(mlp, name)}; the layer has no experts.")
        return
    if not 0 < mlp.num_experts <= limits.MAX_EXPERTS:
        raise ModelFileError(f"{at}.num_experts is {mlp.num_experts:,}; 1 to {limits.MAX_EXPERTS:,} can be run.")
    if not 0 < mlp.experts_per_token <= mlp.num_experts:
        raise ModelFileError(f"{at}.experts_per_token is {mlp.experts_per_token}; there are {mlp.num_experts} experts.")
    if mlp.shared_intermediate < 0:
        raise ModelFileError(f"{at}.shared_intermediate is {mlp.shared_intermediate}; it must be 0 or more.")
    if mlp.shared_gate and not mlp.shared_intermediate:
        raise ModelFileError(f"{at}.shared_gate is set; there is no shared expert.")


def _check_limit(at: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ModelFileError(f"{at} is {value}; it must be 0 or a positive number.")
