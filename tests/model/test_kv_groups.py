"""Layers by how far they look back."""

import json
from dataclasses import replace
from pathlib import Path

from tests.backend.reference import make_spec
from tests.model.published_configs import PUBLISHED

from penstock.model import DecoderSpec, inspect_checkpoint, kv_groups


def windowed(spec: DecoderSpec, windows: list[int | None]) -> DecoderSpec:
    layer = spec.layers[0]
    layers = tuple(replace(layer, attention=replace(layer.attention, window=window)) for window in windows)
    return replace(spec, layers=layers)


def found(windows: list[int | None]) -> list[tuple[str, tuple[int, ...], int | None]]:
    return [(group.name, group.layers, group.window) for group in kv_groups(windowed(make_spec(), windows))]


def test_a_model_without_windows_has_one_group() -> None:
    assert found([None, None]) == [("full", (0, 1), None)]


def test_a_model_of_one_window_has_just_that_group() -> None:
    assert found([512, 512]) == [("window-512", (0, 1), 512)]


def test_every_window_is_a_group_of_its_own_after_the_full_one() -> None:
    groups = found([512, None, 128, 512, None])
    assert groups == [("full", (1, 4), None), ("window-128", (2,), 128), ("window-512", (0, 3), 512)]


def test_values_are_those_of_the_group_alone() -> None:
    groups = kv_groups(windowed(make_spec(), [512, None, 512]))
    assert [group.values_per_token for group in groups] == [64, 128]  # keys and values of two heads of 16


def test_the_report_says_what_a_token_costs_by_group(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(PUBLISHED["gemma-3-1b-it"][0]))
    facts = inspect_checkpoint(path)
    assert "26,624 bytes a token: full 4,096, window-512 22,528" in facts.report()
    # 4 and 22 layers of one head of 256: a byte a value and four of a scale, for keys and for values
    assert "13,520 bytes a token: full 2,080, window-512 11,440" in facts.report()
    assert sum(group.values_per_token for group in facts.kv_groups) * 2 == dict(facts.kv_bytes_per_token)["bf16"]


def test_one_group_needs_no_name(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(PUBLISHED["llama-3.2-1b"][0]))
    report = inspect_checkpoint(path).report()
    assert "bytes a token" in report and "full" not in report
