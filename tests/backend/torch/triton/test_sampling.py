import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from tests.native.plain_sampler import many_uniforms, plain_sample
from tests.native.plain_sampler import noise_key as plain_key

from penstock import _native
from penstock.backend.torch.triton import Bias, Masks, Penalties, SampleRows, sample
from penstock.backend.torch.triton.sampling_race import gumbel, noise_key, noise_uniform

V = 300
KINDS = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.6},
    {"temperature": 5.0},
    {"temperature": 1e-6},
    {"top_k": 1},
    {"top_k": 40, "temperature": 3.0},
    {"top_k": 7, "top_p": 0.6, "temperature": 2.0},
    {"top_p": 0.9, "temperature": 2.0},
    {"top_p": 0.3},
    {"min_p": 0.2, "temperature": 3.0},
    {"top_k": 50, "top_p": 0.95, "min_p": 0.05, "temperature": 4.0},
    {"top_k": V},
    {"top_p": 1e-9},
]


def made(rows, seed, levels=0):
    logits = 2 * torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))
    return (logits * levels).round() / levels if levels else logits


def sample_rows(kinds, seeds, positions=None, samples=None):
    def column(name, default, kind):
        return torch.tensor([each.get(name, default) for each in kinds], dtype=kind)

    doubles = [
        column(name, default, torch.float64) for name, default in (("temperature", 1.0), ("top_p", 1.0), ("min_p", 0.0))
    ]
    words = [torch.tensor([s - 2**64 if s >= 2**63 else s for s in seeds], dtype=torch.int64)]
    words += [torch.tensor(each or [0] * len(kinds), dtype=torch.int64) for each in (samples, positions)]
    return SampleRows(*doubles, column("top_k", 0, torch.int32), *words)


def plain(logits, kind, seed, position=0, tokens=(), num_prompt=0, mask=None, **more):
    params = kind | {"seed": seed} | more
    return plain_sample(_native.kernels(), logits.numpy().copy(), params, tokens, num_prompt, position, mask)[:2]


def found(chosen):
    return list(zip(chosen.tokens.tolist(), chosen.status.tolist(), strict=True))


@pytest.mark.parametrize("levels", [0, 2])
def test_tokens_are_those_of_the_plain_sampler(levels):
    """With few levels of logits there are many ties at every filter's border."""
    kinds = KINDS
    seeds = [2**64 - 1 - 977 * i for i in range(len(kinds))]
    positions = [31 * i for i in range(len(kinds))]
    samples = [i % 3 for i in range(len(kinds))]
    logits = made(len(kinds), levels, levels)
    got = found(sample(logits, sample_rows(kinds, seeds, positions, samples)))
    want = [plain(logits[i], kinds[i], seeds[i], positions[i], sample=samples[i]) for i in range(len(kinds))]
    assert got == want
    assert len({token for token, _ in got}) > 5
    other = found(sample(logits, sample_rows(kinds, [s - 1 for s in seeds], positions, samples)))
    assert sum(a != b for a, b in zip(got, other, strict=True)) > len(kinds) // 4  # the seed is seen


@pytest.mark.parametrize(
    "kind", [{"top_k": 3, "temperature": 9.0}, {"top_p": 0.5, "temperature": 2.0}, {"min_p": 0.6, "temperature": 5.0}]
)
def test_filters_keep_what_the_plain_sampler_keeps(kind):
    """Many draws of one row: all that is kept appears, and nothing else."""
    num = 10
    logits = made(1, 5).expand(num, V)
    got = found(sample(logits, sample_rows([kind] * num, range(num))))
    assert got == [plain(logits[0], kind, seed) for seed in range(num)]
    free = found(sample(logits, sample_rows([{"temperature": kind["temperature"]}] * num, range(num))))
    assert got != free and len({t for t, _ in got}) <= len({t for t, _ in free})


def test_penalties_bias_and_masks_come_in_order():
    kinds = [
        {"repetition": 1.7, "temperature": 0.0},
        {"presence": 1.5, "frequency": 0.4},
        {"repetition": 0.6, "frequency": -0.3, "top_k": 20},
        {},
        {"temperature": 0.0},
        {"top_p": 0.8, "repetition": 1.3},
    ]
    logits = made(len(kinds), 9)
    tokens = [[int(t) for t in np.random.default_rng(i).integers(0, 40, 30)] for i in range(len(kinds))]
    num_prompt = 12
    biases = [[], [(3, 2.5), (7, -1.0)], [(int(logits[2].argmax()), -100.0)], [], [(5, 50.0)], [(5, 50.0)]]
    ends = [[], [], [], [1, 2], [5], []]
    masks = [None, None, np.arange(V) % 7 == 3, None, None, np.arange(V) > 250]
    got = found(sample(logits, *_device(kinds, logits, tokens, num_prompt, biases, ends, masks)))
    want = []
    for i, kind in enumerate(kinds):
        packed = None if masks[i] is None else np.packbits(masks[i], bitorder="little").tobytes()
        more = {"bias": biases[i], "end_ids": ends[i], "min_tokens": 100 if ends[i] else 0}
        want.append(plain(logits[i], kind, i, 0, tokens[i], num_prompt, packed, **more))
    assert got == want
    without = found(sample(logits, sample_rows(kinds, range(len(kinds)))))
    assert sum(a != b for a, b in zip(got, without, strict=True)) >= 3


def _device(kinds, logits, tokens, num_prompt, biases, ends, masks):
    num = len(kinds)
    occurrences = torch.full((num, V), -1, dtype=torch.int32)
    for i, sequence in enumerate(tokens):
        for place, token in enumerate(sequence):
            occurrences[i, token] = max(int(occurrences[i, token]), 0) + (place >= num_prompt)
    penalized = [any(name in kind for name in ("repetition", "presence", "frequency")) for kind in kinds]
    slots = torch.tensor([i if penalized[i] else -1 for i in range(num)], dtype=torch.int32)
    numbers = [
        [kind.get(name, default) for kind in kinds]
        for name, default in (("repetition", 1.0), ("presence", 0.0), ("frequency", 0.0))
    ]
    entries = [dict(bias) | dict.fromkeys(end, -np.inf) for bias, end in zip(biases, ends, strict=True)]
    starts = torch.tensor([0, *np.cumsum([len(each) for each in entries])], dtype=torch.int32)
    ids = torch.tensor([t for each in entries for t in each], dtype=torch.int32)
    values = torch.tensor([v for each in entries for v in each.values()], dtype=torch.float32)
    bits = np.stack([np.packbits(each, bitorder="little") for each in masks if each is not None])
    rows = np.cumsum([each is not None for each in masks]) - 1
    which = torch.tensor([int(rows[i]) if masks[i] is not None else -1 for i in range(num)], dtype=torch.int32)
    return (
        sample_rows(kinds, range(num)),
        Penalties(occurrences, slots, *(torch.tensor(each, dtype=torch.float32) for each in numbers)),
        Bias(starts, ids, values, 2),
        Masks(torch.from_numpy(bits), which),
    )


def test_faults_fail_their_row_only():
    kinds = [{}, {}, {"temperature": 0.0}, {}, {"temperature": 0.0}]
    logits = made(5, 2)
    want = found(sample(logits, sample_rows(kinds, range(5))))
    logits[1, 7], logits[2, 299], logits[3, 0] = torch.nan, torch.inf, -torch.inf
    masks = Masks(torch.zeros(1, 38, dtype=torch.uint8), torch.tensor([-1, 0, -1, -1, 0], dtype=torch.int32))
    for bias in (None, Bias(torch.zeros(6, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0), 1)):
        got = found(sample(logits, sample_rows(kinds, range(5)), bias=bias, masks=masks))
        assert got == [want[0], (-1, 1), (-1, 1), (-1, 1), (-1, 2)]


def test_a_row_is_the_same_among_others():
    kinds = KINDS[:12]
    logits = made(12, 4)
    together = found(sample(logits, sample_rows(kinds, range(12), range(12))))
    for i in (1, 9):
        one = sample(logits[i : i + 1], sample_rows(kinds[i : i + 1], [i], [i]))
        assert found(one) == together[i : i + 1]


def test_noise_has_the_bits_of_the_core():
    @triton.jit
    def noise(seed, out, gumbels, N: tl.constexpr):
        token = tl.arange(0, N)
        key = noise_key(tl.load(seed), tl.load(seed + 1), tl.load(seed + 2))
        v = noise_uniform(key, token)
        tl.store(out + token, v)
        tl.store(gumbels + token, gumbel(v))

    words = (-3, 5, 123456)
    out, gumbels = torch.empty(2048, dtype=torch.float64), torch.empty(2048, dtype=torch.float64)
    noise[(1,)](torch.tensor(words), out, gumbels, N=2048)
    want = torch.from_numpy(many_uniforms(plain_key(2**64 - 3, 5, 123456), 2048))
    assert torch.equal(out, want) and not torch.equal(
        out, torch.from_numpy(many_uniforms(plain_key(0, 5, 123456), 2048))
    )
    assert torch.allclose(gumbels, -torch.log(-torch.log1p(-want)), rtol=1e-13, atol=1e-15)


def test_what_does_not_fit_is_refused():
    rows = sample_rows([{}], [0])
    with pytest.raises(ValueError, match="logits holds"):
        sample(made(1, 0).bfloat16(), rows)
    with pytest.raises(ValueError, match="temperature has shape"):
        sample(made(2, 0), rows)
    with pytest.raises(ValueError, match="bits has shape"):
        sample(made(1, 0), rows, masks=Masks(torch.zeros(1, 37, dtype=torch.uint8), torch.zeros(1, dtype=torch.int32)))
    with pytest.raises(ValueError, match="no vocabulary"):
        sample(torch.empty(1, 0), rows)
