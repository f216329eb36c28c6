"""Tiny random checkpoints made by transformers agree with transformers, position by position."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf
from tests.backend.driver import Driver, make_backend

from penstock.core import SAMPLE
from penstock.model import open_checkpoint


def tokens_of(count, seed):
    return [int(t) for t in np.random.default_rng(seed).integers(0, 131, count)]


FAMILIES = ["llama", "llama3 rope", "qwen2", "qwen3", "mistral"]


def make_oracle(name):
    """A tiny random transformers model of a family."""
    torch.manual_seed(3)
    shared = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 131,
        "initializer_range": 0.3,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 512,
    }
    llama3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    config, cls = {
        "llama": (hf.LlamaConfig(**shared), hf.LlamaForCausalLM),
        "llama3 rope": (hf.LlamaConfig(**shared, rope_parameters=llama3), hf.LlamaForCausalLM),
        "qwen2": (hf.Qwen2Config(**shared, tie_word_embeddings=True), hf.Qwen2ForCausalLM),
        "qwen3": (hf.Qwen3Config(**shared, head_dim=32), hf.Qwen3ForCausalLM),
        "mistral": (hf.MistralConfig(**shared, sliding_window=24), hf.MistralForCausalLM),
    }[name]
    config._attn_implementation = "eager"
    model = cls(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key or key.endswith("bias"):
                value += 0.3 * torch.randn_like(value)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_families_agree_with_transformers(name, tmp_path):
    model = make_oracle(name)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    prompt = tokens_of(70, seed=1)
    with torch.no_grad():
        tokens = prompt + tokens_of(32, seed=2)
        reference = model(torch.tensor([tokens])).logits[0].double().numpy()
    driver = Driver(make_backend(checkpoint.spec, checkpoint.weights), page_order=range(63, -1, -1))

    driver.open(0, prompt)
    whole = driver.prefill(0, prompt, [])[-1]
    driver.open(1, prompt)
    chunked = driver.prefill(1, prompt, [17, 40])[-1]
    assert whole[1].tobytes() == chunked[1].tobytes()
    assert per_position(whole[1], reference[69:70]) <= 1e-4
    logits = []
    for position in range(70, 102):
        _, row = driver.step(driver.row(0, position, (tokens[position],)), logits=True)
        logits.append(row[0])
    assert per_position(np.stack(logits), reference[70:]) <= 1e-4
    assert per_position(np.stack(logits) + perturbation(checkpoint, tokens), reference[70:]) > 1e-4


def per_position(got, reference):
    return float((np.abs(got - reference).max(1) / np.abs(reference).max(1)).max())


def perturbation(checkpoint, tokens):
    """What one weight moved by a hundredth of its tensor's spread does to the logits: the control of the tolerance."""
    weights = dict(checkpoint.weights.tensors)
    ref = weights["layers.0.v"]
    values = ref.tensor.data.view(np.float32).copy()
    values[7] += 0.5
    weights["layers.0.v"] = replace(ref, tensor=replace(ref.tensor, data=values.view(np.uint8)))
    moved = replace(checkpoint.weights, tensors=weights)
    out = []
    for source in (checkpoint.weights, moved):
        driver = Driver(make_backend(checkpoint.spec, source))
        driver.open(0, tokens[:70])
        driver.prefill(0, tokens[:70], [])
        rows = [driver.step(driver.row(0, p, (tokens[p],), SAMPLE), logits=True)[1][0] for p in range(70, 102)]
        out.append(np.stack(rows))
    return out[1] - out[0]
