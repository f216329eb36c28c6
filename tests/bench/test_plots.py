from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.bench import samples
from tests.bench.test_store import STEP

from penstock.bench import plots
from penstock.bench.compare import compare_runs
from penstock.bench.definitions import Objective
from penstock.bench.records import Outcome, Seen
from penstock.bench.sweep import analyse

OBJECTIVES = (Objective("ttft", 0.2),)
RUNS = [samples.queue_run(rate, 20.0, 10.0, seed=rate, refuse_after=5.0) for rate in (5, 10, 40)]
PAIRS = [samples.queue_run(10, 20, 10.0, seed=r, label=label, round=r) for label, r in samples.turns(5)]


def drawings():
    sweep = analyse(RUNS, OBJECTIVES)
    return {
        "sweep": plots.sweep_plot(sweep, "sweep"),
        "cdf": plots.cdf_plot(RUNS, "cdf"),
        "timeline": plots.timeline_plot(RUNS[2], "timeline"),
        "kept": plots.attainment_plot(sweep.points, OBJECTIVES, "kept"),
        "rounds": plots.rounds_plot(compare_runs(PAIRS), "rounds"),
        "steps": plots.steps_plot([STEP, replace(STEP, what="mixed", prompt_tokens=9)], "steps"),
    }


@pytest.fixture(scope="module")
def made():
    return drawings()


def test_a_plot_is_well_formed_and_needs_nothing_but_itself(made):
    for name, text in made.items():
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg") and "viewBox" in root.attrib
        for word in ("<script", "<image", "<metadata", "@import", "http://", "https://"):
            clean = text.replace("http://www.w3.org/", "")
            assert word not in clean, (name, word)
        for node in root.iter():
            link = node.get("{http://www.w3.org/1999/xlink}href", "#")
            assert link.startswith("#"), (name, link)


def test_ids_are_a_plots_own_and_every_reference_is_met(made):
    ids = {}
    for name, text in made.items():
        root = ElementTree.fromstring(text)
        ids[name] = {node.get("id") for node in root.iter() if node.get("id")}
        used = {node.get("{http://www.w3.org/1999/xlink}href")[1:] for node in root.iter() if node.tag.endswith("}use")}
        clips = {node.get("clip-path")[5:-1] for node in root.iter() if node.get("clip-path")}
        assert used | clips <= ids[name] and ids[name], name
    assert sum(map(len, ids.values())) == len(set.union(*ids.values()))


def test_the_same_runs_draw_the_same_picture(made):
    assert drawings()["sweep"] == made["sweep"]


def test_text_of_a_record_is_drawn_as_it_is():
    run = replace(RUNS[0], label="<b>$\\frac{1}{2}$ & _x_")
    text = plots.cdf_plot([run], "x")
    assert "<b>" not in text and "&lt;b&gt;$\\frac{1}{2}$ &amp; _x_" in text


def test_runs_without_a_single_good_request_are_drawn():
    lost = replace(RUNS[0], seen=tuple(Seen(i, i / 2, outcome=Outcome.FAILED) for i in range(20)))
    for text in (plots.cdf_plot([lost], "x"), plots.timeline_plot(lost, "x"), plots.sweep_plot(analyse([lost]), "x")):
        ElementTree.fromstring(text)
    ElementTree.fromstring(plots.timeline_plot(replace(RUNS[0], seen=()), "x"))


def test_many_runs_have_a_colour_each():
    assert len(set(plots.colours_of(RUNS * 5))) == 15 and len(plots.colours_of(RUNS)) == 3


def test_the_level_is_the_mean_number_under_way():
    rng = np.random.default_rng(0)
    begins = rng.uniform(0, 10, 50)
    ends = begins + rng.exponential(1.0, 50)
    edges = np.linspace(0, 15, 7)
    fine = np.linspace(0, 15, 60_001)
    count = ((begins[:, None] <= fine) & (fine < ends[:, None])).sum(0)
    naive = [count[(fine >= a) & (fine < b)].mean() for a, b in pairwise(edges)]
    assert plots.mean_level(begins, ends, edges) == pytest.approx(naive, abs=0.01)
