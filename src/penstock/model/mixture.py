"""A config's fields of a mixture of experts as an `Mlp`.

Knows nothing about tensors. Invariant: a routing rule that is not softmax, top k and an optional renormalisation is
refused by name, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock.core import limits
from penstock.model.dense import activation
from penstock.model.fields import Fields, shown
from penstock.model.spec import Mlp

COUNTS = ("num_experts", "num_local_experts")  # the newer and the older spelling; either is written
# Field → values under which routing is softmax, then top k. Other values describe another rule.
_PLAIN: dict[str, tuple[object, ...]] = {
    "expert_bias": (False,),
    "first_k_dense_replace": (0,),
    "moe_layer_freq": (1,),
    "n_group": (1,),
    "num_shared_experts": (0,),
    "moe_num_shared_experts": (0,),
    "n_shared_experts": (0,),
    "routed_scaling_factor": (1,),
    "router_scaling_factor": (1,),
    "score_func": ("softmax",),
    "scoring_func": ("softmax",),
    "topk_group": (1,),
    "topk_method": ("greedy",),
    "use_routing_bias": (False,),
    "zero_expert_num": (0,),
}


def read_mixture(config: Fields, intermediate: int, norm_topk: bool) -> Mlp:
    """A mixture of experts of that width, every chosen one weighted by the router's softmax.

    Raises:
        ModelFileError: the counts are missing, contradict each other or are out of range, or the routing rule is one
            that is not served.
    """
    for name, plain in _PLAIN.items():
        value = config.get(name)
        if value is not None and value not in plain:
            raise config.error(f"{name} is {shown(value)}, a routing that is not supported.")
    found = {name: config.integer(name, high=limits.MAX_EXPERTS) for name in COUNTS if config.get(name) is not None}
    if not found:
        raise config.error(f"{COUNTS[0]} is missing.")
    if len(set(found.values())) > 1:
        raise config.error(f"{' and '.join(f'{name} {count}' for name, count in found.items())} contradict each other.")
    (num_experts,) = set(found.values())
    return Mlp(
        intermediate,
        activation(config),
        num_experts=num_experts,
        experts_per_token=config.integer("num_experts_per_tok", high=num_experts),
        norm_topk=norm_topk,
    )


def sparse_layers(config: Fields, mixture: Mlp) -> Callable[[Fields, int], Mlp]:
    """The feed-forward of layer i: the mixture, or a plain one of `intermediate_size`.

    Every `decoder_sparse_step`th layer, counted from one, is a mixture where `mlp_only_layers` does not name it.

    Raises:
        ModelFileError: a field is of another type or out of range.
    """
    step = config.integer("decoder_sparse_step", 1, high=limits.MAX_LAYERS)
    named = config.get("mlp_only_layers") or []
    if not isinstance(named, list) or not all(
        isinstance(index, int) and not isinstance(index, bool) for index in named
    ):
        raise config.error(f"mlp_only_layers is {shown(named)}; a list of layers is needed.")
    plain = Mlp(config.integer("intermediate_size"), mixture.activation) if named or step > 1 else mixture
    dense = frozenset(named)
    return lambda config, index: mixture if index not in dense and (index + 1) % step == 0 else plain
