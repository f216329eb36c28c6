import json
from pathlib import Path

import pytest

from penstock.core import EngineConfig, FinishReason, KvGroup, Request, SamplingParams
from penstock.sim import Costs, read_azure_trace, replay, simulate, trace_requests

TRACE = Path(__file__).parents[3] / "shared" / "data" / "traces" / "azure_llm_2023_conv_0-30min.csv.gz"
GROUPS = (KvGroup("full", tuple(range(32)), 32 * 32_768),)
COSTS = Costs(weight_bytes=5e9, flops_per_token=16e9, flops_per_s=200e12, bytes_per_s=200e9, overhead_s=0.002)
CONFIG = EngineConfig(max_model_tokens=16_384, vocab_size=128_000, pages=(12_000,), max_running=256)


def azure(count):
    if not TRACE.exists():
        pytest.skip("the Azure trace is not on this machine")
    return list(trace_requests(read_azure_trace(TRACE, count), CONFIG.vocab_size, CONFIG.max_model_tokens))


def test_two_thousand_requests_of_the_azure_trace():
    requests = azure(2000)
    assert len(requests) == 2000
    result = simulate(requests, CONFIG, GROUPS, COSTS)
    assert not result.errors and len(result.finishes) == 2000
    for request in requests:
        (finish,) = result.finishes[request.id]
        assert finish.reason is FinishReason.LENGTH
        assert result.output_tokens[request.id] == request.sampling.max_tokens == finish.usage.completion_tokens
        assert finish.usage.prompt_tokens == len(request.prompt_tokens)
        timing = finish.timing
        assert request.arrival_s <= timing.scheduled_s <= timing.first_token_s <= timing.finished_s <= result.duration_s
    snapshot = result.snapshot
    assert snapshot.num_finished == 2000 and snapshot.pages_held == 0
    assert snapshot.pages_free + snapshot.pages_cached == snapshot.pages_total == 12_000
    assert snapshot.output_tokens == sum(result.output_tokens.values())


def test_the_same_run_takes_the_same_decisions_and_another_does_not():
    requests = azure(150)
    first, second = (simulate(requests, CONFIG, GROUPS, COSTS) for _ in range(2))
    assert first.decisions == second.decisions and first.finishes == second.finishes and first.decisions
    slower = simulate(requests, CONFIG, GROUPS, Costs(10e9, 16e9, 200e12, 200e9))
    assert slower.decisions != first.decisions


def test_a_request_that_cannot_be_served_is_an_error_not_a_loss():
    config = EngineConfig(max_model_tokens=64, vocab_size=100, pages=(4,))
    requests = [
        Request("fits", (1,) * 30, SamplingParams(max_tokens=5, seed=1)),
        Request("long", (1,) * 65, SamplingParams(max_tokens=5, seed=1)),
    ]
    result = simulate(requests, config, GROUPS, COSTS)
    assert set(result.finishes) == {"fits"} and set(result.errors) == {"long"}


def logged_run(path):
    config = EngineConfig(max_model_tokens=256, vocab_size=1000, pages=(30,), max_running=4, step_log=str(path))
    requests = [
        Request(f"r{index}", tuple(range(index, index + 5 + index * 3)), SamplingParams(max_tokens=20, seed=index))
        for index in range(12)
    ]
    return simulate(requests, config, GROUPS, COSTS)


def test_a_simulations_own_log_replays(tmp_path):
    path = tmp_path / "log"
    result = logged_run(path)
    again = replay(str(path))
    assert again.first_difference is None and again.decisions == result.decisions and again.turns > 20


def test_one_altered_token_is_noticed(tmp_path):
    path = tmp_path / "log"
    logged_run(path)
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        turn = json.loads(line)
        if number > 10 and turn.get("commit") and turn["commit"]["rows"][0]:
            turn["commit"]["rows"][0][0] += 1
            lines[number] = json.dumps(turn)
            break
    path.write_text("\n".join(lines))
    again = replay(str(path))
    assert again.first_difference is not None and again.first_difference >= number - 1
