"""Checkpoints saved by transformers open to the right spec, with every place filled by the right values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.made_models import SIZES, make_model, save

from penstock.core import ModelFileError
from penstock.formats.gguf_blocks import dequantize
from penstock.model import Checkpoint, open_checkpoint
from penstock.model.dense import HF_NAMES
from penstock.model.places import places

VARIANTS = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("mistral", {"sliding_window": 7}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"attention_bias": True}),
]


def stored_name(place: str) -> str:
    stem, suffix = (place.removesuffix(".bias"), "bias") if place.endswith(".bias") else (place, "weight")
    layer = stem.split(".")[1:-1]
    at = "".join(f"model.layers.{index}." for index in layer)
    return f"{at}{HF_NAMES[stem.split('.')[-1]]}.{suffix}"


def mismatches(checkpoint: Checkpoint, state: dict[str, torch.Tensor]) -> list[str]:
    """Places whose stored values are not the state's."""
    found = []
    for place in places(checkpoint.spec):
        ref = checkpoint.weights.tensors[place]
        values = dequantize(ref.tensor)
        values = values if ref.rows is None else values[ref.rows]
        if not np.array_equal(values, state[stored_name(place)].float().numpy()):
            found.append(place)
    return found


@pytest.mark.parametrize(("family", "options"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_place_is_filled(family: str, options: dict, dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_model(family, **options).to(dtype)
    checkpoint = open_checkpoint(save(model, tmp_path))
    state = model.state_dict()
    assert mismatches(checkpoint, state) == []
    assert checkpoint.spec.family == family
    assert checkpoint.spec.tied_head == options.get("tie_word_embeddings", False)
    stored = load_file(tmp_path / "model.safetensors")
    assert checkpoint.weights.total_bytes == sum(value.nbytes for value in stored.values())
    assert sum(size for _, size in checkpoint.storage) == checkpoint.weights.total_bytes
    assert checkpoint.folder == tmp_path and checkpoint.gguf_metadata is None
    state["model.layers.1.mlp.up_proj.weight"] = state["model.layers.1.mlp.up_proj.weight"] + 1  # control
    assert mismatches(checkpoint, state) == ["layers.1.up"]


def test_views_are_read_only(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save(make_model("llama"), tmp_path))
    assert not any(ref.tensor.data.flags.writeable for ref in checkpoint.weights.tensors.values())


def test_attention_of_each_family(tmp_path: Path) -> None:
    for family, options in VARIANTS:
        spec = open_checkpoint(save(make_model(family, **options), tmp_path / f"{family}{len(options)}")).spec
        attention = spec.layers[0].attention
        assert bool(attention.qk_norm) == (family == "qwen3")
        assert attention.q_bias == (family == "qwen2" or bool(options.get("attention_bias")))
        assert attention.o_bias == bool(options.get("attention_bias"))
        assert spec.layers[0].mlp.bias == bool(options.get("mlp_bias"))
        assert attention.window == (7 if family == "mistral" else None)
        assert (attention.num_heads, attention.num_kv_heads, attention.head_dim) == (4, 2, 16)


def test_windows_follow_max_window_layers_and_layer_types(tmp_path: Path) -> None:
    options = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
    for family in ("qwen2", "qwen3"):
        folder = save(make_model(family, **options), tmp_path / family)
        assert [layer.attention.window for layer in open_checkpoint(folder).spec.layers] == [None, 9]
        change_config(folder, layer_types=["sliding_attention", "full_attention"])
        assert [layer.attention.window for layer in open_checkpoint(folder).spec.layers] == [9, None]
        change_config(folder, layer_types=None)
        assert [layer.attention.window for layer in open_checkpoint(folder).spec.layers] == [None, 9]
        change_config(folder, use_sliding_window=False)
        assert [layer.attention.window for layer in open_checkpoint(folder).spec.layers] == [None, None]


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_sharded_equals_single(tmp_path: Path) -> None:
    model = make_model("qwen3")
    folder = save(model, tmp_path, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    checkpoint = open_checkpoint(folder)
    assert mismatches(checkpoint, model.state_dict()) == []
    assert len(checkpoint.weights.files) > 1


def test_identity_follows_config_and_weights(tmp_path: Path) -> None:
    folder = save(make_model("llama"), tmp_path)
    first = open_checkpoint(folder).weights.identity
    assert first == open_checkpoint(folder).weights.identity
    change_config(folder, rms_norm_eps=1e-4)
    second = open_checkpoint(folder).weights.identity
    state = load_file(folder / "model.safetensors")
    state["model.layers.0.self_attn.o_proj.weight"] *= 2
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    third = open_checkpoint(folder).weights.identity
    assert len({first, second, third}) == 3


def test_end_tokens_and_defaults(tmp_path: Path) -> None:
    folder = save(make_model("llama"), tmp_path)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [9, 5], "bos_token_id": 0, "temperature": 0.6, "top_k": -1, "top_p": 0.9})
    )
    checkpoint = open_checkpoint(folder)
    assert checkpoint.eos_token_ids == (2, 5, 9)  # and config.json's
    assert checkpoint.bos_token_id == 0
    defaults = checkpoint.generation_defaults
    assert (defaults.temperature, defaults.top_p, defaults.top_k) == (0.6, 0.9, 0)
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.6}))
    assert open_checkpoint(folder).generation_defaults.temperature == 0.0
    (folder / "generation_config.json").unlink()
    assert open_checkpoint(folder).eos_token_ids == (2,)


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_an_end_token_outside_the_vocabulary_is_refused(name: str, tmp_path: Path) -> None:
    folder = save(make_model("llama"), tmp_path)
    vocab = open_checkpoint(folder).spec.vocab
    (folder / "generation_config.json").unlink(missing_ok=True)
    values = json.loads((folder / name).read_text()) if name == "config.json" else {}
    for ids, fits in ((vocab - 1, True), ([0, vocab], False)):
        (folder / name).write_text(json.dumps({**values, "eos_token_id": ids}))
        if fits:
            assert ids in open_checkpoint(folder).eos_token_ids
            continue
        with pytest.raises(ModelFileError, match=f"{name}: eos_token_id {vocab} is outside"):
            open_checkpoint(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "gpt2"}, "unknown architecture 'gpt2'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"hidden_size": 128}, "the config needs"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_hidden_layers": 3}, "model.layers.2"),
        ({"num_hidden_layers": 1}, "has no place"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_key_value_heads": 3}, "no multiple"),
        ({"vocab_size": 81}, "the config needs (81, 64)"),
        ({"attention_bias": True}, "q_proj.bias is missing"),
        ({"hidden_act": "relu"}, "unknown activation"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "unknown rope type 'spiral'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "twist": 1}}, "unknown parameter 'twist'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ],
)
def test_mismatches_are_refused_in_one_line(values: dict, words: str, tmp_path: Path) -> None:
    folder = save(make_model("llama"), tmp_path)
    change_config(folder, **values)
    with pytest.raises(ModelFileError) as caught:
        open_checkpoint(folder)
    assert words in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_tied_head_with_values_of_its_own_is_kept(tmp_path: Path) -> None:
    folder = save(make_model("llama"), tmp_path)
    change_config(folder, tie_word_embeddings=True)
    assert open_checkpoint(folder).spec.tied_head is False
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert open_checkpoint(folder).spec.tied_head is True


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", None])
def test_missing_files_are_named(missing: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "nothing"
    if missing:
        folder = save(make_model("llama"), tmp_path)
        (folder / missing).unlink()
    with pytest.raises(ModelFileError, match=missing or "no such file or folder"):
        open_checkpoint(folder)


def test_sizes_are_those_of_the_tests(tmp_path: Path) -> None:
    spec = open_checkpoint(save(make_model("llama"), tmp_path)).spec
    assert (spec.hidden, spec.vocab, len(spec.layers)) == (SIZES["hidden_size"], SIZES["vocab_size"], 2)
