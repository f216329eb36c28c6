"""Agents' requests: sessions found, sent as they stand, and told apart when they are sent again."""

import gzip
import json
from pathlib import Path

import pytest

from penstock.bench.agentic import read_bodies
from penstock.bench.arrivals import ClosedLoop, Poisson
from penstock.bench.client import Endpoint, Route, request_body
from penstock.bench.lengths import Fixed, Independent
from penstock.bench.options import WorkloadOptions
from penstock.bench.planned import with_mark
from penstock.bench.prompts import PromptKind, PromptMaker
from penstock.bench.wire import ask_from, plain
from penstock.bench.workloads import named_workload
from penstock.core import ConfigError

DATA = Path(__file__).parents[3] / "shared" / "data" / "prompts" / "agentic_requests_a.jsonl.gz"
TOOLS = [{"type": "function", "function": {"name": "f"}}]


class Characters:
    """Counts a token for each four characters, tools too."""

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(range(len(text.split())))

    def count(self, prompt, tools=()) -> int:
        return len(self.ids(prompt)) if isinstance(prompt, str) else len(json.dumps([list(prompt), list(tools)])) // 4


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def body(name: str, *texts: str, **fields) -> dict:
    return {"name": name, "request": {"messages": [user(text) for text in texts], **fields}}


def file(folder: Path, *rows: dict) -> Path:
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def options(path: Path, **fields) -> WorkloadOptions:
    base = {"files": (path,), "arrivals": Poisson(1.0), "lengths": Independent(Fixed(1), Fixed(20))}
    return WorkloadOptions(**base | fields)


THREE = (
    body("late", "a", "b", "c", tools=TOOLS),
    body("early", "a", tools=TOOLS, temperature=0.3, max_tokens=9000),
    body("other", "a", "b"),
)


def test_turns_of_one_session_are_found(tmp_path: Path) -> None:
    sessions = read_bodies(file(tmp_path, *THREE, body("branch", "a", "x", tools=TOOLS)))
    assert [[one.name for one in session] for session in sessions] == [["early", "branch"], ["other"], ["late"]]
    grown = read_bodies(file(tmp_path, *THREE))
    assert [[one.name for one in session] for session in grown] == [["early", "late"], ["other"]]
    assert grown[0][0].extra == {"tools": TOOLS}  # sampling and length are the benchmark's


def test_requests_go_out_as_they_stand_but_for_their_mark(tmp_path: Path) -> None:
    workload = named_workload("agentic", options(file(tmp_path, *THREE), think_s=2.0))
    asks = list(workload.asks(PromptMaker(Characters(), PromptKind.CHAT)))
    assert [(ask.session, ask.turn) for ask in asks] == [(0, 0), (0, 1), (1, 0)]
    mark, text = asks[0].prompt[0]["content"].split("\n")
    assert (text, mark[0], len(mark), mark[-1]) == ("a", "[", 10, "]")
    assert asks[1].prompt == (user(f"{mark}\na"), user("b"), user("c"))
    assert asks[2].prompt[0]["content"].endswith("]\na")
    assert not asks[2].prompt[0]["content"].startswith(mark)
    assert asks[1].think_s > 0.0 == asks[0].think_s
    sent = request_body(Endpoint("http://h", "m", route=Route.CHAT), asks[0])
    assert sent["tools"] == TOOLS
    assert sent["messages"] == asks[0].prompt
    assert (sent["max_tokens"], sent["temperature"]) == (20, 0.0)
    assert "tools" not in request_body(Endpoint("http://h", "m", route=Route.CHAT), asks[2])
    assert ask_from(json.loads(json.dumps(plain(asks[0])))) == asks[0]  # to another process and back


def test_again_and_again_they_are_told_apart_unless_asked(tmp_path: Path) -> None:
    path = file(tmp_path, *THREE)
    asks = list(
        named_workload("agentic", options(path, num_requests=20)).asks(PromptMaker(Characters(), PromptKind.CHAT))
    )
    assert len(asks) == 20
    assert len({ask.prompt[0]["content"] for ask in asks}) == len({ask.session for ask in asks}) == 13
    same = list(
        named_workload("agentic", options(path, num_requests=20, distinct=1)).asks(
            PromptMaker(Characters(), PromptKind.CHAT)
        )
    )
    assert {ask.prompt[0]["content"] for ask in same} == {"a"}
    assert len({ask.session for ask in same}) == 13


def test_a_session_ends_before_a_turn_that_does_not_fit(tmp_path: Path) -> None:
    path = file(tmp_path, body("1", "a"), body("2", "a", "b" * 4000), body("3", "a", "b" * 4000, "c"), body("4", "z"))
    with pytest.raises(ConfigError, match="nothing counts"):
        named_workload("agentic", options(path, max_model_tokens=100))
    workload = named_workload("agentic", options(path, max_model_tokens=100), Characters())
    assert [len(item.given) for item in workload.items] == [1, 1]
    assert workload.left_out == 2
    with pytest.raises(ConfigError, match=r"the shortest of 4 drawn .* the model takes 21"):
        named_workload("agentic", options(path, max_model_tokens=21, num_requests=50), Characters())


def test_a_closed_loop_of_agents(tmp_path: Path) -> None:
    workload = named_workload("agentic", options(file(tmp_path, *THREE), arrivals=ClosedLoop(2)))
    assert workload.users == 2
    assert {item.arrival_s for item in workload.items} == {None}


def test_a_first_message_without_text_is_left_alone() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    assert with_mark([parts], "[1]") == (parts,)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"request": 3},
        {"request": {}},
        {"request": {"messages": []}},
        {"request": {"messages": "hello"}},
        {"request": {"messages": ["hello"]}},
        {"request": {"messages": [{}] * 5000}},
        {"request": {"messages": [{}], "tools": {}}},
        {"request": {"messages": [{}], "tools": [1]}},
        {"request": {"messages": [{}], "tools": [{}] * 500}},
    ],
    ids=range(10),
)
def test_files_that_are_broken_are_refused_in_a_line(tmp_path: Path, row: dict) -> None:
    with pytest.raises(ConfigError, match="line 2") as refused:
        read_bodies(file(tmp_path, THREE[0], row))
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not DATA.is_file(), reason="the published requests are not here")
def test_the_published_requests_are_sessions() -> None:
    sessions = read_bodies(DATA)
    names = [[one.name for one in session] for session in sessions]
    assert ["agentic_code_01", "agentic_code_05", "agentic_code_10"] in names
    assert ["translate_01", "translate_02"] in [found[-2:] for found in names]
    with gzip.open(DATA) as lines:
        bodies = {row["name"]: row["request"]["messages"] for row in map(json.loads, lines)}
    assert sum(map(len, names)) == len(bodies) == 10
    assert all(list(one.messages) == bodies[one.name] for session in sessions for one in session)
