"""`penstock chat` at a terminal, and its conversation in process."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from tests.cli.terminal import Terminal, talkative_model

from penstock import LLM, SamplingParams
from penstock.cli.chat import Conversation

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(talkative_model(tmp_path_factory.mktemp("chat") / "model"))


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(kv_bytes=16 * 2**20) as found:
        yield found


def test_a_conversation_at_a_terminal(talkative: str) -> None:
    with Terminal("chat", talkative, "--temperature", "0", "--max-tokens", "6") as terminal:
        assert "32,768 tokens of context" in terminal.wait_for("> ")
        terminal.type("Good morning\n")
        assert "ended by its limit" in terminal.wait_for("\r\n> ")
        terminal.type("/stats\n")
        assert "1 turns" in (stats := terminal.wait_for("\r\n> ")) and "last: 6 tokens" in stats
        terminal.type("/reset\n")
        terminal.wait_for("anew.\r\n> ")
        terminal.type("/stats\n")
        assert "0 turns" in terminal.wait_for("\r\n> ")
        terminal.type("/what\n")
        assert "/reset forgets" in terminal.wait_for("\r\n> ")
        terminal.type("\x04")
        assert terminal.leave() == 0


def test_ctrl_c_stops_the_answer_and_not_the_chat(talkative: str) -> None:
    with Terminal("chat", talkative, "--temperature", "0", columns=40) as terminal:
        terminal.wait_for("> ")
        time.sleep(0.5)  # a signal between readline's prompt and its wait is seen only with the next key
        terminal.type("\x03")
        terminal.wait_for("/exit or Ctrl-D leaves")
        terminal.wait_for("> ")
        terminal.type("Good morning\n")
        terminal.wait_for("morning\r\n")
        terminal.wait_for(" ")
        terminal.type("\x03")
        terminal.wait_for("[stopped]")
        terminal.wait_for("> ")
        terminal.type("/exit\n")
        assert terminal.leave() == 0
        assert "Traceback" not in terminal.screen


def test_a_stopped_answer_stays_in_the_history_and_its_request_ends(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Conversation(llm, SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True), None)
    before = llm.loaded.client.snapshot().num_cancelled
    written: list[str] = []

    def write(text: str) -> int:
        written.append(text)
        if len(written) == 3:
            raise KeyboardInterrupt
        return len(text)

    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "write", write)
        talk.take("Good morning")
    assert "[stopped]" in capsys.readouterr().err
    llm.generate("x", GREEDY)  # a step later
    assert llm.loaded.client.snapshot().num_cancelled == before + 1
    assert talk.history[-1]["role"] == "assistant"
    assert talk.history[-1]["content"].startswith("".join(written[:3]))


def test_a_full_context_is_said_and_reset_helps(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Conversation(llm, GREEDY, "Be brief.")
    talk.take("word " * 600)
    said = capsys.readouterr().err
    assert said.startswith("error: the conversation is full: ") and "at most 512 fit" in said and "/reset" in said
    assert talk.history == ({"role": "system", "content": "Be brief."},)
    talk.take("Hello")
    assert [message["role"] for message in talk.history] == ["system", "user", "assistant"]
    talk.take("/reset")
    assert len(talk.history) == 1


def test_lines_from_a_pipe_are_a_conversation_too(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["Hello", "", "And then?", "/exit", "not read"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    talk = Conversation(llm, GREEDY, None)
    talk.loop()
    assert [message["content"] for message in talk.history[::2]] == ["Hello", "And then?"]
    assert next(lines) == "not read"
