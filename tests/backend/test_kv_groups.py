"""Models whose layers look back unequally far, through the real scheduler, page tables and native core."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backend.reference import make_spec, random_weights, weight_map

from penstock.backend.cpu import CpuBackend, CpuOptions
from penstock.core import ConfigError, EngineConfig, PageCopy, Request, SamplingParams, StepPlan
from penstock.kv import KvManager
from penstock.model import Activation, QkNorm
from penstock.sched import Scheduler

PAGE = 16
MOST = 16_640  # tokens of the longest sequence here


def pattern(windows, **changes):
    spec = make_spec(num_heads=2, num_kv_heads=1, hidden=32, intermediate=32, vocab=61, **changes)
    layer = spec.layers[0]
    layers = tuple(replace(layer, attention=replace(layer.attention, window=window)) for window in windows)
    return replace(spec, layers=layers, max_tokens=MOST)


GEMMA3 = pattern([512] * 5 + [None] + [512], post_norms=True, qk_norm=QkNorm.HEAD, activation=Activation.GELU_TANH)
GPT_OSS = pattern(
    [128, None] * 2,
    sinks=True,
    num_experts=4,
    experts_per_token=2,
    norm_topk=True,
    bias=True,
    router_bias=True,
    activation=Activation.SWIGLU_OAI,
    clamp=7.0,
)
SMALL = pattern([40, None, 24])
MODELS = {"gemma3": GEMMA3, "gpt_oss": GPT_OSS, "small": SMALL}
WEIGHTS = {name: weight_map(random_weights(spec, seed=2)) for name, spec in MODELS.items()}


class Server:
    """Scheduler, page tables and backend, one step at a time."""

    def __init__(self, name, pages, *, max_step_tokens=512, prefix_cache=True, max_running=4, threads=1):
        spec, self.page_tokens = MODELS[name], PAGE
        options = CpuOptions(MOST, max_running, max_step_tokens, PAGE, threads, kv_type="f32")
        self.backend = CpuBackend(spec, WEIGHTS[name], options)
        self.backend.allocate(pages)
        self.config = EngineConfig(
            MOST, spec.vocab, pages, max_step_tokens=max_step_tokens, max_running=max_running, page_tokens=PAGE,
            prefix_cache=prefix_cache, step_target_s=1e9,
        )  # fmt: skip
        self.kv = KvManager(self.backend.kv_groups, self.config)
        self.scheduler = Scheduler(self.config, self.kv)
        self.sequences, self.now, self.held, self.copies, self.bits = [], 0.0, [0] * len(pages), 0, []

    def add(self, id, prompt, **sampling):
        params = SamplingParams(**({"temperature": 0.8, "seed": 5, "max_tokens": 8} | sampling))
        added = self.scheduler.add(Request(id, tuple(prompt), params), self.now)
        self.sequences.extend(added)
        return added

    def step(self):
        plan = self.scheduler.plan(self.now)
        if plan is None:
            return False
        self.copies += len(plan.copies)
        self.held = [max(now, most) for now, most in zip(self.in_use(), self.held, strict=True)]
        ticket = self.backend.submit(plan)
        if any(row.output.sample for row in plan.rows):
            self.bits.append(self.backend.peek_logits(ticket).tobytes())
        result = self.backend.finish(ticket, None)
        self.now += 0.01
        for outcome in self.scheduler.commit(plan, result, self.now):
            assert outcome.error is None
        return True

    def in_use(self):
        """Pages that sequences hold, by group."""
        groups = range(self.kv.num_groups)
        return [len({p for s in self.sequences if s.tables for p in s.tables[g] if p >= 0}) for g in groups]

    def run(self):
        while self.step():
            pass
        assert self.scheduler.num_running == self.scheduler.num_waiting == 0
        self.kv.check()
        return {(s.request.id, s.sample): tuple(s.tokens[s.num_prompt :]) for s in self.sequences}


def tokens_of(count, seed=1):
    return [int(t) for t in np.random.default_rng(seed).integers(0, 61, count)]


def test_groups_are_named_and_sized():
    groups = Server("gpt_oss", (8, 8)).backend.kv_groups
    assert [(g.name, g.layers, g.window) for g in groups] == [("full", (1, 3), None), ("window-128", (0, 2), 128)]
    assert [g.bytes_per_page for g in groups] == [2 * 2 * PAGE * 16 * 4] * 2  # layers, keys and values, tokens, dims


LONG = 16_384
CHUNK = 512


def arithmetic(window, chunk):
    """Pages that a sequence of LONG tokens holds at most while it is computed in chunks."""
    if window is None:
        return -(-(LONG + 8) // PAGE)
    # Before a chunk that starts at a page border the window's own pages and one position more (it is what other
    # samples of the request start from); then the chunk's.
    return -(-(window + 1) // PAGE) + chunk // PAGE


@pytest.mark.parametrize(("name", "windows"), [("gemma3", (None, 512)), ("gpt_oss", (None, 128))])
def test_a_sequence_of_16k_tokens_lies_in_the_pages_that_arithmetic_says(name, windows):
    prompt = tokens_of(LONG)
    pages = tuple(arithmetic(window, CHUNK) for window in windows)
    roomy = tuple(count + 2 for count in pages)
    server = Server(name, roomy, max_step_tokens=CHUNK)
    server.add("a", prompt)
    tokens = server.run()
    assert tuple(server.held) == pages
    other = Server(name, roomy, max_step_tokens=384, prefix_cache=False, threads=2)
    other.add("a", prompt)
    assert other.run() == tokens
    assert other.bits == server.bits
    assert other.held[1] < server.held[1]
    control = Server(name, roomy, max_step_tokens=CHUNK)
    control.add("a", [*prompt[:-400], (prompt[-400] + 1) % 61, *prompt[-399:]])
    control.run()
    assert control.bits != server.bits


def alone(prompt, **sampling):
    server = Server("small", (64, 64, 64))
    server.add("x", prompt, **sampling)
    return {sample: tokens for (_, sample), tokens in server.run().items()}


def test_preempted_sequences_go_on_with_the_same_tokens():
    prompts = {name: tokens_of(90, seed) for seed, name in enumerate("abc", 1)}
    server = Server("small", (21, 24, 24), max_step_tokens=64, prefix_cache=False)
    for name in "xyz":  # short outputs: longer ones come as a surprise
        server.add(name, tokens_of(5), max_tokens=1)
    server.run()
    for name, prompt in prompts.items():
        server.add(name, prompt, max_tokens=60)
    found = server.run()
    assert sum(s.num_preemptions for s in server.sequences) > 0
    for name, prompt in prompts.items():
        assert found[name, 0] == alone(prompt, max_tokens=60)[0]


def test_a_prefix_hit_brings_the_last_window_and_the_same_tokens():
    prompt = tokens_of(150)
    server = Server("small", (64, 64, 64))
    server.add("a", prompt)
    server.run()
    [again] = server.add("b", [*prompt[:-5], 1, 2, 3])
    found = server.run()
    assert again.num_cached == 144
    assert found["b", 0] == alone([*prompt[:-5], 1, 2, 3])[0]


def test_samples_share_the_prompt_and_copy_its_last_page():
    prompt = tokens_of(100)
    server = Server("small", (64, 64, 64))
    server.add("a", prompt, n=3)
    found = server.run()
    assert server.copies == 2 * 3  # two samples, three groups
    assert {sample: tokens for (_, sample), tokens in found.items()} == alone(prompt, n=3)
    assert len(set(found.values())) == 3
    separate = Server("small", (64, 64, 64), prefix_cache=False, max_running=1)
    separate.add("a", prompt, n=3)
    assert separate.run() == found


SHARED = tokens_of(120, seed=40)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(1, 40), st.integers(1, 30), st.integers(1, 2)), max_size=5),
    st.sampled_from([16, 48, 200]),
)
def test_any_company_in_little_memory_gives_the_tokens_of_a_run_alone(asked, max_step_tokens):
    """Prefixes of one text, own ends, several samples; every page is poisoned before."""
    server = Server("small", (24, 24, 24), max_step_tokens=max_step_tokens)
    for group, layers in enumerate(server.backend.kv_groups):
        for page in range(24):
            server.backend.write_page(group, page, b"\xff" * layers.bytes_per_page)
    want = {}
    for index, (shared, own, output, n) in enumerate(asked):
        prompt = [*SHARED[:shared], *tokens_of(own, seed=index)]
        server.add(str(index), prompt, max_tokens=output, n=n)
        server.step()
        want |= {(str(index), sample): tokens for sample, tokens in alone(prompt, max_tokens=output, n=n).items()}
    assert server.run() == want


def test_pages_are_read_and_written_in_their_group():
    server = Server("small", (20, 20, 20))
    server.add("a", tokens_of(30), max_tokens=1)
    server.run()
    backend = server.backend
    pages = [backend.read_page(group, 0) for group in range(3)]
    assert len(set(pages)) == 3
    backend.write_page(1, 19, pages[0])
    assert backend.read_page(1, 19) == pages[0]
    assert backend.read_page(0, 19) == backend.read_page(2, 19) == bytes(len(pages[0]))
    backend.finish(backend.submit(StepPlan(99, (), (), (PageCopy(2, 0, 19),), ())), None)
    assert backend.read_page(2, 19) == pages[2]
    for group, page in ((3, 0), (-1, 0), (0, 20)):
        with pytest.raises(ValueError, match="range"):
            backend.read_page(group, page)
        with pytest.raises(ValueError, match="range"):
            backend.finish(backend.submit(StepPlan(100, (), (), (PageCopy(group, page, 0),), ())), None)


def test_pages_must_be_given_for_every_group():
    options = CpuOptions(MOST, 1, 64, PAGE, 1, kv_type="f32")
    backend = CpuBackend(SMALL, WEIGHTS["small"], options)
    with pytest.raises(ConfigError, match="KV groups full, window-24, window-40"):
        backend.allocate((8, 8))
