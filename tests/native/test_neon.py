"""The NEON tier under an emulator: the same bits as the scalar tier; and the whole core compiles for its machines.

Sources and the tier's instruction set are those of the build.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
FLAGS = ["-O1", "-std=c++20", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-Wall", "-Werror", "-Wno-unknown-pragmas"]
BUILD = (NATIVE / "CMakeLists.txt").read_text()
[NEON] = re.findall(r"penstock_tier\(neon (\S+)\)", BUILD)
[CORE] = re.findall(r"set\(PENSTOCK_SOURCES\s([^)]+)\)", BUILD)
WORK = ["codes", "floats", "ops", "attention", "sampler"]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"{COMPILER} is not installed"),
    pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neon")
    objects, started = [], []
    for name in ["tiers/neon.cc", "tiers/scalar.cc", *CORE.split(), "conformance.cc"]:
        target = folder / (Path(name).name + ".o")
        flags = [NEON] if name == "tiers/neon.cc" else []
        started.append(subprocess.Popen([COMPILER, *FLAGS, *flags, "-c", NATIVE / name, "-o", target]))
        objects.append(target)
    assert [process.wait() for process in started] == [0] * len(started)
    subprocess.run([COMPILER, "-static", "-pthread", *objects, "-o", folder / "conformance"], check=True)
    return folder / "conformance"


def run(program, *arguments, cpu="max"):
    done = subprocess.run([EMULATOR, "-cpu", cpu, program, *arguments], capture_output=True, text=True, check=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    return done.returncode, {tier: dict(zip(WORK, digests, strict=True)) for tier, *digests in lines}


def test_neon_gives_the_bits_of_scalar(program):
    code, digests = run(program)
    assert sorted(digests) == ["neon", "scalar"]
    assert code == 0
    assert digests["neon"] == digests["scalar"]


def test_every_file_of_the_core_is_there(program):
    """None of the tests above needs a decoder."""
    compiled = {path.name.partition(".")[0] for path in program.parent.glob("*.o")}
    assert {"decoder", "decoder_moe", "decoder_pages", "decoder_state", "linear", "threads", "unpack"} <= compiled


def test_control_another_input_is_seen(program):
    code, digests = run(program, "--break")
    assert code == 1
    for work in WORK:
        assert digests["neon"][work] != digests["scalar"][work], work


def test_processor_without_dot_products_runs_scalar_only(program):
    code, digests = run(program, cpu="cortex-a72")
    assert code == 1
    assert list(digests) == ["scalar"]
