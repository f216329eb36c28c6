"""The whole engine over the reference backend: alone, together, by prefix hits, after preemption: the same tokens."""

import threading

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from penstock import assemble
from penstock.backend.torch import TorchBackend, TorchOptions
from penstock.core import SamplingParams
from penstock.engine import WallClock
from penstock.kv import KvBudget
from penstock.model import open_checkpoint

SHARED = tuple(range(100, 140))
PROMPTS = [(*SHARED, 7, 8, 9), SHARED + tuple(range(500, 520)), (*SHARED, 7, 8, 9, 10), tuple(range(900, 905))]


def start(tokens):
    """The bundled model with KV for so many tokens."""
    torch.set_num_threads(1)
    checkpoint = open_checkpoint(assemble.BUNDLED)
    options = assemble.LoadOptions(max_model_tokens=96, page_tokens=16, max_running=8, max_step_tokens=32)
    chosen = TorchOptions(96, 8, 32, page_tokens=16)
    backend = TorchBackend(checkpoint.spec, checkpoint.weights, chosen, WallClock())
    kv_bytes = tokens // 16 * sum(group.bytes_per_page for group in backend.kv_groups)
    tensors = assemble._Tensors(backend, None, lambda: KvBudget(kv_bytes, kv_bytes))
    return assemble._start(options, checkpoint, assemble.read_tokenizer(checkpoint), tensors, lambda line: None)


def collect(model, number, times=0):
    params = SamplingParams(temperature=0.9, top_p=0.95, max_tokens=12, seed=number, ignore_eos=True, logprobs=1)
    request = model.request(f"r{number}-{times}", PROMPTS[number], params)
    events = [event for batch in model.client.submit(request) for event in batch]
    assert events[-1].finish is not None
    entries = [entry for event in events for entry in event.logprobs or ()]
    return [t for event in events for t in event.tokens], entries


@pytest.fixture(scope="module")
def alone():
    model = start(512)
    yield [collect(model, number) for number in range(len(PROMPTS))]
    model.close()


def test_together_with_little_kv_every_request_gets_its_own_tokens(alone):
    model = start(128)
    found = {}

    def ask(number):
        found[number] = collect(model, number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = model.client.snapshot()
    model.close()
    assert [found[number] for number in range(len(PROMPTS))] == alone
    assert snapshot.num_errors == 0
    assert snapshot.num_preemptions + snapshot.prefix_hits_tokens > 0
    assert len({tuple(tokens) for tokens, _ in alone}) == len(PROMPTS)  # control: they differ from each other


def test_what_is_shown_of_it(alone):
    model = start(128)
    assert (model.tier, model.pool, model.kv_type) == ("torch-cpu-bf16", None, "bf16")
    model.close()
