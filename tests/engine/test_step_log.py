import json
import random
import threading

import pytest

from penstock.core import (
    ConfigError,
    EngineConfig,
    FinishReason,
    KvGroup,
    Request,
    RowResult,
    SamplingParams,
    StepResult,
)
from penstock.engine import Arrive, Cancel, End, EngineThread, EventStream, WallClock, read_step_log
from penstock.engine.step_log import StepLogWriter
from penstock.sim import replay

CONFIG = EngineConfig(max_model_tokens=64, vocab_size=26, pages=(8, 4))
GROUPS = (KvGroup("full", (0, 2), 64), KvGroup("window", (1,), 32, 16))


def write(path, request):
    writer = StepLogWriter(str(path), CONFIG, GROUPS)
    writer.write(0.1, [Arrive(request, EventStream(request), None), Cancel("x")], 0, b"\x01")
    writer.commit(
        0.25, StepResult(0, (RowResult((3,)), RowResult(), RowResult((1, 2), drafts=(4,)), RowResult(error="e")), 0.1)
    )
    writer.write(0.3, [End("r", 1, FinishReason.STOP)], None, b"\x02")
    writer.flush()
    assert len(path.read_text().splitlines()) in (1, 2), "the last turn may still get its commit"
    writer.close()


def test_round_trip_without_text(tmp_path):
    path = tmp_path / "log"
    sampling = SamplingParams(
        seed=5, stop=("secret stop",), stop_token_ids=(3,), logit_bias=((1, 0.1),), temperature=0.7
    )
    request = Request("r", (1, 2), sampling, (9,), 0.1, 4.0, 2, "tenant name", "salt word", media=((0, 1, "d"),))
    write(path, request)
    text = path.read_text()
    assert "secret" not in text and "tenant name" not in text and "salt word" not in text
    config, groups, turns = read_step_log(str(path))
    first, second = turns
    assert config == CONFIG and groups == GROUPS
    arrive, cancel = first.inputs
    got = arrive.request
    assert got.sampling == SamplingParams(seed=5, stop_token_ids=(3,), logit_bias=((1, 0.1),), temperature=0.7)
    assert got.prompt_tokens == (1, 2) and got.eos_token_ids == (9,) and got.deadline_s == 4.0 and got.priority == 2
    assert got.media == ((0, 1, "d"),) and got.cache_salt and got.tenant and not got.detokenize
    assert cancel == Cancel("x")
    assert (first.now, first.step, first.decisions, first.commit.now) == (0.1, 0, "01", 0.25)
    rows = first.commit.result.rows
    assert [row.tokens for row in rows] == [(3,), (), (1, 2), ()]
    assert rows[2].drafts == (4,) and rows[3].error == "e" and first.commit.result.duration_s == 0.1
    assert second.inputs == (End("r", 1, FinishReason.STOP),) and second.commit is None and second.step is None


def test_bad_files_are_told_by_line(tmp_path):
    path = tmp_path / "log"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_step_log(str(path))
    for header in ("", "[]", "{", '{"version": 9}', '{"version": 1}', "[" * 100_000):
        path.write_text(header)
        with pytest.raises(ConfigError):
            read_step_log(str(path))
    write(path, Request("r", (1,), SamplingParams()))
    lines = path.read_text().splitlines()
    for broken in ("{}", "7", json.dumps({**json.loads(lines[1]), "inputs": [{"add": {}}]})):
        path.write_text("\n".join([lines[0], broken]))
        with pytest.raises(ConfigError, match="line 2"):
            list(read_step_log(str(path))[2])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_live_run_replays_to_the_same_decisions(tmp_path, make_rig, make_request, seed):
    """Threads, random arrivals, cancels, stop strings and a failing row: the log alone gives the same hash chain."""
    path = tmp_path / "log"
    chance = random.Random(seed)
    rig = make_rig(pages=30, max_step_tokens=24, max_running=6, max_model_tokens=60, step_log=str(path))
    rig.backend.clock = None
    client = EngineThread(rig.engine, WallClock())
    tick = threading.Event()
    streams = []
    for index in range(60):
        prompt = [chance.randrange(3) for _ in range(chance.randrange(1, 20))]
        stop = ("".join(chr(97 + chance.randrange(26)) for _ in range(1)),) if chance.random() < 0.5 else ()
        request = make_request(prompt, max_tokens=chance.randrange(1, 30), n=chance.randrange(1, 3), stop=stop)
        if index == 7:
            rig.backend.bad_seeds.add(request.sampling.seed)
        streams.append(client.submit(request))
        if chance.random() < 0.2:
            client.cancel(streams[chance.randrange(len(streams))].request.id)
        if chance.random() < 0.5:
            tick.wait(chance.random() * 0.005)
    for stream in streams:
        list(stream)
    client.close(5.0)
    kinds = {type(command) for turn in read_step_log(str(path))[2] for command in turn.inputs}
    assert kinds == {Arrive, Cancel, End}
    again = replay(str(path))
    assert again.first_difference is None
    assert again.decisions == rig.engine.decisions != b""
    lines = path.read_text().splitlines()
    (number, turn) = next((n, json.loads(line)) for n, line in enumerate(lines) if n > 5 and '"add"' in line)
    add = next(command["add"] for command in turn["inputs"] if "add" in command)
    add["prompt_tokens"].append(1)
    lines[number] = json.dumps(turn)
    path.write_text("\n".join(lines))
    try:
        assert replay(str(path)).first_difference is not None
    except ConfigError as error:
        assert "fits no decision" in str(error)
