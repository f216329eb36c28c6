"""`penstock doctor`: the machine and the tier in force."""

from __future__ import annotations

import pytest
from tests.cli.terminal import is_one_error, penstock

from penstock.backend.cpu import compute_tiers
from penstock.cli.doctor import columns


def test_the_machine_and_the_best_tier_are_shown_uncut() -> None:
    said = penstock("doctor", COLUMNS="20").stdout
    assert f"{compute_tiers()[-1]} (this machine runs {', '.join(compute_tiers())}; PENSTOCK_ISA lowers it)" in said
    for fact in (
        "penstock ",
        "python ",
        "memory ",
        "threads ",
        "nodes ",
        "huge pages ",
        "settings file ",
        "max-model-tokens ",
    ):
        assert f"\n{fact}" in f"\n{said}"


@pytest.mark.parametrize("tier", compute_tiers())
def test_a_lowered_tier_is_shown(tier: str) -> None:
    assert f" {tier} (this machine" in penstock("doctor", PENSTOCK_ISA=tier).stdout


def test_an_unknown_tier_is_one_line_in_every_verb() -> None:
    for verb in (["doctor"], ["run", "x"], ["serve"]):
        assert "'foo'" in is_one_error(penstock(*verb, PENSTOCK_ISA="foo"), 2)


def test_columns_line_up() -> None:
    assert columns([("a", "bb", "c"), ("aaa", "b", "")]) == "a    bb  c\naaa  b"
