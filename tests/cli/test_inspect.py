"""`penstock inspect`: facts for people and for programs, from headers alone."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.terminal import BUNDLED, is_one_error, penstock, talkative_model


def test_the_report_has_sizes_kv_and_sampling() -> None:
    said = penstock("inspect").stdout
    assert "KV bf16" in said and "bytes a token" in said and "parameters" in said
    sampling, ends = said.splitlines()[-2:]
    assert sampling.startswith("sampling ") and ends.split(maxsplit=2) == ["ends", "at", "<|eos|> (1), <|end|> (5)"]


def test_json_says_the_same(tmp_path: Path) -> None:
    folder = talkative_model(tmp_path / "model", context=4096)
    (folder / "generation_config.json").write_text('{"temperature": 0.25, "top_p": 0.5, "do_sample": true}')
    facts = json.loads(penstock("inspect", str(folder), "--json").stdout)
    assert facts["spec"]["max_tokens"] == 4096
    assert facts["spec"]["layers"][0]["mlp"]["activation"] == "silu"
    assert facts["total_bytes"] == dict(facts["bytes_by_storage"])["BF16"]
    assert facts["generation_defaults"]["temperature"] == 0.25
    assert {end["text"] for end in facts["end_tokens"]} >= {"<|eos|>"}
    assert "temperature 0.25, top_p 0.5" in penstock("inspect", str(folder)).stdout
    (folder / "tokenizer.json").unlink()
    assert json.loads(penstock("inspect", str(folder), "--json").stdout)["end_tokens"] == []


def test_a_bare_config_is_enough_and_a_missing_one_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((BUNDLED / "config.json").read_bytes())
    assert "parameters" in penstock("inspect", str(tmp_path / "config.json")).stdout
    (tmp_path / "config.json").unlink()
    assert "config.json" in is_one_error(penstock("inspect", str(tmp_path)), 78)
