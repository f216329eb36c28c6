"""What the GPUs here can do at most, as one JSON line: `python -m penstock.backend.torch.limits [--quick]`.

Knows nothing about models or records: those who may not import torch start it and read its line. Invariant: every
repeat's time is given, each from a device that had nothing left to do; without a GPU the list is empty.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

import torch
from torch.utils.benchmark import Timer

COPY_BYTES = 1 << 30
MATRIX = 8192
QUICK_COPY_BYTES = 1 << 20
QUICK_MATRIX = 256
REPEATS = 15
QUICK_REPEATS = 3
CALLS = 4  # between two looks at the clock


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """One device's times.

    Attributes:
        name: of the device.
        copied_bytes: read and written by one copy within its memory.
        copy_s: of a copy, every repeat.
        operations: of one product of square matrices of bf16: two for every multiply-add.
        product_s: of a product, every repeat.
    """

    name: str
    copied_bytes: int
    copy_s: list[float]
    operations: int
    product_s: list[float]


def measure(device: str, name: str, quick: bool) -> DeviceTimes:
    """The times of one device, which the timer waits for before it looks at the clock.

    Args:
        device: as torch names it, such as "cuda:0".
        name: for people.
        quick: small sizes: only whether it runs.
    """
    num_bytes, size = (QUICK_COPY_BYTES, QUICK_MATRIX) if quick else (COPY_BYTES, MATRIX)
    repeats = QUICK_REPEATS if quick else REPEATS
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)  # [num_bytes] u8
    target = torch.empty_like(source)
    copy_s = times_of(Timer("target.copy_(source)", globals={"target": target, "source": source}), repeats)
    left = torch.rand(size, size, device=device).to(torch.bfloat16)  # [size, size] bf16
    product_s = times_of(Timer("torch.mm(left, left)", globals={"torch": torch, "left": left}), repeats)
    return DeviceTimes(name, 2 * num_bytes, copy_s, 2 * size**3, product_s)


def times_of(timer: Timer, repeats: int) -> list[float]:
    """Seconds of one call in each repeat, after a repeat that does not count."""
    timer.timeit(CALLS)
    return [timer.timeit(CALLS).mean for _ in range(repeats)]


def main() -> None:
    """Prints the times of every GPU."""
    quick = "--quick" in sys.argv[1:]
    found = []
    for index in range(torch.cuda.device_count()):
        with torch.cuda.device(index):  # the timer waits for the current device
            found.append(asdict(measure(f"cuda:{index}", torch.cuda.get_device_name(index), quick)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
