"""Tiers: how one is chosen, and that no symbol of one tier can be linked into another."""

import shutil
import subprocess
from pathlib import Path

import pytest

from penstock import _native

REPO = Path(__file__).parents[2]


def test_scalar_is_lowest_and_default_is_highest(monkeypatch):
    monkeypatch.delenv("PENSTOCK_ISA", raising=False)
    names = _native.tiers()
    assert names[0] == "scalar"
    assert _native.kernels().name == names[-1]


@pytest.mark.parametrize("tier", _native.tiers())
def test_environment_lowers_the_tier(monkeypatch, tier):
    monkeypatch.setenv("PENSTOCK_ISA", tier)
    assert _native.kernels().name == tier


@pytest.mark.parametrize("wanted", ["avx9", "SCALAR", "neon,avx2", "x" * 10_000])
def test_unknown_tier_is_refused_by_name(monkeypatch, wanted):
    monkeypatch.setenv("PENSTOCK_ISA", wanted)
    with pytest.raises(ValueError, match=r"unknown or cannot run.*hint: one of scalar") as caught:
        _native.kernels()
    assert len(str(caught.value)) < 400


def test_tier_of_another_machine_is_refused():
    foreign = "neon" if "avx2" in _native.tiers() else "avx512"
    if foreign in _native.tiers():
        pytest.skip("this machine runs every tier")
    with pytest.raises(ValueError, match=foreign):
        _native.kernels(foreign)


def tier_objects():
    newest = {}
    for path in REPO.glob("build/*/native/CMakeFiles/tier_*.dir/tiers/*.o"):
        known = newest.get(path.name)
        if known is None or known.stat().st_mtime < path.stat().st_mtime:
            newest[path.name] = path
    return sorted(newest.values())


def symbols(path):
    listing = subprocess.run(["nm", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    kinds = [line.split()[-2] for line in listing.splitlines() if line.split()]
    return [kind for kind in kinds if kind in "wWvVu"], [kind for kind in kinds if kind.isupper() and kind not in "WVU"]


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_tier_objects_have_no_weak_symbol_and_one_global():
    objects = tier_objects()
    if not objects:
        pytest.skip("no build folder beside the sources")
    for path in objects:
        weak, strong = symbols(path)
        assert weak == [], path
        assert len(strong) == 1, path


@pytest.mark.skipif(shutil.which("nm") is None or shutil.which("g++") is None, reason="nm or g++ is not installed")
def test_control_std_container_is_found(tmp_path):
    source = tmp_path / "leaky.cc"
    source.write_text("#include <vector>\nvoid grow(std::vector<int>& v) { v.push_back(1); }\nint other = 2;\n")
    subprocess.run(["g++", "-O2", "-c", source, "-o", tmp_path / "leaky.o"], check=True)
    weak, strong = symbols(tmp_path / "leaky.o")
    assert weak and len(strong) == 2


def stack_accesses(path):
    """Vector loads and stores of the stack, by function whose name holds `_span<`."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "-C", path], capture_output=True, text=True, check=True
    ).stdout
    found, name = {}, ""
    for line in listing.splitlines():
        if line.endswith(">:"):
            name = line.partition("<")[2]
            if "_span<" in name:
                found[name] = 0
        elif name in found and "%ymm" in line and ("(%rsp" in line or "(%rbp)" in line):
            found[name] += 1
    return found


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
def test_inner_loops_of_codes_on_avx2_stay_in_registers():
    objects = [path for path in tier_objects() if path.name.startswith("avx2.")]
    if not objects:
        pytest.skip("no build folder beside the sources")
    found = stack_accesses(objects[0])
    assert any("row_span<8" in name for name in found) or any("octet_span<8" in name for name in found)
    assert max(found.values()) <= 10  # scales or sums around the loop of inputs, two a block at most, never codes
