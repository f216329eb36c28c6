import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HfTokenizer

from penstock.text.encoders import LONG_CHARS, encode_ids

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "src/penstock/models/bundled/tokenizer.json"


def test_long_and_short_texts_give_the_ids_of_the_single_call() -> None:
    hf = HfTokenizer.from_file(str(BUNDLED))
    for text in ("", "a", "The river.", "The river. " * (LONG_CHARS // 5)):
        assert encode_ids(hf, text) == hf.encode(text, add_special_tokens=False).ids


CPU_BY_POLICY = """
import os, sys
from penstock.text.encoders import encode_ids, start_encoders
from tokenizers import Tokenizer

def spent():
    idle = 0
    for task in os.listdir("/proc/self/task"):
        fields = open(f"/proc/self/task/{task}/stat").read().rsplit(")", 1)[1].split()
        if os.sched_getscheduler(int(task)) == os.SCHED_IDLE:
            idle += int(fields[11]) + int(fields[12])
    return idle

hf = Tokenizer.from_file(sys.argv[1])
start_encoders(hf)
before = spent()
encode_ids(hf, "stones and rivers " * int(sys.argv[2]))
print(spent() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="policies of single threads are Linux's")
@pytest.mark.parametrize(("words", "stepped_back"), [(100_000, True), (1_000, False)], ids=["long", "short"])
def test_long_texts_are_cut_by_threads_that_take_only_what_is_left(words: int, stepped_back: bool) -> None:
    command = [sys.executable, "-c", CPU_BY_POLICY, str(BUNDLED), str(words)]
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    assert (int(out) > 2) is stepped_back
