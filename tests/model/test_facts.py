"""Facts: published parameter counts from bare configs, and the same counts from files."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.model.made_models import make_model, save

from penstock.model import inspect_checkpoint

DATA = Path(__file__).parents[3] / "shared" / "data" / "model_configs"
COUNTS = {
    "meta-llama--Meta-Llama-3.1-8B": (8_030_261_248, 131_072),
    "meta-llama--Meta-Llama-3.1-70B": (70_553_706_496, 327_680),
    "qwen2.5-7b-instruct": (7_615_616_512, 57_344),
    "mistral-nemo-instruct-2407": (12_247_782_400, 163_840),
}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_published_counts(name: str) -> None:
    path = DATA / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    facts = inspect_checkpoint(path)
    assert (facts.num_parameters, dict(facts.kv_bytes_per_token)["bf16"]) == COUNTS[name]
    assert f"{COUNTS[name][0]:,}" in facts.report()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_folder_and_bare_config_agree_with_transformers(family: str, tmp_path: Path) -> None:
    model = make_model(family)
    facts = inspect_checkpoint(save(model, tmp_path))
    bare = inspect_checkpoint(tmp_path / "config.json")
    assert facts.num_parameters == bare.num_parameters == sum(p.numel() for p in model.parameters())
    assert facts.total_bytes == 4 * facts.num_parameters and bare.total_bytes == 0
    assert facts.bytes_by_storage == (("F32", facts.total_bytes),) and facts.quantization is None
    assert json.loads(json.dumps(asdict(facts), default=str))["num_parameters"] == facts.num_parameters
