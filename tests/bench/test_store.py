import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bench import samples

from penstock.bench.client import Endpoint
from penstock.bench.definitions import Objective, summarize
from penstock.bench.pitfalls import Facts
from penstock.bench.records import Ask, Outcome, Seen, Window
from penstock.bench.runner import RunPlan, RunResult
from penstock.bench.stats import Estimate
from penstock.bench.store import StepFigure, endpoint_facts, gaps_of, load_run, read_record, times_of, write_record
from penstock.core import ConfigError

STEP = StepFigure(
    "m", "q8_0, bf16 KV", "decode", 8, 512, 0, Estimate(0.01, 0.009, 0.012, 3), 8, 100, 200, 300, 0.005, "bandwidth",
    (0.01, 0.009, 0.012),
)  # fmt: skip


def whole():
    runs = [samples.queue_run(5.0, 20.0, 4.0), samples.queue_run(60.0, 20.0, 4.0, refuse_after=0.5)]
    return samples.record(
        "sweep", runs, objectives=(Objective("ttft", 0.2),), price_per_hour=2.5, steps=(STEP,), figures={"a": [1, None]}
    )


def near(a, b):
    return a == b or (a is not None and b is not None and abs(a - b) <= 1e-6)


def test_a_record_comes_back_as_it_was_to_the_microsecond(tmp_path):
    record = whole()
    path = tmp_path / "new" / "record.json"
    write_record(path, record)
    found = read_record(path)
    assert [one.name for one in path.parent.iterdir()] == ["record.json"]
    assert replace(found, runs=()) == replace(record, runs=())
    for one, other in zip(record.runs, found.runs, strict=True):
        assert replace(one, seen=()) == replace(other, seen=())
        for seen, back in zip(one.seen, other.seen, strict=True):
            for name in ("intended_s", "sent_s", "headers_s", "finish_s", "end_s"):
                assert near(getattr(seen, name), getattr(back, name))
            assert all(near(a, b) for a, b in zip(seen.chunks_s, back.chunks_s, strict=True))
            assert (seen.outcome, seen.counted, seen.error) == (back.outcome, back.counted, back.error)
        a, b = summarize(one.seen, one.window), summarize(other.seen, other.window)
        assert a.outcomes == b.outcomes and near(a.latencies["ttft"].mean, b.latencies["ttft"].mean)
    write_record(tmp_path / "again.json", found)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@given(st.lists(st.floats(0, 1e5), max_size=20).map(sorted))
def test_rounding_of_times_does_not_add_up(times):
    back = times_of(gaps_of(times), "x")
    assert all(abs(a - b) <= 6e-7 for a, b in zip(times, back, strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.update(version=2), "version 2; version 1 is read"),
        (lambda w: w.update(schema="other"), "schema"),
        (lambda w: w["record"].update(kind="soup"), "known are serve"),
        (lambda w: w["record"].update(surprise=1), "'surprise', which nobody knows"),
        (lambda w: w["record"]["origin"].pop("cpu"), "origin.cpu is missing"),
        (lambda w: w["record"]["origin"].update(threads=True), "threads is True, not a whole number"),
        (lambda w: w["record"]["origin"].update(threads=2**60), "not a whole number"),
        (lambda w: w["record"]["runs"][1]["seen"][3].update(outcome="fine"), "runs[1].seen[3].outcome is 'fine'"),
        (lambda w: w["record"]["runs"][0]["seen"][0].update(chunk_gaps_us=[5, -1]), "seen[0].chunk_gaps_us"),
        (lambda w: w["record"]["runs"][0]["seen"][0].update(chunk_gaps_us="12"), "seen[0].chunk_gaps_us"),
        (lambda w: w["record"]["runs"][0]["seen"][0].update(intended_s="now"), "is 'now', not a finite number"),
        (lambda w: w["record"]["runs"][0]["seen"][1].update(id=0), "twice among seen of run 0"),
        (lambda w: w["record"]["runs"][0]["window"].update(end_s=-1), "ends before it begins"),
        (lambda w: w["record"]["objectives"][0].update(metric="speed"), "objective of 'speed'"),
        (lambda w: w["record"]["objectives"].append({"metric": "ttft", "limit_s": 1.0}), "objective twice"),
        (lambda w: w["record"]["objectives"][0].update(limit_s=0), "positive limit"),
        (lambda w: w["record"].update(price_per_hour=-1), "a price of -1"),
        (lambda w: w["record"]["origin"]["machine"]["limits"][0].update(what="luck"), "limits of a machine"),
        (lambda w: w["record"]["origin"]["machine"]["limits"][0]["rate"].update(low=0), "limits of a machine"),
        (lambda w: w["record"]["origin"]["machine"].update(threads=3), "limits of a machine"),
        (lambda w: w["record"]["steps"][0]["seconds"].update(low=0), "step whose seconds"),
        (lambda w: w["record"]["runs"][0]["seen"][0].update(end_s=1e12), "time beyond 1e+09 s in run 0"),
        (lambda w: w["record"]["runs"][0]["seen"][0].update(chunk_gaps_us=[2**52]), "time beyond 1e+09 s in run 0"),
        (lambda w: w["record"]["runs"][1]["window"].update(begin_s=-1e12), "time beyond 1e+09 s in run 1"),
        (lambda w: w["record"].update(runs={}), "not a list"),
        (lambda w: w.update(record=[1]), "record is list, not Record"),
        (lambda w: w["record"].update(title=None), "title is None, not text"),
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused_where_it_is_damaged(tmp_path, change, says):
    write_record(tmp_path / "r.json", whole())
    value = json.loads((tmp_path / "r.json").read_text())
    change(value)
    (tmp_path / "r.json").write_text(json.dumps(value))
    with pytest.raises(ConfigError) as caught:
        read_record(tmp_path / "r.json")
    assert says in str(caught.value) and "r.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "no JSON"), ("{", "no JSON"), ("[" * 100_000, "no JSON"), ('"\\ud800"', "no record"), ("[]", "no record")],
)
def test_what_is_no_record_is_refused(tmp_path, text, says):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_record(tmp_path / "r.json")
    with pytest.raises(ConfigError, match="can't be read"):
        read_record(tmp_path / "absent.json")


def test_numbers_that_are_not_finite_are_refused_both_ways(tmp_path):
    with pytest.raises(ConfigError, match="can't be written"):
        write_record(tmp_path / "r.json", replace(whole(), figures={"x": float("inf")}))
    assert not list(tmp_path.iterdir())
    write_record(tmp_path / "r.json", whole())
    text = (tmp_path / "r.json").read_text()
    for bad in ("NaN", "Infinity", "1e999"):
        (tmp_path / "r.json").write_text(text.replace('"price_per_hour":2.5', f'"price_per_hour":{bad}'))
        with pytest.raises(ConfigError, match=r"price_per_hour|no JSON"):
            read_record(tmp_path / "r.json")
        (tmp_path / "r.json").write_text(text.replace('"a":[1', f'"a":[{bad}'))
        with pytest.raises(ConfigError, match=r"figures|no JSON"):
            read_record(tmp_path / "r.json")


def test_a_file_beyond_the_bound_is_not_read(tmp_path):
    with (tmp_path / "r.json").open("wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(ConfigError, match="at most"):
        read_record(tmp_path / "r.json")


JUNK = st.sampled_from([None, -1, 1e308, "x", [], {}, [[]], True, {"id": 1}])


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_value_in_any_place_is_read_or_refused_in_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    runs = [samples.queue_run(5.0, 20.0, 1.0)]
    write_record(folder / "r.json", samples.record(runs=runs, steps=(STEP,), objectives=(Objective("ttft", 0.2),)))
    value = json.loads((folder / "r.json").read_text())
    at = value["record"]
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        inner = at[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.integers(0, 3)):
            at = inner
            continue
        before = copy.deepcopy(inner)
        at[key] = data.draw(JUNK)
        break
    (folder / "r.json").write_text(json.dumps(value))
    try:
        read_record(folder / "r.json")
    except ConfigError as error:
        assert "\n" not in str(error)
        at[key] = before
        (folder / "r.json").write_text(json.dumps(value))
        read_record(folder / "r.json")


def test_a_run_is_recorded_without_prompts_and_an_endpoint_without_keys(tmp_path):
    asks = {i: Ask(i, float(i), "my secret prompt", 5, 10, session=1, turn=i) for i in range(3)}
    seen = tuple(Seen(i, float(i), outcome=Outcome.FAILED) for i in range(2))
    result = RunResult(seen, samples.HEALTH, ("late",), {0: "a secret answer"}, 2.0)
    endpoint = Endpoint("https://host:9/x", "m", api_key="sk-1")
    run = load_run(Facts(RunPlan(endpoint, users=4), asks, result, Window(0.0, 2.0)), "A", round=3)
    assert [one.turn for one in run.asked] == [0, 1] and run.invalid == ("late",) and run.round == 3
    assert run.users == 4 and run.pitfalls[0].number == 1
    record = replace(samples.record(runs=[run]), configuration={"endpoint": endpoint_facts(endpoint)})
    write_record(tmp_path / "r.json", record)
    text = (tmp_path / "r.json").read_text()
    assert "https://host:9/x" in text
    assert not [word for word in ("secret", "sk-1") if word in text]
    assert read_record(tmp_path / "r.json").runs[0] == run


def test_a_step_is_shown_as_a_share_of_its_limit():
    assert STEP.share == 0.5 and STEP.rate.value == 800.0 and STEP.rate.low == 8 / 0.012
