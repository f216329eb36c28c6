"""Counts and histograms of requests, and the Prometheus text of them and of the engines' snapshots.

Knows nothing about HTTP. Written by hand because the client library's import costs a tenth of a one-second start.
Invariant: every series has its own `penstock_` name and, where the field has a name for it, a `vllm:` alias with the
same numbers; one event loop writes, so there are no locks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from penstock.core import Event, Finish, FinishReason, Request, Snapshot

TTFT_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
ITL_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
LATENCY_BUCKETS: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
N_BUCKETS: Final = (1.0, 2.0, 5.0, 10.0, 20.0)

# Histogram → (help, vLLM's name).
_HISTOGRAMS: Final[dict[str, tuple[str, str]]] = {
    "time_to_first_token_seconds": ("From arrival to the first token.", "time_to_first_token_seconds"),
    "inter_token_latency_seconds": ("Between tokens of one sample.", "inter_token_latency_seconds"),
    "e2e_request_latency_seconds": ("From arrival to the last token.", "e2e_request_latency_seconds"),
    "request_queue_time_seconds": ("From arrival to the first step.", "request_queue_time_seconds"),
    "request_prefill_time_seconds": ("From the first step to the first token.", "request_prefill_time_seconds"),
    "request_decode_time_seconds": ("From the first to the last token.", "request_decode_time_seconds"),
    "request_inference_time_seconds": ("From the first step to the last token.", "request_inference_time_seconds"),
    "request_prompt_tokens": ("Prompt tokens of a request.", "request_prompt_tokens"),
    "request_generation_tokens": ("Output tokens of a sample.", "request_generation_tokens"),
    "request_params_n": ("Samples asked for.", "request_params_n"),
}


class Histogram:
    """Counts by upper bound, and a sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Adds `times` observations of `value`."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """The exposition of this histogram."""
        running = 0
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            running += count
            shown = "+Inf" if bound is None else repr(bound)
            yield f'{name}_bucket{{{labels},le="{shown}"}} {running}'
        yield f"{name}_sum{{{labels}}} {self.total!r}"
        yield f"{name}_count{{{labels}}} {running}"


def _token_buckets(longest: int) -> tuple[float, ...]:
    made = [float(step * 10**power) for power in range(8) for step in (1, 2, 5)]
    return tuple(bound for bound in made if bound <= longest) or (1.0,)


class ModelMetrics:
    """The series of one served model."""

    def __init__(self, max_model_tokens: int) -> None:
        self.finished: Counter[str] = Counter()
        self.histograms = {name: Histogram(LATENCY_BUCKETS) for name in _HISTOGRAMS}
        self.histograms["time_to_first_token_seconds"] = Histogram(TTFT_BUCKETS)
        self.histograms["inter_token_latency_seconds"] = Histogram(ITL_BUCKETS)
        self.histograms["request_params_n"] = Histogram(N_BUCKETS)
        for name in ("request_prompt_tokens", "request_generation_tokens"):
            self.histograms[name] = Histogram(_token_buckets(max_model_tokens))


class RequestMeter:
    """What one request adds to its model's series: call `saw` for each event, `ended` once."""

    __slots__ = ("_arrival_s", "_last_s", "_left", "_model")

    def __init__(self, model: ModelMetrics, request: Request) -> None:
        self._model = model
        self._arrival_s = request.arrival_s
        self._last_s: dict[int, float] = {}
        self._left = request.sampling.n
        model.histograms["request_prompt_tokens"].observe(len(request.prompt_tokens))
        model.histograms["request_params_n"].observe(request.sampling.n)

    def saw(self, event: Event, now: float) -> None:
        """Counts an event's tokens and end."""
        count = len(event.tokens)
        if count:
            last = self._last_s.get(event.sample)
            if last is None:
                if not self._last_s:
                    self._model.histograms["time_to_first_token_seconds"].observe(max(0.0, now - self._arrival_s))
            else:
                self._model.histograms["inter_token_latency_seconds"].observe((now - last) / count, count)
            self._last_s[event.sample] = now
        if event.finish is not None:
            self._finished(event.finish, now)

    def _finished(self, finish: Finish, now: float) -> None:
        self._left -= 1
        histograms = self._model.histograms
        self._model.finished[finish.reason.value if finish.reason in _PUBLISHED else "abort"] += 1
        histograms["request_generation_tokens"].observe(finish.usage.completion_tokens)
        histograms["e2e_request_latency_seconds"].observe(max(0.0, now - self._arrival_s))
        timing = finish.timing
        if timing.scheduled_s >= 0.0:
            histograms["request_queue_time_seconds"].observe(max(0.0, timing.scheduled_s - timing.arrival_s))
            histograms["request_inference_time_seconds"].observe(max(0.0, timing.finished_s - timing.scheduled_s))
        if timing.first_token_s >= 0.0:
            histograms["request_prefill_time_seconds"].observe(max(0.0, timing.first_token_s - timing.scheduled_s))
            histograms["request_decode_time_seconds"].observe(max(0.0, timing.finished_s - timing.first_token_s))

    def ended(self, reason: str) -> None:
        """Counts the samples that did not finish: "abort" or "error"."""
        self._model.finished[reason] += self._left
        self._left = 0


_PUBLISHED: Final = (FinishReason.STOP, FinishReason.LENGTH)

# (name, kind, help, vLLM's name or None, value of a snapshot)
_SNAPSHOT: Final = (
    ("requests_running", "gauge", "Requests in steps.", "num_requests_running", lambda s: s.num_running),
    ("requests_waiting", "gauge", "Requests queued.", "num_requests_waiting", lambda s: s.num_waiting),
    ("oldest_waiting_seconds", "gauge", "Age of the oldest queued request.", None, lambda s: s.oldest_waiting_s),
    (
        "kv_usage_ratio",
        "gauge",
        "KV pages held by requests, of all.",
        "kv_cache_usage_perc",
        lambda s: s.pages_held / s.pages_total if s.pages_total else 0.0,
    ),
    ("kv_pages_total_count", "gauge", "KV pages.", None, lambda s: s.pages_total),
    ("kv_pages_free", "gauge", "KV pages free.", None, lambda s: s.pages_free),
    ("kv_pages_cached", "gauge", "KV pages kept for their prefix only.", None, lambda s: s.pages_cached),
    ("steps_total", "counter", "Steps committed.", None, lambda s: s.steps),
    ("preemptions_total", "counter", "Preemptions.", "num_preemptions_total", lambda s: s.num_preemptions),
    ("prompt_tokens_total", "counter", "Prompt tokens.", "prompt_tokens_total", lambda s: s.prompt_tokens),
    ("generation_tokens_total", "counter", "Output tokens.", "generation_tokens_total", lambda s: s.output_tokens),
    (
        "prefix_cache_queries_total",
        "counter",
        "Prompt tokens looked up in the prefix cache.",
        "prefix_cache_queries_total",
        lambda s: s.prefix_queries_tokens,
    ),
    (
        "prefix_cache_hits_total",
        "counter",
        "Prompt tokens found in the prefix cache.",
        "prefix_cache_hits_total",
        lambda s: s.prefix_hits_tokens,
    ),
    ("requests_cancelled_total", "counter", "Requests cancelled.", None, lambda s: s.num_cancelled),
    ("requests_failed_total", "counter", "Requests that failed.", None, lambda s: s.num_errors),
    ("engine_dead", "gauge", "1 when the engine died.", None, lambda s: int(s.dead)),
)


def escape_label(value: str) -> str:
    """A label's value as the exposition format wants it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Metrics:
    """All series of one server."""

    def __init__(self, models: Mapping[str, int], page_tokens: Mapping[str, int] | None = None) -> None:
        """`models`: name → max_model_tokens; `page_tokens`: name → tokens of a KV page, where it is known."""
        self.models = {name: ModelMetrics(longest) for name, longest in models.items()}
        self._page_tokens = dict(page_tokens or {})
        self._http: Counter[tuple[str, str, int]] = Counter()

    def answered(self, method: str, route: str, status: int) -> None:
        """Counts one HTTP answer; `route` is the route's pattern, never the path as sent."""
        self._http[method, route, status] += 1

    def text(self, snapshots: Mapping[str, Snapshot]) -> str:
        """The exposition, version 0.0.4."""
        lines = list(self._http_lines())
        lines += self._snapshot_lines(snapshots)
        lines += self._cache_lines(snapshots)
        lines += self._finished_lines()
        for name, (words, alias) in _HISTOGRAMS.items():
            for shown in (f"penstock_{name}", f"vllm:{alias}"):
                lines += _head(shown, "histogram", words)
                for model, series in self.models.items():
                    lines += series.histograms[name].lines(shown, _labels(model))
        return "\n".join(lines) + "\n"

    def _http_lines(self) -> Iterable[str]:
        yield from _head("penstock_http_requests_total", "counter", "HTTP answers.")
        for (method, route, status), count in sorted(self._http.items()):
            yield f'penstock_http_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}'

    def _snapshot_lines(self, snapshots: Mapping[str, Snapshot]) -> Iterable[str]:
        for name, kind, words, alias, value in _SNAPSHOT:
            for shown in (f"penstock_{name}", f"vllm:{alias}" if alias else None):
                if shown is None:
                    continue
                yield from _head(shown, kind, words)
                for model, snapshot in snapshots.items():
                    yield f"{shown}{{{_labels(model)}}} {value(snapshot)}"

    def _cache_lines(self, snapshots: Mapping[str, Snapshot]) -> Iterable[str]:
        """The KV cache's shape as labels, under the names that routers read."""
        for shown in ("penstock_cache_config_info", "vllm:cache_config_info"):
            yield from _head(shown, "gauge", "The KV cache: tokens of a page, and pages.")
            for model, page in self._page_tokens.items():
                shape = f'block_size="{page}",num_gpu_blocks="{snapshots[model].pages_total}"'
                yield f"{shown}{{{_labels(model)},{shape}}} 1"

    def _finished_lines(self) -> Iterable[str]:
        for shown in ("penstock_requests_finished_total", "vllm:request_success_total"):
            yield from _head(shown, "counter", "Samples by the way they ended.")
            for model, series in self.models.items():
                for reason in ("stop", "length", "abort", "error"):
                    yield f'{shown}{{{_labels(model)},finished_reason="{reason}"}} {series.finished[reason]}'


def _labels(model: str) -> str:
    return f'model_name="{escape_label(model)}",engine="0"'


def _head(name: str, kind: str, words: str) -> tuple[str, str]:
    return f"# HELP {name} {words}", f"# TYPE {name} {kind}"
