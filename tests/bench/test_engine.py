from dataclasses import replace

import pytest
from tests.backend.reference import make_spec, random_weights, weight_map
from tests.bench.samples import limits

from penstock.assemble import find_model
from penstock.backend.cpu import make_pool
from penstock.bench import engine
from penstock.bench.engine import EnginePlan, StepBench, bench_engine, check_plan
from penstock.bench.work import Share
from penstock.core import ConfigError, SamplingParams
from penstock.model import Checkpoint, open_checkpoint

PLAN = EnginePlan(streams=(1, 3), depths=(40, 70), prompts=(64, 33), mixed_prompt=16, steps=4, repeats=3)


@pytest.fixture(scope="module")
def pool():
    return make_pool(2)


def test_every_kind_of_step_is_measured_with_its_spread_and_its_share_of_the_limit():
    found = list(bench_engine(None, PLAN, limits()))
    kinds = [(one.what, one.streams, one.depth, one.prompt_tokens, one.tokens) for one in found]
    assert kinds == [
        ("prefill", 0, 0, 64, 64),
        ("prefill", 0, 0, 33, 33),
        *(
            kind
            for depth in (40, 70)
            for streams in (1, 3)
            for kind in (("decode", streams, depth, 0, streams), ("mixed", streams, depth, 16, streams + 16))
        ),
    ]
    for one in found:
        assert one.model == "penstock-bundled" and one.format == "BF16, bf16 KV"
        assert len(one.times_s) == (PLAN.steps if one.what == "decode" else PLAN.repeats)
        assert min(one.times_s) <= one.seconds.low <= one.seconds.value <= one.seconds.high <= max(one.times_s)
        assert one.share == one.limit_s / one.seconds.value > 0
    decode = [one for one in found if one.what == "decode"]
    assert decode[0].bytes < decode[1].bytes and decode[0].bytes < decode[2].bytes  # streams and depth are read


class Watched(StepBench):
    """Keeps what its backend sampled."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sampled = []
        finish = self._backend.finish

        def watched(ticket, masks):
            result = finish(ticket, masks)
            self.sampled.append([row.tokens for row in result.rows])
            return result

        self._backend.finish = watched


def test_copied_sequences_hold_what_the_first_one_computed(pool):
    bench = Watched(open_checkpoint(find_model(None)), "m", PLAN, limits(), pool)
    try:
        bench.fill(70)
        own, other = (bench._backend.read_page(0, slot * bench._pages_each) for slot in (0, 1))
        assert own == other and any(own)
        assert bench._backend.read_page(0, bench._pages_each + 1) != other  # control: pages differ
        bench.sampled.clear()
        bench.decode(3, 70)
        steps = [step for step in bench.sampled if step]
        assert len(steps) == engine.WARM_STEPS + PLAN.steps
        assert all(len(set(step)) == 1 and len(step) == 3 for step in steps)  # same past, same token
        bench.sampled.clear()
        bench.decode(1, 40)  # control: another past
        assert [step[0] for step in bench.sampled if step] != [step[0] for step in steps]
    finally:
        bench.close()


def window_model(windows, **changes):
    """A checkpoint of random weights whose layers look back so far."""
    spec = make_spec(num_heads=2, num_kv_heads=1, hidden=32, intermediate=32, vocab=61, **changes)
    layer = spec.layers[0]
    layers = tuple(replace(layer, attention=replace(layer.attention, window=window)) for window in windows)
    spec = replace(spec, layers=layers)
    return Checkpoint(
        "m", spec, weight_map(random_weights(spec)), None, None, (), None, SamplingParams(), (("F32", 1),)
    )


@pytest.mark.parametrize("changes", [{}, {"num_experts": 4, "experts_per_token": 2, "norm_topk": True}])
def test_models_with_several_kv_groups_and_experts_are_measured(pool, changes):
    plan = replace(PLAN, depths=(100,), streams=(2,), prompts=(64,))
    bench = Watched(window_model([40, None], **changes), "m", plan, limits(), pool)
    try:
        assert bench._groups == 2
        bench.fill(100)
        bench.sampled.clear()
        figure = bench.decode(2, 100)
        assert all(len(step) == 2 and len(set(step)) == 1 for step in bench.sampled if step)
        whole = Watched(window_model([None, None], **changes), "m", plan, limits(), pool)
        whole.close()
        assert figure.bytes < whole._work.needs([Share(104, 1)] * 2).bytes  # what lies behind a window is not read
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"depths": (4096,)}, "the model takes 512"),
        ({"streams": ()}, "streams is ()"),
        ({"streams": (0,)}, "streams is (0,)"),
        ({"prompts": (513,)}, "513 tokens; the model takes 512"),
        ({"streams": (1025,)}, "1,025 streams; at most 1,024"),
        ({"steps": 2}, "at least 3"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(change, says):
    with pytest.raises(ConfigError) as caught:
        check_plan(replace(PLAN, **change), 512)
    assert says in str(caught.value)
    check_plan(PLAN, 512)


def test_streams_that_memory_does_not_hold_are_refused_before_it_is_taken(pool, monkeypatch):
    free = replace(engine.read_machine(), available_bytes=1 << 20)
    monkeypatch.setattr(engine, "read_machine", lambda: free)
    with pytest.raises(ConfigError, match="bytes of KV; 524,288 may be taken"):
        list(engine.measure_engine(open_checkpoint(find_model(None)), "m", PLAN, limits(), pool))
