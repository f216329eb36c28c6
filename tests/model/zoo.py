"""One tiny random transformers model for every family that is served: the oracles of every test of models.

Every parameter is drawn here (norms, biases and sinks too), so that nothing is flat, zero or one; windows, originals
and layer patterns are small enough to matter within a hundred tokens.
"""

from pathlib import Path

import torch
import transformers as hf
from transformers import PreTrainedModel

VOCAB = 160
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# A K-quant's block is 256 inputs: every row of these models is a whole number of them.
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3 |= {"original_max_position_embeddings": 64}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64}
_GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
_ALTERNATING = ["sliding_attention", "full_attention"] * 2


def _long(head_dim: int, partial: float = 1.0) -> dict[str, object]:
    count = int(head_dim * partial) // 2
    rope: dict[str, object] = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": partial}
    rope["short_factor"] = [1.0 + index / 10 for index in range(count)]
    rope["long_factor"] = [1.5 + index / 3 for index in range(count)]
    return rope | {"original_max_position_embeddings": 64}


# Name → (model_type, fields beside SIZES); a wide model's `head_dim` is four times the one given.
ENTRIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {}),
    "llama biased": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama llama3": ("llama", {"rope_parameters": _LLAMA3}),
    "llama linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama yarn": ("llama", {"rope_parameters": _YARN}),
    "mistral": ("mistral", {"sliding_window": 12}),
    "mistral nemo": ("mistral", {"sliding_window": None, "head_dim": 32}),
    "ministral": (
        "ministral",
        {"head_dim": 16, "sliding_window": 12, "layer_types": _ALTERNATING, "num_hidden_layers": 4},
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 windowed": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2, "num_hidden_layers": 4},
    ),
    "qwen2_moe": (
        "qwen2_moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 96,
            "decoder_sparse_step": 1,
        },
    ),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3_moe": (
        "qwen3_moe",
        {
            "head_dim": 32,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
    ),
    "gemma": ("gemma", {"head_dim": 32, "num_key_value_heads": 1}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 32,
            "sliding_window": 12,
            "num_hidden_layers": 4,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma3_text": (
        "gemma3_text",
        {
            "head_dim": 32,
            "sliding_window": 12,
            "num_hidden_layers": 6,
            "query_pre_attn_scalar": 24,
            "rope_parameters": _GEMMA3_ROPE,
        },
    ),
    "phi3": ("phi3", {"sliding_window": 40, "num_key_value_heads": 4}),
    "phi3 longrope": (
        "phi3",
        {"rope_parameters": _long(16), "original_max_position_embeddings": 64, "sliding_window": 300},
    ),
    "phi4 mini": (
        "phi3",
        {
            "rope_parameters": _long(16, 0.75),
            "original_max_position_embeddings": 64,
            "sliding_window": 300,
            "tie_word_embeddings": True,
        },
    ),
    "olmo2": ("olmo2", {}),
    "olmoe": ("olmoe", {"num_experts": 8, "num_experts_per_tok": 2, "clip_qkv": 2.0, "norm_topk_prob": False}),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "logits_scaling": 0.5,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.2,
            "tie_word_embeddings": True,
        },
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "no_rope_layer_interval": 2, "tie_word_embeddings": True}),
    "gpt_oss": (
        "gpt_oss",
        {
            "head_dim": 16,
            "num_hidden_layers": 4,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 64,
            "sliding_window": 12,
            "rope_parameters": _YARN | {"truncate": False},
        },
    ),
}
ZOO = tuple(ENTRIES)
# Models of more than text, whose text part is the entry named.
TEXT_PARTS = {"gemma3": "gemma3_text"}
_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
_VISION |= {"image_size": 28, "patch_size": 14}
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss")
DENSE = tuple(name for name in ZOO if name not in MIXTURES)


def make_config(name: str, wide: bool = False, **changes: object) -> hf.PretrainedConfig:
    """The config of an entry; `wide` gives rows of 256, `changes` override any field."""
    if name in TEXT_PARTS:
        text = make_config(TEXT_PARTS[name], wide, **changes).to_dict()
        return hf.AutoConfig.for_model(name, text_config=text, vision_config=dict(_VISION), mm_tokens_per_image=4)
    model_type, fields = ENTRIES[name]
    sizes = SIZES | fields
    if wide:
        sizes |= WIDE | {key: fields[key] for key in ("num_key_value_heads",) if key in fields}
        sizes |= {key: 256 for key in ("moe_intermediate_size", "shared_expert_intermediate_size") if key in fields}
        sizes |= {"head_dim": 4 * int(str(fields["head_dim"]))} if "head_dim" in fields else {}
        rope = sizes.get("rope_parameters")
        if isinstance(rope, dict) and "short_factor" in rope:
            sizes["rope_parameters"] = _long(64, float(rope["partial_rotary_factor"]))
    return hf.AutoConfig.for_model(model_type, **_copied(sizes | changes))


def make_zoo_model(name: str, wide: bool = False, seed: int = 3, **changes: object) -> PreTrainedModel:
    """A random float32 model of an entry, in evaluation mode, with plain attention and experts."""
    config = make_config(name, wide, **changes)
    model = hf.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    draw(model, seed)
    return model


def draw(model: PreTrainedModel, seed: int) -> None:
    """Draws every parameter anew: branches, scores, router margins and logits all spread over a few units."""
    generator = torch.Generator().manual_seed(seed)
    offset = 0.0 if model.config.model_type.startswith("gemma") else 1.0
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("norm.weight"):
                value.copy_(offset + 0.3 * noise)
            elif name.endswith("bias"):
                value.copy_(0.3 * noise)
            elif name.endswith("sinks"):
                value.copy_(noise)
            elif "embed_tokens" in name:
                value.copy_((2.4 / value.shape[-1] ** 0.5 if tied else 1.0) * noise)
            elif name.endswith(("gate.weight", "router.weight")):
                value.copy_(3.0 / value.shape[-1] ** 0.5 * noise)
            else:
                value.copy_(1.5 / value.shape[-1] ** 0.5 * noise)


def save(model: PreTrainedModel, folder: Path, **options: object) -> Path:
    """The folder that the model was saved into."""
    model.save_pretrained(folder, **options)
    return folder


def _copied(fields: dict[str, object]) -> dict[str, object]:
    """Configs write into the objects that they are given."""
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in fields.items()}
