"""The Prometheus text, read by the reference parser."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.api.metrics import TTFT_BUCKETS, Histogram, Metrics, RequestMeter
from penstock.core import Event, Finish, FinishReason, Request, SamplingParams, Timing, Usage


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found, name, **labels):
    labels = {"model_name": "toy", "engine": "0", **labels}
    return found[name, tuple(sorted(labels.items()))]


def test_a_server_counts_what_it_served(server):
    server.complete(max_tokens=2)
    server.complete(max_tokens=2, n=2, stream=True)
    server.complete(n=0)
    found = samples(server.get("/metrics").text)
    for prefix in ("penstock_", "vllm:"):
        assert value(found, prefix + "time_to_first_token_seconds_count") == 2
        assert value(found, prefix + "inter_token_latency_seconds_count") == 3
        assert value(found, prefix + "e2e_request_latency_seconds_count") == 3
        assert value(found, prefix + "request_prompt_tokens_sum") == 8
        assert value(found, prefix + "request_generation_tokens_sum") == 6
        assert value(found, prefix + "request_params_n_sum") == 3
        assert value(found, prefix + "preemptions_total" if prefix[0] == "p" else "vllm:num_preemptions_total") == 3
        assert value(found, prefix + "prefix_cache_hits_total") == 400
        assert value(found, prefix + "prefix_cache_queries_total") == 1000
        assert value(found, prefix + "generation_tokens_total") == 70
    assert value(found, "vllm:request_success_total", finished_reason="length") == 3
    assert value(found, "vllm:kv_cache_usage_perc") == value(found, "penstock_kv_usage_ratio") == 0.25
    assert value(found, "vllm:num_requests_waiting") == 0
    http = {key[1]: count for key, count in found.items() if key[0] == "penstock_http_requests_total"}
    assert http[("method", "POST"), ("route", "/v1/completions"), ("status", "200")] == 2
    assert http[("method", "POST"), ("route", "/v1/completions"), ("status", "400")] == 1


def test_the_kv_cache_is_described_where_its_pages_are_known(start_server):
    for page_tokens in (0, 32):
        found = samples(start_server(page_tokens=page_tokens).get("/metrics").text)
        shapes = [dict(labels) for name, labels in found if name == "vllm:cache_config_info"]
        assert [(one["block_size"], one["num_gpu_blocks"]) for one in shapes] == (
            [("32", "100")] if page_tokens else []
        )


def test_labels_are_bounded(server):
    for k in range(5):
        server.get(f"/nothing/{k}")
        server.http.request(f"M{k}", server.url + "/version")
    text = server.get("/metrics").text
    assert text.count("unmatched") <= 3 and "/nothing" not in text


def test_histogram_buckets_are_cumulative():
    histogram = Histogram(TTFT_BUCKETS)
    for seen in (0.0005, 0.001, 0.0011, 5000.0):
        histogram.observe(seen)
    lines = list(histogram.lines("x", "a"))
    assert lines[0] == 'x_bucket{a,le="0.001"} 2'
    assert lines[1] == 'x_bucket{a,le="0.005"} 3'
    assert lines[-3] == 'x_bucket{a,le="+Inf"} 4'
    assert len(lines) == len(TTFT_BUCKETS) + 3


def test_coalesced_tokens_count_one_gap_each():
    metrics = Metrics({"toy": 100})
    meter = RequestMeter(metrics.models["toy"], Request("a", (1,), SamplingParams(), arrival_s=10.0))
    meter.saw(Event(0, (5,), "x"), 11.0)
    meter.saw(Event(0, (5, 6, 7, 8), "x"), 11.4)
    finish = Finish(FinishReason.STOP, None, Usage(1, 5, 0), Timing(10.0, 10.5, 11.0, 11.5, 0))
    meter.saw(Event(0, (), "", finish=finish), 11.5)
    meter.ended("abort")
    series = metrics.models["toy"]
    gaps = series.histograms["inter_token_latency_seconds"]
    assert sum(gaps.counts) == 4 and gaps.total == pytest.approx(0.4)
    assert series.histograms["time_to_first_token_seconds"].total == pytest.approx(1.0)
    assert series.histograms["request_queue_time_seconds"].total == pytest.approx(0.5)
    assert series.histograms["request_decode_time_seconds"].total == pytest.approx(0.5)
    assert series.finished == {"stop": 1, "abort": 0}
