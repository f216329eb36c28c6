"""What kernels become on a Hopper GPU: compiled here without one. The interpreter says nothing of instructions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    script = Path(__file__).with_name("sm90.py")
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    variables["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("kernels"))
    done = subprocess.run([sys.executable, script], env=variables, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_float_products_take_one_instruction_at_every_row_count(compiled):
    for rows in (1, 64, 257, 1024):
        (kernel,) = compiled[f"linear_{rows}"]
        assert kernel["wgmma"] == ["k16.f32.bf16"] and kernel["mma"] == []
    (kernel,) = compiled["linear_narrow"]
    assert kernel["wgmma"] == [] and kernel["mma"] == ["m16n8k16"]  # a tile below 64 channels would be another sum
    (kernel,) = compiled["linear_f32"]
    assert kernel["wgmma"] == kernel["mma"] == [] and kernel["fused"] > 0  # no products of 19 bits


def test_no_kernel_spills_or_outgrows_shared_memory(compiled):
    for case, kernels in compiled.items():
        assert kernels, case
        for kernel in kernels:
            assert kernel.get("local", 0) == 0 and kernel.get("stack", 0) <= 32, (
                case,
                kernel,
            )  # eight registers at most
            assert kernel["shared"] <= 227 * 1024, (case, kernel)


def test_decode_and_prefill_take_the_same_instructions(compiled):
    for kind in ("torch.bfloat16", "torch.int8"):
        split, _merge = compiled[f"decode_{kind}"]
        (prefill,) = compiled[f"prefill_{kind}"]
        assert split["wgmma"] == prefill["wgmma"] == ["k16.f32.bf16"] and split["mma"] == prefill["mma"] == []
        assert split["layouts"] == prefill["layouts"] != []
        assert split["reductions"] == prefill["reductions"] != []  # the same threads add the same weights


def test_codes_take_one_instruction_at_every_row_count(compiled):
    for rows in (1, 257):
        (kernel,) = compiled[f"codes_{rows}"]
        assert kernel["mma"] == ["m16n8k16"] and kernel["wgmma"] == []
    for kind, instruction in (("torch.int8", "k32.s32.s8"), ("torch.float8_e4m3fn", "k32.f32.e4m3")):
        for rows in (1, 1024):
            (kernel,) = compiled[f"scaled_{kind}_{rows}"]
            assert kernel["wgmma"] == [instruction] and kernel["mma"] == []


def test_experts_take_the_instruction_of_float_products(compiled):
    for rows in (1, 400):
        _route, up, down, _sum = compiled[f"mixture_{rows}"]
        for kernel in (up, down):
            assert kernel["wgmma"] == ["k16.f32.bf16"] and kernel["mma"] == []
