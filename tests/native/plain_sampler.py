"""The sampler over all the logits of a position, one plain step after another: shorter ways must agree, bit for bit.

Logarithms and exponentials are the C library's, as in the core; only sums over a whole vocabulary are the core's own.
For tests only.
"""

import math

import numpy as np

INVALID_LOGITS, EMPTY_MASK = 1, 2
GOLDEN = 0x9E3779B97F4A7C15
WORD = 2**64 - 1
DEFAULTS = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition": 1.0,
    "presence": 0.0,
    "frequency": 0.0,
    "min_tokens": 0,
    "bias": [],
    "end_ids": [],
    "seed": 0,
    "sample": 0,
    "logprobs": -1,
}


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def noise_key(seed, sample, position):
    key = mix((seed + GOLDEN) & WORD)
    key = mix((key + (sample + 1) * GOLDEN) & WORD)
    return mix((key + (position + 1) * GOLDEN) & WORD)


def noise_bits(key, token):
    return mix((key + (token + 1) * GOLDEN) & WORD) >> 11


def uniforms(key, tokens):
    """(0, 1) of each token.  # [N] f64."""
    return np.array([(noise_bits(key, int(t)) + 0.5) * 2.0**-53 for t in tokens])


def many_uniforms(key, count):
    """The same of the tokens [0, count), for whole vocabularies."""
    z = np.uint64(key) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def in_order(x):
    """Ids by descending logit, ties to the lower id."""
    return np.lexsort((np.arange(len(x)), -x.astype(np.float64)))


def change(logits, p, tokens, num_prompt, mask):
    x = logits.copy()
    if p["repetition"] != 1 or p["presence"] or p["frequency"]:
        repetition, presence, frequency = (np.float32(p[name]) for name in ("repetition", "presence", "frequency"))
        output = tokens[num_prompt:]
        for token in set(tokens):
            if repetition != 1:
                x[token] = x[token] / repetition if x[token] > 0 else x[token] * repetition
            if token in output:
                x[token] -= presence + frequency * np.float32(output.count(token))
    for token, value in p["bias"]:
        x[token] += np.float32(value)
    if len(tokens) - num_prompt < p["min_tokens"]:
        x[p["end_ids"]] = -np.inf
    if mask is not None:
        x[np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[: len(x)] == 0] = -np.inf
    return x


def cut_top_p(ids, weight, bound):
    mass = 0.0
    for i, token in enumerate(ids):
        mass += weight(token)
        if mass >= bound:
            return ids[: i + 1]
    return ids


def cut_typical_p(ids, x, top, temperature, typical_p):
    log_sum = math.log(sum(math.exp((float(x[t]) - top) / temperature) for t in ids))
    surprise = {t: log_sum - (float(x[t]) - top) / temperature for t in ids}
    entropy = 0.0
    for t in ids:
        p = math.exp(-surprise[t])
        if p > 0:
            entropy += p * surprise[t]
    nearest, mass = sorted(ids, key=lambda t: abs(surprise[t] - entropy)), 0.0
    for i, token in enumerate(nearest):
        mass += math.exp(-surprise[token])
        if mass >= typical_p:
            return nearest[: i + 1]
    return nearest


def filtered(kernels, x, p):
    """The ids that every filter keeps, or None for all."""
    limited = 0 < p["top_k"] < len(x)
    if not limited and p["top_p"] >= 1 and p["min_p"] <= 0 and p["typical_p"] >= 1:
        return None
    top, temperature = float(x.max()), p["temperature"]

    def weight(token):
        return math.exp((float(x[token]) - top) / temperature)

    ids = [int(t) for t in in_order(x) if x[t] > -np.inf]
    if limited:
        ids = ids[: p["top_k"]]
    if p["top_p"] < 1:
        inverse = float(np.float32(min(1 / temperature, 1e30)))
        total = sum(map(weight, ids)) if limited else kernels.exponentials(x, top, inverse)[0]
        ids = cut_top_p(ids, weight, p["top_p"] * total)
    if p["min_p"] > 0:
        kept = 1
        while kept < len(ids) and weight(ids[kept]) >= p["min_p"]:
            kept += 1
        ids = ids[:kept]
    if p["typical_p"] < 1:
        ids = cut_typical_p(ids, x, top, temperature, p["typical_p"])
    return ids


def race(x, temperature, key, ids):
    top, best, winner = float(x.max()), -math.inf, -1
    if ids is None:  # numpy's logarithms are a little off: they only say who is near
        with np.errstate(over="ignore"):
            near = (x.astype(np.float64) - top) / temperature - np.log(-np.log1p(-many_uniforms(key, len(x))))
        ids = np.flatnonzero(near >= near.max() - 1e-6)
    for token in ids:
        if x[token] == -np.inf:
            continue
        v = (noise_bits(key, int(token)) + 0.5) * 2.0**-53
        score = (float(x[token]) - top) / temperature - math.log(-math.log1p(-v))
        if score > best or (score == best and token < winner):
            best, winner = score, int(token)
    return winner


def logprobs_of(kernels, logits, token, count):
    top = float(logits.max())
    log_sum = top + math.log(kernels.exponentials(logits, top, 1.0)[0])
    order = in_order(logits)

    def logprob(t):
        return float(np.float32(float(logits[t]) - log_sum))

    best = tuple((int(t), logprob(t)) for t in order[:count])
    return (token, logprob(token), int(np.flatnonzero(order == token)[0]) + 1, best)


def plain_sample(kernels, logits, params, tokens=(), num_prompt=0, position=0, mask=None):
    """(token, error, [(token, logprob, rank, top)] or None), as `_native.sample_rows` gives a row's.

    `logits` is # [V] f32; `params` has the fields of `_native.Sampling`.
    """
    p = DEFAULTS | params
    if not np.isfinite(logits).all():
        return (-1, INVALID_LOGITS, None)
    x = change(logits, p, list(tokens), num_prompt, mask)
    if x.max() == -np.inf:
        return (-1, EMPTY_MASK, None)
    if p["temperature"] == 0:
        token = int(x.argmax())
    else:
        key = noise_key(p["seed"], p["sample"], position)
        token = race(x, p["temperature"], key, filtered(kernels, x, p))
    shown = [logprobs_of(kernels, logits, token, p["logprobs"])] if p["logprobs"] >= 0 else None
    return (token, 0, shown)
