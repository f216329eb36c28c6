"""Observed lengths from files, pair by pair."""

from dataclasses import replace
from pathlib import Path

import pytest

from penstock.bench.arrivals import Poisson
from penstock.bench.options import WorkloadOptions
from penstock.bench.pairs import read_pairs
from penstock.bench.workloads import named_workload
from penstock.core import ConfigError

DATA = Path(__file__).parents[3] / "shared" / "data"


def file(folder: Path, text: str) -> Path:
    path = folder / "lengths.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "heading", ["prompt_tokens,output_tokens", "x,num_prefill_tokens,num_decode_tokens,y", "output_toks,input_toks"]
)
def test_columns_are_found_by_their_names(tmp_path: Path, heading: str) -> None:
    names = heading.split(",")
    row = {"prompt_tokens": 7, "num_prefill_tokens": 7, "input_toks": 7, "output_tokens": 0, "num_decode_tokens": 0}
    line = ",".join(str(row.get(name, 0 if name == "output_toks" else 9.5)) for name in names)
    assert read_pairs(file(tmp_path, f"{heading}\n{line}\n")).pairs == [(7, 1)]


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", "prompt_tokens,output_tokens\n", "prompt_tokens,output_tokens\n5\n"]
    + [f"prompt_tokens,output_tokens\n{row}\n" for row in ("x,1", "0,1", "-1,1", "1,-1", "1.5,1", "9" * 5000 + ",1")],
    ids=range(10),
)
def test_files_that_are_broken_are_refused_in_a_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_pairs(file(tmp_path, text))
    assert "\n" not in str(refused.value)
    assert refused.value.hint


def test_random_requests_take_them_from_a_file(tmp_path: Path) -> None:
    path = file(tmp_path, "prompt_tokens,output_tokens\n10,100\n20,200\n")
    workload = named_workload("random", WorkloadOptions(arrivals=Poisson(1.0), num_requests=50, files=(path,)))
    assert {(item.prompt_tokens, item.max_tokens) for item in workload.items} == {(10, 100), (20, 200)}
    assert workload.facts["num_pairs"] == 2
    assert workload.facts["files"] == ["lengths.csv"]


def test_pairs_too_short_for_a_template_are_left_out_and_counted(tmp_path: Path) -> None:
    path = file(tmp_path, "prompt_tokens,output_tokens\n10,100\n20,200\n")
    options = WorkloadOptions(arrivals=Poisson(1.0), num_requests=50, files=(path,), min_prompt_tokens=11)
    workload = named_workload("random", options)
    assert {item.prompt_tokens for item in workload.items} == {20}
    assert workload.left_out > 20
    with pytest.raises(ConfigError, match="10,000 have prompts of fewer than 21 tokens"):
        named_workload("random", replace(options, min_prompt_tokens=21))


def test_sessions_take_none(tmp_path: Path) -> None:
    path = file(tmp_path, "prompt_tokens,output_tokens\n10,100\n")
    with pytest.raises(ConfigError, match="1 files"):
        named_workload("sessions", WorkloadOptions(arrivals=Poisson(1.0), num_requests=5, files=(path,)))


@pytest.mark.skipif(not DATA.is_dir(), reason="the published data is not here")
def test_published_lengths() -> None:
    arxiv = read_pairs(DATA / "traces" / "arxiv_summarization_lengths_a.csv.gz")
    assert len(arxiv.pairs) == 14_128
    assert arxiv.pairs[0] == (3772, 54)
    assert len(read_pairs(DATA / "traces" / "azure_llm_2023_code_0-30min.csv.gz").pairs) == 5740
    for path in sorted((DATA / "measured_runs").rglob("requests.csv")):
        assert len(read_pairs(path).pairs) == 300
