"""A published model as a GGUF file, tokenizer inside: the same text, through every part."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.model.llama2c import read_model, read_pieces
from tests.model.made_models import gguf_name, interleave

from penstock import LLM, LoadOptions, SamplingParams

TINY = Path(__file__).resolve().parent.parent.parent / "shared/data/tiny_model"
GREEDY = SamplingParams(temperature=0.0, max_tokens=200)

pytestmark = pytest.mark.skipif(
    not TINY.is_dir(), reason="the published stories260K is not at ../shared/data/tiny_model"
)


def write(path: Path, kind: gguf.GGMLQuantizationType | None = None) -> Path:
    """stories260K with its SPM vocabulary; matrices whose rows divide into blocks are of that kind."""
    config, tensors = read_model(TINY / "stories260K.bin")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    pieces = read_pieces(TINY / "tok512.bin", config["vocab_size"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_scores([score for _, score in pieces])
    control, byte, normal = gguf.TokenType.CONTROL, gguf.TokenType.BYTE, gguf.TokenType.NORMAL
    kinds = [control if i < 3 else byte if i < 259 else normal for i in range(len(pieces))]
    writer.add_token_types([gguf.TokenType.UNKNOWN, *kinds[1:]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, values in tensors.items():
        if ".q_proj." in name or ".k_proj." in name:
            heads = config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            values = interleave(values, heads)
        if kind is not None and values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def told(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    with LLM(options=LoadOptions(model=str(path), kv_bytes=8 * 2**20)) as llm:
        assert llm.loaded.tokenizer.encode("") == (1,)
        return llm.generate([[1]], GREEDY)[0].text


def test_the_published_text_comes_out_of_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (TINY / "expected_greedy_200_steps.txt").read_text().strip()
    assert told(write(tmp_path / "f32.gguf"), tmp_path, monkeypatch).strip() == expected


def test_a_quantized_file_tells_nearly_the_same_story_packed_and_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "q8.gguf", gguf.GGMLQuantizationType.Q8_0)
    expected = (TINY / "expected_greedy_200_steps.txt").read_text().strip()
    first = told(path, tmp_path / "cache", monkeypatch)
    again = told(path, tmp_path / "cache", monkeypatch)
    assert first == again
    assert first.strip()[:60] == expected[:60]
