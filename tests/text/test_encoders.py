import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HfTokenizer

from penstock.text.encoders import LONG_CHARS, NICE_STEP, encode_ids

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "src/penstock/models/bundled/tokenizer.json"


def test_long_and_short_texts_give_the_ids_of_the_single_call() -> None:
    hf = HfTokenizer.from_file(str(BUNDLED))
    for text in ("", "a", "The river.", "The river. " * (LONG_CHARS // 5)):
        assert encode_ids(hf, text) == hf.encode(text, add_special_tokens=False).ids


CPU_BY_PRIORITY = """
import os, sys
from penstock.text.encoders import encode_ids, start_encoders
from tokenizers import Tokenizer

def spent():
    found = {}
    for task in os.listdir("/proc/self/task"):
        fields = open(f"/proc/self/task/{task}/stat").read().rsplit(")", 1)[1].split()
        found[int(fields[16])] = found.get(int(fields[16]), 0) + int(fields[11]) + int(fields[12])
    return found

hf = Tokenizer.from_file(sys.argv[1])
start_encoders(hf)
before = spent()
encode_ids(hf, "stones and rivers " * int(sys.argv[2]))
after = spent()
print(os.getpriority(os.PRIO_PROCESS, 0), {nice: after[nice] - before.get(nice, 0) for nice in after})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of single threads are Linux's")
@pytest.mark.parametrize(("words", "stepped_back"), [(100_000, True), (1_000, False)], ids=["long", "short"])
def test_long_texts_are_cut_by_threads_that_step_back(words: int, stepped_back: bool) -> None:
    command = [sys.executable, "-c", CPU_BY_PRIORITY, str(BUNDLED), str(words)]
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    base, _, rest = out.partition(" ")
    ticks = read_ticks(rest)
    assert (ticks.get(min(19, int(base) + NICE_STEP), 0) > 2) is stepped_back


def read_ticks(text: str) -> dict[int, int]:
    """{priority: ticks} as Python prints it."""
    pairs = (pair.split(":") for pair in text.strip().strip("{}").split(",") if pair)
    return {int(nice): int(ticks) for nice, ticks in pairs}
