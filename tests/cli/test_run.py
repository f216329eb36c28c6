"""`penstock run` as a process: text on stdout, talk on stderr, and every way to be interrupted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.terminal import Terminal, environment, is_one_error, penstock, talkative_model

FIGURES = re.compile(r"\d+ tokens(, ended by its limit)?, TTFT \d+\.\d{3} s, \d+\.\d tok/s\n")


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(talkative_model(tmp_path_factory.mktemp("run") / "model"))


def test_text_goes_to_stdout_and_talk_to_stderr() -> None:
    ran = penstock("run", "The sea was calm", "--max-tokens", "5", "--seed", "1")
    assert ran.returncode == 0
    assert ran.stdout.endswith("\n") and len(ran.stdout) > 3
    assert FIGURES.fullmatch(ran.stderr) and ran.stderr.startswith("5 tokens, ended by its limit,")


def test_a_seed_repeats_and_quiet_is_quiet() -> None:
    first, again = (penstock("run", "The sea", "--max-tokens", "9", "--seed", "4", "-q") for _ in range(2))
    other = penstock("run", "The sea", "--max-tokens", "9", "--seed", "5", "-q")
    assert first.stdout == again.stdout != other.stdout
    assert first.stderr == ""


def test_a_prompt_from_stdin_is_the_same_prompt() -> None:
    command = [sys.executable, "-m", "penstock", "run", "-", "-q", "--seed", "4", "--max-tokens", "9"]
    piped = subprocess.run(command, input=b"The sea", capture_output=True, timeout=60, env=environment())
    assert piped.stdout.decode() == penstock("run", "The sea", "-q", "--seed", "4", "--max-tokens", "9").stdout


def test_a_reader_that_leaves_is_no_failure_to_talk_about(talkative: str) -> None:
    command = [sys.executable, "-m", "penstock", "run", "The", "-m", talkative, "--max-tokens", "20000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None and process.stderr is not None
        assert len(process.stdout.read(10)) == 10
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_closed_streams_are_no_failure() -> None:
    line = f"{sys.executable} -m penstock run x --max-tokens 2 >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], timeout=60, env=environment()).returncode == 0


def test_bytes_that_are_no_text_are_one_line() -> None:
    command = [sys.executable.encode(), b"-m", b"penstock", b"run", b"\xff\xfe"]
    ran = subprocess.run(command, capture_output=True, timeout=60, env=environment())
    assert ran.returncode == 2 and ran.stderr.startswith(b"error: ") and ran.stderr.count(b"\n") == 1


def test_ctrl_c_stops_an_answer(talkative: str) -> None:
    with Terminal("run", "The sea", "-m", talkative, "--max-tokens", "30000", "--temperature", "0") as terminal:
        terminal.wait_for(" ")
        terminal.type("\x03")
        assert terminal.leave() == 130
        assert "interrupted" in terminal.screen and "Traceback" not in terminal.screen


@pytest.mark.parametrize("verb", [["run", "x"], ["serve", "--port", "0"]], ids=["run", "serve"])
def test_an_interrupt_while_loading_is_one_word(verb: list[str], tmp_path: Path) -> None:
    """The load never ends, so that the signal surely falls into it."""
    code = (
        "import sys, threading, os, signal, penstock.assemble as a\n"
        "from penstock.cli import main\n"
        "def slow(*_):\n"
        "    print('loading', file=sys.stderr, flush=True)\n"
        "    threading.Event().wait()\n"
        "a.open_checkpoint = slow\n"
        f"sys.argv = ['penstock', *{verb!r}]\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stderr is not None
        first, said = process.stderr.readline(), process.stderr.readline()  # the second comes after a second
        process.send_signal(signal.SIGINT)
        exit_code = process.wait(30)
        assert first == "loading\n"
        assert said.startswith("loading the bundled model …")
        assert exit_code == 130
        assert process.stderr.read() == "interrupted\n"


def test_chat_needs_no_template_to_say_so(tmp_path: Path) -> None:
    folder = talkative_model(tmp_path / "model")
    config = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(config.replace('"chat_template"', '"unused"'))
    assert "template" in is_one_error(penstock("run", "x", "--chat", "-m", str(folder)), 2)
