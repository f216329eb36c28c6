"""The native sampler against a plain numpy oracle: distribution, filters, penalties, ties, log probabilities."""

import math

import numpy as np
import pytest

from penstock import _native

TIERS = _native.tiers()


@pytest.fixture(params=TIERS)
def tier(request):
    return _native.kernels(request.param)


BEST = _native.kernels()


def make_sampling(**fields):
    out = _native.Sampling()
    for name, value in fields.items():
        setattr(out, name, value)
    return out


def draw(logits, count, *, kernels=BEST, first=0, tokens=(), num_prompt=None, **fields):
    sampling = make_sampling(**({"seed": 11} | fields))
    prompt = len(tokens) if num_prompt is None else num_prompt
    logits = np.asarray(logits, np.float32)
    return np.array(_native.sample_many(kernels, logits, sampling, first, count, list(tokens), prompt))


def oracle(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0):
    """Probabilities after every filter, in thirty lines of float64."""
    x = np.asarray(logits, np.float64) / temperature
    order = np.lexsort((np.arange(len(x)), -x))
    keep = order[: top_k or len(x)]

    def normal(ids):
        p = np.exp(x[ids] - x[ids].max())
        return p / p.sum()

    if top_p < 1:
        mass = np.cumsum(normal(keep))
        keep = keep[: int(np.searchsorted(mass, top_p)) + 1]
    if min_p > 0:
        p = normal(keep)
        keep = keep[p >= min_p * p.max()]
    if typical_p < 1:
        p = normal(keep)
        log_p = np.log(p)
        entropy = -(p * log_p).sum()
        nearest = np.argsort(np.abs(-log_p - entropy), kind="stable")
        mass = np.cumsum(p[nearest])
        keep = keep[nearest[: int(np.searchsorted(mass, typical_p)) + 1]]
    out = np.zeros(len(x))
    out[keep] = normal(keep)
    return out


def chi_square(counts, probabilities):
    """(statistic, bound): five standard deviations above the mean; impossible tokens must not occur."""
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] * counts.sum()
    assert expected.min() >= 5
    freedom = possible.sum() - 1
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    return statistic, freedom + 5 * math.sqrt(2 * freedom) + 5


LOGITS = np.random.default_rng(5).normal(0, 1.2, 40).astype(np.float32)

FILTERS = {
    "none": {},
    "hot": {"temperature": 1.7},
    "cold": {"temperature": 0.6},
    "top_k": {"top_k": 7},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.2},
    "typical_p": {"typical_p": 0.7},
    "all": {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.9},
}


@pytest.mark.parametrize("name", FILTERS)
def test_the_distribution_is_exact(name):
    counts = np.bincount(draw(LOGITS, 100_000, **FILTERS[name]), minlength=len(LOGITS))
    statistic, bound = chi_square(counts, oracle(LOGITS, **FILTERS[name]))
    assert statistic < bound


def test_control_a_slightly_wrong_distribution_is_found():
    counts = np.bincount(draw(LOGITS, 100_000, temperature=1.05), minlength=len(LOGITS))
    statistic, bound = chi_square(counts, oracle(LOGITS))
    assert statistic > bound


@pytest.mark.parametrize("seed", range(25))
def test_filters_keep_exactly_the_oracles_tokens(seed):
    rng = np.random.default_rng(seed)
    vocab = int(rng.integers(2, 900))
    logits = np.round(rng.normal(0, 3, vocab), 1).astype(np.float32)
    fields = {
        "temperature": float(rng.choice([0.5, 1.0, 1.5])),
        "top_k": int(rng.choice([0, 1, 5, 64, 65, 300])),
        "top_p": float(rng.choice([1.0, 0.9, 0.35])),
        "min_p": float(rng.choice([0.0, 0.013])),
        "typical_p": float(rng.choice([1.0, 0.8])),
    }
    kept = np.flatnonzero(oracle(logits, **fields))
    seen = np.unique(draw(logits, 3000, **fields))
    assert set(seen) <= set(kept)
    likely = np.flatnonzero(oracle(logits, **fields) > 0.01)
    assert set(likely) <= set(seen)


def test_successive_positions_samples_and_seeds_are_independent():
    a, b = draw([0.0, 0.0], 20_000), draw([0.0, 0.0], 20_000, sample=1)
    c, d = draw([0.0, 0.0], 20_000, seed=12), a[1:]
    for other in (b, c):
        assert abs((a == other).mean() - 0.5) < 0.02
    assert abs((a[:-1] == d).mean() - 0.5) < 0.02
    assert abs((a == draw([0.0, 0.0], 20_000)).mean() - 1.0) < 1e-9


def test_draws_are_a_function_of_seed_sample_and_position():
    assert list(draw(LOGITS, 50, first=100)) == list(draw(LOGITS, 150)[100:])
    extreme = make_sampling(seed=2**64 - 1, sample=2**31)
    assert len(_native.sample_many(BEST, LOGITS, extreme, 2**40, 3, [], 0)) == 3


def test_every_tier_draws_the_same_tokens(tier):
    big = np.random.default_rng(2).normal(0, 2.5, 5003).astype(np.float32)
    for fields in FILTERS.values():
        assert list(draw(big, 40, kernels=tier, **fields)) == list(draw(big, 40, **fields))


@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 100, 8193, 151_936])
def test_whole_vocabularies_sample_like_the_plain_race(vocab):
    """The shortcut over the whole vocabulary names the token that the plain race does."""
    rng = np.random.default_rng(vocab)
    for scale in (0.0, 0.5, 4.0):
        logits = (rng.normal(0, 1, vocab) * scale).astype(np.float32)
        fast = draw(logits, 6, temperature=0.8)
        plain = draw(logits, 6, temperature=0.8, min_p=1e-300)
        assert list(fast) == list(plain)
        assert fast.min() >= 0
        assert fast.max() < vocab


def test_greedy_takes_the_first_of_equals(tier):
    logits = np.zeros(100, np.float32)
    logits[[17, 40, 99]] = 3.0
    assert list(draw(logits, 3, kernels=tier, temperature=0.0)) == [17, 17, 17]
    logits[99] = 3.5
    assert draw(logits, 1, kernels=tier, temperature=0.0)[0] == 99


def test_top_k_ties_keep_the_lower_ids():
    logits = np.zeros(200, np.float32)
    for k in (3, 64, 100):
        assert set(draw(logits, 2000, top_k=k)) == set(range(k))


def test_tiny_temperatures_are_greedy_without_overflow():
    logits = np.array([1.0, 1.5, 1.4999], np.float32)
    for temperature in (1e-5, 1e-20, 1e-300):
        assert set(draw(logits, 20, temperature=temperature)) == {1}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 15, 16, 36])
def test_poisoned_logits_are_never_sampled(tier, bad, place):
    logits = np.zeros(37, np.float32)
    logits[place] = bad
    for temperature in (0.0, 1.0):
        assert list(draw(logits, 2, kernels=tier, temperature=temperature)) == [-1, -1]


def penalized(logits, tokens, num_prompt, repetition=1.0, presence=0.0, frequency=0.0):
    out = np.array(logits, np.float64)
    for token in set(tokens):
        out[token] = out[token] / repetition if out[token] > 0 else out[token] * repetition
    for token in set(tokens[num_prompt:]):
        out[token] -= presence + frequency * tokens[num_prompt:].count(token)
    return out


PENALTIES = [
    {"repetition": 1.8},
    {"repetition": 0.6},
    {"presence": 1.5},
    {"frequency": 0.7},
    {"repetition": 1.3, "presence": -0.5, "frequency": 0.9},
]


@pytest.mark.parametrize("fields", PENALTIES)
def test_penalties_follow_the_oracle(fields):
    tokens = [3, 3, 9, 9, 9, 12, 0]
    expected = oracle(penalized(LOGITS, tokens, 2, **fields))
    counts = np.bincount(draw(LOGITS, 50_000, tokens=tokens, num_prompt=2, **fields), minlength=len(LOGITS))
    statistic, bound = chi_square(counts, expected)
    assert statistic < bound
    other = oracle(penalized(LOGITS, tokens, 2))
    assert chi_square(counts, other)[0] > chi_square(counts, other)[1]


def test_bias_is_added_after_penalties_and_before_everything_else():
    changed = penalized(LOGITS, [4], 0, repetition=2.0)
    changed[4] += 3.0
    changed[8] -= 100.0
    bias = [(4, 3.0), (8, -100.0)]
    drawn = draw(LOGITS, 50_000, tokens=[4], num_prompt=0, repetition=2.0, bias=bias, top_k=12)
    statistic, bound = chi_square(np.bincount(drawn, minlength=len(LOGITS)), oracle(changed, top_k=12))
    assert statistic < bound


def test_min_tokens_masks_the_end_tokens():
    logits = np.zeros(8, np.float32)
    logits[2] = 50.0
    fields = {"min_tokens": 3, "end_ids": [2, 5], "tokens": [1, 1, 1]}
    early = set(draw(logits, 500, num_prompt=1, **fields))
    assert early == {0, 1, 3, 4, 6, 7}
    assert set(draw(logits, 50, num_prompt=0, **fields)) == {2}


def test_all_tokens_masked_gives_none():
    fields = {"min_tokens": 1, "end_ids": [0, 1]}
    assert list(draw([0.0, 1.0], 2, **fields)) == [-1, -1]


def test_raw_logprobs_rank_and_top(tier):
    rng = np.random.default_rng(9)
    logits = np.round(rng.normal(0, 4, 5001), 2).astype(np.float32)
    x = logits.astype(np.float64)
    log_p = x - x.max() - math.log(np.exp(x - x.max()).sum())
    order = np.lexsort((np.arange(len(x)), -x))
    for token in (*order[:3], *order[-2:], 0, 5000):
        [(found, logprob, rank, top)] = _native.raw_logprob(tier, logits, int(token), 20)
        assert found == token
        assert logprob == pytest.approx(log_p[token], abs=2e-5)
        assert rank == int(np.flatnonzero(order == token)[0]) + 1
        assert [t for t, _ in top] == list(order[:20])
        assert [v for _, v in top] == pytest.approx(list(log_p[order[:20]]), abs=2e-5)


def test_hostile_arguments_are_refused():
    with pytest.raises(TypeError):
        _native.sample_many(BEST, LOGITS.astype(np.float64), make_sampling(), 0, 1, [], 0)
    with pytest.raises(ValueError, match="token id"):
        _native.sample_many(BEST, LOGITS, make_sampling(), 0, 1, [40], 0)
    with pytest.raises(ValueError, match="num_prompt"):
        _native.sample_many(BEST, LOGITS, make_sampling(), 0, 1, [1], 2)
    with pytest.raises(ValueError, match="token or top"):
        _native.raw_logprob(BEST, LOGITS, 40, 1)
