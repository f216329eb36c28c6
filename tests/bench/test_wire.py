import json

from penstock.bench.client import Endpoint, Route
from penstock.bench.health import Health, Lag, LagBounds
from penstock.bench.records import Ask, Counted, Outcome, Seen
from penstock.bench.runner import RunPlan, RunResult
from penstock.bench.wire import ask_from, plain, plan_from, plan_to, result_from, result_to


def there_and_back(data: object) -> dict:  # type: ignore[type-arg]
    found: dict = json.loads(json.dumps(data))  # type: ignore[type-arg]
    return found


def test_plans() -> None:
    endpoint = Endpoint("http://h", "m", Route.CHAT, False, "key", 3.0, {"seed": 1, "stop": ["a"]})
    plan = RunPlan(endpoint, 3, None, 4.0, 5.0, 6, True, LagBounds(0.1, 0.2), 7)
    assert plan_from(there_and_back(plan_to(plan))) == plan
    assert plan_from(there_and_back(plan_to(RunPlan(Endpoint("http://h", "m"))))) == RunPlan(Endpoint("http://h", "m"))


def test_asks() -> None:
    for prompt in ("text", (1, 2, 3), ({"role": "user", "content": "x"},)):
        for said in (None, "more", ({"role": "user", "content": "y"},)):
            ask = Ask(1, 0.5, prompt, 3, 4, False, 5, 6, 7.0, {"tools": []}, said)
            assert ask_from(there_and_back(plain(ask))) == ask


def test_results() -> None:
    seen = Seen(
        1, 0.5, 0.6, 0.05, 0.7, [0.8, 0.9], 0.9, 1.0, Outcome.REFUSED, 429, 3.0, "no", 1, 2, 3, Counted.USAGE, "x"
    )
    health = Health(Lag(1, 2, 3, 4), Lag(5, 6, 7, 8), 0.5, 1, 2, 3, 4, 5)
    result = RunResult((seen, Seen(2, 0.7)), health, ("late",), {1: "text"}, 9.0, True)
    assert result_from(there_and_back(result_to(result))) == result
