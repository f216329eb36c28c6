"""Every family of the zoo written twice, as safetensors and as GGUF: the same spec, logits and tokens."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tests.backend.driver import Driver, make_backend
from tests.model.gguf_writing import EXPRESSIBLE, in_bfloat16, make_model, write
from tests.model.zoo import VOCAB, make_zoo_model, save
from tests.resident import resident

from penstock.formats.gguf_blocks import dequantize
from penstock.model import DecoderSpec, WeightRef, open_checkpoint

PROMPT = [int(token) for token in np.random.default_rng(1).integers(3, VOCAB, 40)]
STEPS = 12
QUANTIZED = ("llama", "gemma2", "phi3", "qwen2_moe", "gpt_oss")
# Rules that transformers changes with the length of the text; tests/backend compares them in one regime.
LONG = ("phi3 longrope", "phi4 mini")
# Rules that the format stores as a table of float32: the same to rounding, not to the bit.
ROUNDED = ("llama llama3", *LONG)
# Models whose files say no more than "llama".
MISTRAL = ("mistral nemo",)
# Architecture's conventions, each left out in turn: the control of the round trip.
CONTROLS = [
    ("llama", "permutation"),
    ("mixtral", "permutation"),
    ("granite", "permutation"),
    ("smollm3", "permutation"),
    ("gemma", "norms"),
    ("gemma2", "norms"),
    ("gemma3_text", "norms"),
    ("phi3", "halves"),
    ("qwen3_moe", "halves"),
    ("gpt_oss", "halves"),
    ("llama llama3", "factors"),
]


def run(path: Path) -> tuple[np.ndarray, list[int]]:
    """Logits of the prompt's last token and of every greedy step, and the tokens.  # [1 + STEPS, V] f32."""
    checkpoint = open_checkpoint(path)
    driver = Driver(make_backend(checkpoint.spec, checkpoint.weights, pages=8, pack_cache=False))
    driver.open(0, PROMPT)
    result, logits = driver.prefill(0, PROMPT, [])[-1]
    rows, tokens = [logits[0]], [int(result.tokens[0])]
    for step in range(STEPS):
        plan, logits = driver.step(driver.row(0, len(PROMPT) + step, (tokens[-1],)), logits=True)
        rows.append(logits[0])
        tokens.append(int(plan.rows[0].tokens[0]))
    return np.stack(rows), tokens


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(got - expected).max(1) / np.abs(expected).max(1)).max())


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_every_place_holds_the_same_values(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    folder = open_checkpoint(save(model, tmp_path / "hf"))
    file = open_checkpoint(write(model, tmp_path / "m.gguf"))
    added = np.float32(folder.spec.norm_offset - file.spec.norm_offset)
    assert folder.weights.tensors.keys() == file.weights.tensors.keys()
    for place, ref in folder.weights.tensors.items():
        expected = values_of(ref) + added if place.endswith("norm") else values_of(ref)
        assert np.array_equal(values_of(file.weights.tensors[place]), expected), place
    if name in ROUNDED:
        return
    family = file.spec.family if name in MISTRAL else folder.spec.family
    expected = replace(folder.spec, norm_offset=file.spec.norm_offset, norm_eps=file.spec.norm_eps, family=family)
    assert rounded_spec(file.spec) == rounded_spec(expected)  # the file keeps float32


def rounded_spec(spec: DecoderSpec) -> DecoderSpec:
    layers = (replace(layer, attention=replace(layer.attention, scale=0.0)) for layer in spec.layers)
    scales = [layer.attention.scale for layer in spec.layers] + [spec.residual_scale, spec.logit_scale]
    names = ",".join(str(np.float32(scale)) for scale in scales)
    return replace(spec, family=f"{spec.family} {names}", layers=tuple(layers), residual_scale=0.0, logit_scale=0.0)


def values_of(ref: WeightRef) -> np.ndarray:
    """A place's values in float32, whatever they are stored as."""
    found = dequantize(ref.load() if ref.load else ref.tensor)
    found = found if ref.count < 0 else found[ref.first : ref.first + ref.count]
    return found if ref.rows is None else found[ref.rows]


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_the_same_logits_and_tokens_as_from_safetensors(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    model = make_model(name)
    expected, tokens = run(save(model, tmp_path / "hf"))
    got, same = run(write(model, tmp_path / "m.gguf"))
    assert same == tokens
    if name in ROUNDED:
        assert difference(got, expected) < 1e-5
        record_property("difference", f"{difference(got, expected):.1e}")
    else:
        assert got.tobytes() == expected.tobytes()
        record_property("difference", "equal to the bit")
    if name not in LONG:
        with torch.no_grad():
            reference = model(torch.tensor([PROMPT])).logits[0, -1].numpy()
        assert difference(got[:1], reference[None]) < 1e-4


@pytest.mark.parametrize(("name", "without"), CONTROLS)
def test_control_a_convention_left_out_is_another_model(name: str, without: str, tmp_path: Path) -> None:
    model = make_model(name)
    got, _ = run(write(model, tmp_path / "m.gguf", without=without))
    expected, _ = run(save(model, tmp_path / "hf"))
    assert difference(got[:1], expected[:1]) > 1e-2


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_the_same_in_bfloat16(name: str, tmp_path: Path) -> None:
    model = in_bfloat16(make_model(name))
    expected, tokens = run(save(model, tmp_path / "hf"))
    got, same = run(write(model, tmp_path / "m.gguf", "BF16"))
    assert same == tokens
    assert difference(got, expected) < 1e-5


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_files_are_the_model_of_their_rounded_weights(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    got, _ = run(write(model, tmp_path / "m.gguf", "Q8_0"))
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.ndim >= 2 and not key.endswith(("_bias", "gate.weight", "router.weight")):
                value.copy_(torch.from_numpy(rounded(value.numpy(), key, model.config.model_type)))
        expected = model(torch.tensor([PROMPT])).logits[0, -1].numpy()
    assert 0 < difference(got[:1], expected[None]) < 0.1  # activations are rounded too
    other, _ = run(write(make_model(name), tmp_path / "other.gguf", "Q4_0"))
    assert difference(other[:1], expected[None]) > 0.2  # control: weights that were rounded otherwise


def rounded(values: np.ndarray, key: str, model_type: str) -> np.ndarray:
    """What Q8_0 keeps of a matrix, along the axis that it is stored with innermost."""
    turned = model_type == "gpt_oss" and ".experts." in key
    values = np.ascontiguousarray(values.swapaxes(-1, -2)) if turned else values
    kind = gguf.GGMLQuantizationType.Q8_0
    kept = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind).reshape(values.shape)
    return kept.swapaxes(-1, -2).copy() if turned else kept


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are read from /proc")
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_rows_that_are_put_in_order_are_in_memory_once(name: str, tmp_path: Path) -> None:
    path = write(make_zoo_model(name, wide=True, num_hidden_layers=4), tmp_path / "m.gguf")
    checkpoint = open_checkpoint(path)
    refs = checkpoint.weights.tensors
    for ref in refs.values():
        ref.tensor.data.sum()
    whole = resident(path)
    make_backend(checkpoint.spec, checkpoint.weights, pages=8, pack_cache=False)
    ordered = sum(len(refs[f"layers.{index}.{part}"].tensor.data) for index in range(4) for part in "qk")
    saved = whole - resident(path)
    # Control: the rows of a qwen2 stay where the map has them.
    assert saved > 0.9 * ordered if name == "llama" else saved < 0.1 * ordered
