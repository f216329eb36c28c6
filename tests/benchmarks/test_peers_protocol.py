"""What drivers answer: rates counted the same way for all, prompts that never repeat, children that can't disturb."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.peers.child import ROOT, Child, PeerFailed
from benchmarks.peers.protocol import prompt, window

SCRIPTED = "tests.benchmarks.scripted_driver"


def test_the_window_is_of_steps_in_which_all_decode() -> None:
    first, late = [1.0, 2.0, 3.0, 4.0], [2.5, 3.0, 4.0, 5.0]
    assert window([first, late]) == (4, 1.5)  # from 2.5 to 4.0: two tokens each


def test_lockstep_steps_count_whole() -> None:
    assert window([[1.0, 2.0, 3.0]] * 8) == (16, 2.0)


def test_a_window_that_is_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="too few steps"):
        window([[1.0, 2.0], [2.0, 3.0]])


def test_prompts_differ_by_seed_and_stream_and_are_the_same_for_all() -> None:
    made = {tuple(prompt(seed, index, 16)) for seed in range(4) for index in range(4)}
    assert len(made) == 16
    assert prompt(1, 2, 8) == prompt(1, 2, 8)


@pytest.fixture
def child(tmp_path: Path):
    made = Child(Path(sys.executable), SCRIPTED, 2, tmp_path / "log")
    yield made
    made.close()
    assert not made.alive


def load(child: Child, **options: object) -> dict[str, object]:
    order = {"do": "load", "model": "m", "format": "q4_0", "threads": 2, "max_streams": 8, "max_tokens": 64}
    return child.ask(order | {"total_tokens": 512, "options": options}, 20.0)


def test_a_child_answers_and_its_times_are_its_own(child: Child) -> None:
    assert load(child)["note"] == "scripted, OMP_NUM_THREADS 2"
    said = child.ask({"do": "decode", "streams": 2, "depth": 4, "steps": 5, "seed": 1}, 20.0)
    assert said["tokens"] == 10 and said["seconds"] == pytest.approx(0.5)
    said = child.ask({"do": "prefill", "tokens": 7, "seed": 1}, 20.0)
    assert said == {"tokens": 7, "seconds": pytest.approx(0.7)}


def test_what_a_peer_prints_is_no_answer(child: Child, tmp_path: Path) -> None:
    load(child)
    assert child.ask({"do": "generate", "prompt": [1], "count": 3}, 20.0) == {"tokens": [0, 1, 2]}
    assert "chatter" in (tmp_path / "log").read_text()


def test_an_error_is_the_peers_and_it_lives_on(child: Child) -> None:
    load(child)
    with pytest.raises(PeerFailed, match="ValueError: too many"):
        child.ask({"do": "generate", "prompt": [1], "count": 99}, 20.0)
    assert child.ask({"do": "generate", "prompt": [1], "count": 1}, 20.0) == {"tokens": [0]}


def test_one_that_takes_too_long_is_ended(child: Child) -> None:
    load(child, sleep_s=30.0)
    with pytest.raises(PeerFailed, match="took longer than 0 s"):
        child.ask({"do": "generate", "prompt": [1], "count": 1}, 0.3)
    assert not child.alive


def test_one_that_dies_says_its_last_line(child: Child) -> None:
    load(child, dies=True)
    with pytest.raises(PeerFailed, match="died with 3: out of luck"):
        child.ask({"do": "generate", "prompt": [1], "count": 1}, 20.0)


def ticks(child: Child) -> int:
    fields = Path(f"/proc/{child._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_child_that_spins_takes_no_time(child: Child) -> None:
    load(child, spins=True)
    before = ticks(child)
    time.sleep(0.5)
    assert ticks(child) - before <= 1
    child.ask({"do": "generate", "prompt": [1], "count": 1}, 20.0)


PARENT = """
import sys, time
from pathlib import Path
from benchmarks.peers.child import Child
child = Child(Path(sys.executable), "tests.benchmarks.scripted_driver", 2, Path(sys.argv[1]))
order = {"do": "load", "model": "m", "format": "f", "threads": 2, "max_streams": 1, "max_tokens": 8}
child.ask(order | {"total_tokens": 8, "options": {}}, 20.0)
print(child._process.pid, flush=True)
time.sleep(60)
"""


def state(pid: int) -> str:
    """One letter of ps, or none where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def becomes(pid: int, states: tuple[str, ...]) -> bool:
    for _ in range(200):
        if state(pid) in states:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_a_stopped_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert becomes(pid, ("T",))
        parent.kill()
    assert becomes(pid, ("", "Z"))
