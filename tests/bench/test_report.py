import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from tests.bench import samples
from tests.bench.test_store import STEP

from penstock.bench.definitions import Objective
from penstock.bench.pitfalls import Pitfall
from penstock.bench.report import report, write_report
from penstock.core import ConfigError

OBJECTIVES = (Objective("ttft", 0.2),)
EVIL = "<script>alert(1)</script><img src=//evil onerror=x>"
EMPTY = ("meta", "br", "img", "link", "input", "hr")


class Page(HTMLParser):
    """Tags, ids, addresses and visible text; every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.ids, self.links, self.text = [], [], [], [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [v for n, v in attributes if n in ("src", "href", "xlink:href", "action", "srcset", "data")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in EMPTY:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in EMPTY:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not self.stack or self.stack[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def sweep_record():
    runs = [samples.queue_run(rate, 20.0, 8.0, seed=rate) for rate in (5, 15, 40)]
    return samples.record("sweep", runs, objectives=OBJECTIVES)


def serve_record(**fields):
    return samples.record(
        "serve", [samples.queue_run(10, 20.0, 15.0)], objectives=OBJECTIVES, price_per_hour=1.5, **fields
    )


def compare_record():
    runs = [
        samples.queue_run(12, 20 if label == "A" else 26, 10.0, seed=r, label=label, round=r)
        for label, r in samples.turns(6)
    ]
    return samples.record("compare", runs)


def test_one_page_of_every_kind_is_whole_and_needs_no_network():
    engine = samples.record("engine", steps=(STEP,))
    figures = samples.record("figures", figures={"answer": [42]})
    text = report([sweep_record(), serve_record(), compare_record(), engine, figures])
    page = Page(text)
    assert len(page.ids) == len(set(page.ids)) > 50
    assert page.links and all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags) and page.tags.count("svg") >= 9
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/|127\.0\.0\.1:1/)", text)
    assert "default-src 'none'" in text
    for words in ("saturates at", "Rates of the sweep", "Latencies", "B is better", "Engine steps", "abc1234+", "42"):
        assert words in page.words, words


def test_what_limits_the_figures_stands_above_them():
    run = samples.queue_run(10, 20.0, 15.0)
    clean = Page(report([samples.record(runs=[run])])).words
    assert "invalid" not in clean and "What these figures are not" not in clean
    pitfalls = (Pitfall(5, "invalid: sent late"), Pitfall(7, "3 prompts were sent before"))
    dirty = replace(
        run, invalid=("sent 50 ms late. hint: ask for less.", "ran late. hint: ask for less."), pitfalls=pitfalls
    )
    words = Page(report([samples.record(runs=[dirty])])).words
    assert words.index("sent 50 ms late") < words.index("3 prompts were sent before") < words.index("Latencies")
    assert words.index("ask for less") < words.index("3 prompts") and "invalid: sent late" not in words
    several = Page(report([samples.record(runs=[dirty, replace(run, round=1, pitfalls=pitfalls), run])])).words
    assert "3 prompts were sent before (2 of 3 runs; figures of the last)" in several


def test_a_comparison_says_which_side_is_which():
    sides = [{"url": "http://127.0.0.1:1/v1", "model": "one"}, {"url": "http://127.0.0.1:1/v1", "model": EVIL}]
    record = replace(compare_record(), configuration={"endpoints": sides})
    words = Page(report([record])).words
    assert "A: one at http://127.0.0.1:1/v1" in words and f"B: {EVIL} at" in words


def test_nothing_of_a_record_is_markup():
    run = samples.queue_run(10, 20.0, 15.0, label=EVIL, refuse_after=0.01)
    run = replace(run, pitfalls=(Pitfall(1, EVIL),), invalid=(EVIL,))
    record = replace(samples.record(runs=[run]), title=EVIL, configuration={EVIL: EVIL}, figures={"x": EVIL})
    record = replace(record, origin=replace(record.origin, cpu=EVIL, commit=EVIL))
    record = replace(record, steps=(replace(STEP, model=EVIL, format=EVIL, bound=EVIL),))
    text = report([record])
    page = Page(text)
    assert not {"script", "img"} & set(page.tags) and "<script" not in text
    assert page.words.count("alert(1)") >= 8


def test_a_record_without_requests_that_ended_well_is_still_a_page():
    run = samples.queue_run(10, 20.0, 15.0, refuse_after=-1.0)
    assert {one.outcome.value for one in run.seen} == {"refused"}
    for kind in ("serve", "sweep"):
        assert "refused" in Page(report([samples.record(kind, [run])])).words


def test_a_report_is_written_or_refused(tmp_path):
    write_report(tmp_path / "a" / "r.html", [serve_record()])
    assert (tmp_path / "a" / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(ConfigError, match="0 records"):
        report([])
    with pytest.raises(ConfigError, match="can't be written"):
        write_report(tmp_path / "a" / "r.html" / "x.html", [serve_record()])


@pytest.mark.parametrize("kind", ["serve", "sweep"])
def test_times_that_make_no_sense_are_still_a_page(kind):
    run = samples.queue_run(10, 20.0, 3.0)
    first = run.seen[0]
    odd = [
        replace(first, id=1000, intended_s=-5e8, sent_s=9e8, chunks_s=[0.0, 9e8], end_s=-9e8),
        replace(first, id=1001, intended_s=2.0, chunks_s=[1.0, 1.0], end_s=None, output_tokens=0),
        replace(first, id=1002, intended_s=2.0, chunks_s=[], finish_s=None, end_s=0.0, output_tokens=2**53),
    ]
    strange = replace(run, seen=(*run.seen, *odd), duration_s=-1.0, rate=-3.0)
    assert "Requests" in Page(report([samples.record(kind, [strange], objectives=OBJECTIVES)])).words


def test_a_comparison_without_a_whole_round_says_so():
    cut = replace(samples.queue_run(10, 20), invalid=("it was interrupted",), interrupted=True)
    page = report([samples.record("compare", [cut])])
    assert "nothing is compared" in page and "it was interrupted" in page
    assert "nothing is compared" not in report([samples.record("serve", [cut])])  # the control
