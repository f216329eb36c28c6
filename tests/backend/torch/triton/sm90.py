"""Compiles the kernels that launchers ask for, for a Hopper GPU that need not be there, and prints what they became.

Run as a process of its own without TRITON_INTERPRET: `python sm90.py CASE…` (see CASES in sm90_cases.py). One JSON
object: case → for each kernel its name, matrix instructions, layouts of sums, registers, local memory.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Hopper:
    """As much of a driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(case: Callable[[], Any]) -> list[Any]:
    """What the launches of a case compile to; nothing is launched."""
    found: list[Any] = []
    run = triton.JITFunction.run

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        found.append(run(self, *args, grid=grid, warmup=True, **kwargs))
        return found[-1]

    triton.JITFunction.run = only_compile
    try:
        case()
    finally:
        triton.JITFunction.run = run
    return found


def facts(kernel: Any) -> dict[str, Any]:
    ptx = kernel.asm["ptx"]
    hopper = Counter(re.findall(r"wgmma\.mma_async\.sync\.aligned\.m64n\d+(k\d+\.\w+\.\w+)", ptx))
    older = Counter(re.findall(r"mma\.sync\.aligned\.(m\d+n\d+k\d+)", ptx))
    usage = resources(kernel.asm["cubin"])
    return {
        "name": kernel.name,
        "wgmma": sorted(hopper),
        "mma": sorted(older),
        "layouts": re.findall(r"^#mma\d* = (.*)$", kernel.asm["ttgir"], re.MULTILINE),
        "reductions": re.findall(r"\}\) : (\(tensor<.*) loc", kernel.asm["ttgir"]),
        "fused": len(re.findall(r"\bfma\.rn\.f32", ptx)),
        "shared": kernel.metadata.shared,
        **usage,
    }


def resources(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return {}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+).*LOCAL:(\d+)", text).groups()
    return {"registers": int(registers), "stack": int(stack), "local": int(local)}


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from sm90_cases import CASES

    driver.set_active(Hopper())
    print(json.dumps({name: [facts(kernel) for kernel in compiled(CASES[name])] for name in sys.argv[1:] or CASES}))


if __name__ == "__main__":
    main()
