"""A GGUF file's metadata as the config fields that a family reads, one short reader an architecture.

Knows nothing about bytes in files. Invariant: every key of the architecture is read, known to change nothing, or
refused by name. Sources: the GGUF key list; what the format's own converters write and leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from penstock.core import limits
from penstock.formats import RawTensor
from penstock.model.fields import Fields, shown
from penstock.model.gguf_keys import Keys
from penstock.model.gguf_rope import rope_parameters

Config = dict[str, Any]

_SLIDING, _FULL = "sliding_attention", "full_attention"
# Depth of the 27B models, whose scores are scaled by hidden / heads and not by the head's size. No key says so.
_GEMMA2_27B, _GEMMA3_27B = 46, 62
_GEMMA2_WINDOW, _GEMMA2_ATTENTION_CAP, _GEMMA2_FINAL_CAP = 4096, 50.0, 30.0
_GEMMA3_LOCAL_THETA = 10000.0
# The window of every Phi-3 model of 4k tokens; files from before the key was written leave it out.
_PHI3_SHORT_TOKENS, _PHI3_SHORT_WINDOW = 4096, 2047
_SMOLLM3_ROPE_INTERVAL = 4
_SOFTMAX, _SOFTMAX_OF_CHOSEN = 1, 3


def read_architecture(source: Fields) -> str:
    """The model's architecture, one of those that are served.

    Raises:
        ModelFileError: another, or the file holds no model.
    """
    kind = source.text("general.type", "model")
    if kind != "model":
        raise source.error(f"general.type is {shown(kind)}; only models are served.")
    architecture = source.text("general.architecture")
    if architecture not in _READERS:
        raise source.error(f"unknown architecture {shown(architecture)}.", hint=f"known: {', '.join(_READERS)}.")
    return architecture


def read_config(source: Fields, architecture: str, tensors: Mapping[str, RawTensor]) -> Config:
    """The config in Hugging Face's names, `model_type` among them.

    Raises:
        ModelFileError: a key is missing, of a wrong type, out of range or of a meaning that is not served.
    """
    keys = Keys(source, architecture)
    config = _shared(keys, tensors)
    _READERS[architecture](keys, config, tensors)
    if "rope_parameters" not in config:
        config["rope_parameters"] = rope_parameters(keys, config, tensors)
    keys.refuse_unread()
    return config


def _shared(keys: Keys, tensors: Mapping[str, RawTensor]) -> Config:
    """What every architecture declares in the same way."""
    hidden, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    head_dim = keys.optional_integer("attention.key_length")
    if head_dim is None:
        if hidden % heads:
            raise keys.error("embedding_length", f"is {hidden}, no multiple of {heads} heads.")
        head_dim = hidden // heads
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise keys.error("attention.value_length", f"is not {head_dim}, the size of a key.")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": keys.integer("block_count", high=limits.MAX_LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": keys.integer("feed_forward_length"),
        "max_position_embeddings": keys.integer("context_length", high=2**31),
        "rms_norm_eps": keys.positive("attention.layer_norm_rms_epsilon"),
        "vocab_size": _rows(keys.source, tensors),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
    }


def _rows(source: Fields, tensors: Mapping[str, RawTensor]) -> int:
    embed = tensors.get("token_embd.weight")
    if embed is None:
        raise source.error("tensor token_embd.weight is missing.")
    tokens = source.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > embed.shape[0]:
        raise source.error(f"{len(tokens)} tokens in the tokenizer, {embed.shape[0]} embedding rows.")
    return embed.shape[0]


def _llama(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    """Llama, Mistral (where a window is declared) and Mixtral (where experts are)."""
    window = keys.integer("attention.sliding_window", 0, low=0, high=2**31)
    if keys.integer("expert_count", 0, low=0):
        config |= {"model_type": "mixtral", "sliding_window": window or None}
        _experts(keys, config, "num_local_experts", norm_topk=True)
        config["intermediate_size"] = keys.integer("expert_feed_forward_length", config["intermediate_size"])
    elif window:
        config |= {"model_type": "mistral", "sliding_window": window}
    else:
        config["model_type"] = "llama"


def _mistral3(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    """The dense text part of Mistral Small 3: Mistral without a window."""
    config |= {"model_type": "mistral", "sliding_window": None}


def _qwen(model_type: str) -> Callable[[Keys, Config, Mapping[str, RawTensor]], None]:
    def read(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
        config["model_type"] = model_type
        if window := keys.integer("attention.sliding_window", 0, low=0, high=2**31):
            # Which layers are windowed is known only where the file lists them.
            if keys.get("attention.sliding_window_pattern") is None:
                raise keys.error("attention.sliding_window", f"is {window} and no sliding_window_pattern is given.")
            config |= {"sliding_window": window, "use_sliding_window": True}
            config["layer_types"] = _layer_types(keys, config, 0)

    return read


def _qwen_moe(model_type: str, norm_topk: bool) -> Callable[[Keys, Config, Mapping[str, RawTensor]], None]:
    def read(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
        _qwen(model_type)(keys, config, tensors)
        _experts(keys, config, "num_experts", norm_topk)
        wide, used = config["intermediate_size"], config["num_experts_per_tok"]
        config["moe_intermediate_size"] = keys.integer("expert_feed_forward_length", max(wide // used, 1))
        config |= {"norm_topk_prob": norm_topk, "decoder_sparse_step": 1, "mlp_only_layers": []}
        if model_type == "qwen2_moe":
            config["shared_expert_intermediate_size"] = keys.integer("expert_shared_feed_forward_length", wide)

    return read


def _olmoe(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    config |= {"model_type": "olmoe", "norm_topk_prob": False}
    config["clip_qkv"] = keys.number("attention.clamp_kqv") or None
    _experts(keys, config, "num_experts", norm_topk=False)
    config["intermediate_size"] = keys.integer("expert_feed_forward_length", config["intermediate_size"])


def _gpt_oss(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    config |= {"model_type": "gpt_oss", "sliding_window": keys.integer("attention.sliding_window", high=2**31)}
    config["layer_types"] = _layer_types(keys, config, 2)
    config["intermediate_size"] = keys.integer("expert_feed_forward_length", config["intermediate_size"])
    _experts(keys, config, "num_local_experts", norm_topk=True, gating=_SOFTMAX_OF_CHOSEN)
    config["rope_parameters"] = rope_parameters(keys, config, tensors)
    if config["rope_parameters"]["rope_type"] == "yarn":
        config["rope_parameters"]["truncate"] = False  # the checkpoints' setting, for which there is no key


def _experts(keys: Keys, config: Config, count: str, norm_topk: bool, gating: int = _SOFTMAX) -> None:
    """Counts of experts; refuses routing that the family does not have."""
    config[count] = keys.integer("expert_count")
    config["num_experts_per_tok"] = keys.integer("expert_used_count")
    if keys.flag("expert_weights_norm", norm_topk) is not norm_topk:
        raise keys.error("expert_weights_norm", f"is not {norm_topk}, as {keys.architecture} models have it.")
    if keys.integer("expert_gating_func", gating, low=0) not in (0, _SOFTMAX, gating):
        raise keys.error("expert_gating_func", "is not the softmax.")


def _gemma(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    config |= {"model_type": "gemma", "hidden_activation": "gelu_pytorch_tanh"}


def _gemma2(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    config |= {"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh"}
    config["query_pre_attn_scalar"] = _score_size(keys, config, _GEMMA2_27B)
    config["sliding_window"] = keys.integer("attention.sliding_window", _GEMMA2_WINDOW, high=2**31)
    config["layer_types"] = _layer_types(keys, config, 2)
    config["attn_logit_softcapping"] = keys.positive("attn_logit_softcapping", _GEMMA2_ATTENTION_CAP)
    config["final_logit_softcapping"] = keys.positive("final_logit_softcapping", _GEMMA2_FINAL_CAP)


def _gemma3(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    """Gemma 3: layers with a window rotate by a base of their own, unscaled."""
    config |= {"model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh"}
    config["query_pre_attn_scalar"] = _score_size(keys, config, _GEMMA3_27B)
    window = keys.integer("attention.sliding_window", 0, low=0, high=2**31)
    config["layer_types"] = _layer_types(keys, config, 6 if window else 1)
    if window:
        config["sliding_window"] = window
    config["final_logit_softcapping"] = keys.number("final_logit_softcapping") or None
    keys.positive("rope.freq_base")  # the general default is not Gemma 3's
    local = keys.positive("rope.freq_base_swa", _GEMMA3_LOCAL_THETA)
    config["rope_parameters"] = {
        _FULL: rope_parameters(keys, config, tensors),
        _SLIDING: {"rope_type": "default", "rope_theta": local},
    }


def _score_size(keys: Keys, config: Config, deepest: int) -> float:
    """The number whose inverse root scales Gemma's scores: declared, or as the model's size implies."""
    if scale := keys.number("attention.scale"):
        if not 1 / limits.MAX_HIDDEN <= scale <= limits.MAX_HIDDEN:
            raise keys.error(
                "attention.scale", f"is {scale:g}; it must lie between 1 / {limits.MAX_HIDDEN} and {limits.MAX_HIDDEN}."
            )
        return scale**-2
    wide = config["hidden_size"] // config["num_attention_heads"]
    return float(wide if config["num_hidden_layers"] == deepest else config["head_dim"])


def _phi3(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    config["model_type"] = "phi3"
    short = config["max_position_embeddings"] == _PHI3_SHORT_TOKENS
    window = keys.integer("attention.sliding_window", _PHI3_SHORT_WINDOW if short else 0, low=0, high=2**31)
    config["sliding_window"] = window or None
    original = keys.optional_integer("rope.scaling.original_context_length", high=2**31)
    config["original_max_position_embeddings"] = original or config["max_position_embeddings"]


def _olmo2(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    config["model_type"] = "olmo2"
    if window := keys.integer("attention.sliding_window", 0, low=0, high=2**31):
        raise keys.error("attention.sliding_window", f"is {window}: OLMo 3 models are not supported.")


def _granite(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    if not keys.flag("rope.scaling.finetuned", True):
        raise keys.error("rope.scaling.finetuned", "is false: Granite models without rotary positions.")
    config |= {
        "model_type": "granite",
        "logits_scaling": keys.positive("logit_scale"),
        "residual_multiplier": keys.number("residual_scale") or 1.0,
        "embedding_multiplier": keys.number("embedding_scale") or 1.0,
        "attention_multiplier": keys.number("attention.scale") or config["head_dim"] ** -0.5,
    }


def _smollm3(keys: Keys, config: Config, tensors: Mapping[str, RawTensor]) -> None:
    """SmolLM3: every fourth layer has no positions. No key says so."""
    config["model_type"] = "smollm3"
    count = config["num_hidden_layers"]
    config["no_rope_layers"] = [int((index + 1) % _SMOLLM3_ROPE_INTERVAL != 0) for index in range(count)]


def _layer_types(keys: Keys, config: Config, period: int) -> list[str]:
    """Each layer's kind: as the file lists them, or windowed but for every `period`-th (declared, or the given one)."""
    count = config["num_hidden_layers"]
    stored = keys.get("attention.sliding_window_pattern")
    if isinstance(stored, list):
        if len(stored) != count or not all(isinstance(value, int) for value in stored):
            raise keys.error("attention.sliding_window_pattern", f"must have {count} entries of true or false.")
        return [_SLIDING if value else _FULL for value in stored]
    period = keys.integer("attention.sliding_window_pattern", period, low=1)
    return [_SLIDING if index % period < period - 1 else _FULL for index in range(count)]


_READERS: Mapping[str, Callable[[Keys, Config, Mapping[str, RawTensor]], None]] = {
    "llama": _llama,
    "mistral3": _mistral3,
    "qwen2": _qwen("qwen2"),
    "qwen2moe": _qwen_moe("qwen2_moe", norm_topk=False),
    "qwen3": _qwen("qwen3"),
    "qwen3moe": _qwen_moe("qwen3_moe", norm_topk=True),
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "olmo2": _olmo2,
    "olmoe": _olmoe,
    "granite": _granite,
    "smollm3": _smollm3,
    "gpt-oss": _gpt_oss,
}
