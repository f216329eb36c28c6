"""`penstock bench` as a process, on a live server of the bundled model: what it prints, writes and refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from tests.cli.terminal import BUNDLED, Terminal, is_one_error, penstock
from tests.live_server import LiveServer

from penstock.bench import Outcome, read_record, summarize
from penstock.cli.main import command
from penstock.core import ConfigError

SERVER_COUNTS = ("--prompt-tokens", "24", "--output-tokens", "8", "--no-machine", "--max-lag", "60000")
SMALL = (*SERVER_COUNTS, "--tokenizer", str(BUNDLED))  # however busy this machine is


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with LiveServer() as server:
        yield server.url


def invoke(*arguments: str) -> int:
    """The exit code of the verb in this process; errors are raised."""
    with command().make_context("penstock", ["bench", *arguments]) as context:
        try:
            context.command.invoke(context)
        except typer.Exit as exit_:
            return exit_.exit_code
    return 0


def test_serve_measures_and_records(url: str, tmp_path: Path) -> None:
    record, page = tmp_path / "run.json", tmp_path / "run.html"
    ran = penstock(
        *("bench", "serve", url, "--arrivals", "constant:20", "--duration", "1.5", *SERVER_COUNTS),
        *("--objectives", "ttft=30s,tpot=30s", "--price", "2", "--json", str(record), "--html", str(page)),
    )
    assert ran.returncode == 0, ran.stderr
    assert "random: 30 requests" in ran.stderr and f"record: {record}" in ran.stderr
    for word in ("TTFT from the send", "objectives kept", "a million output tokens", "send / loop lag p99"):
        assert word in ran.stdout
    found = read_record(record)
    (run,) = found.runs
    assert found.kind == "serve" and {one.outcome for one in run.seen} == {Outcome.OK}
    assert {one.output_tokens for one in run.seen} == {8} and {one.prompt_tokens for one in run.seen} == {24}
    assert {one.prompt_tokens for one in run.asked} == {24}
    summary = summarize(run.seen, run.window, found.objectives)
    assert 20 < summary.arrived < 30 and summary.goodput is not None and summary.goodput.attainment == 1.0
    assert found.configuration["workload"]["num_requests"] is None and found.origin.machine is None
    text = page.read_text()
    assert "<svg" in text and "http://" not in text.replace(url, "").replace("http://www.w3.org", "")


def test_a_run_of_a_late_client_is_refused(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "run.json"
    flags = ("--arrivals", "constant:20", "--requests", "8", *SMALL, "--max-lag", "0.000001", "--json", str(record))
    assert invoke("serve", url, *flags) == 1
    said = capsys.readouterr()
    assert "invalid: the figures are not shown" in said.err and "requests were sent late" in said.err
    assert "TTFT" not in said.out and "no: requests were sent late" in said.out
    assert read_record(record).runs[0].invalid


def test_conversations_and_token_ids(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "run.json"
    code = invoke(
        *("serve", url, "--workload", "sessions", "--arrivals", "closed:2", "--requests", "6", *SMALL),
        *("--chat", "--turns", "2", "--next-tokens", "12", "--json", str(record), "--made-up-answers"),
    )
    assert code == 0 and "warning 1: a closed loop of 2 users" in capsys.readouterr().err
    (run,) = read_record(record).runs
    assert run.users == 2 and {one.outcome for one in run.seen} == {Outcome.OK}
    assert {(one.turn, one.prompt_tokens) for one in run.asked} == {(0, 24), (1, 24 + 8 + 12)}
    assert [one.prompt_tokens for one in run.seen] == [one.prompt_tokens for one in run.asked]
    own = ("--chat", "--turns", "2", "--next-tokens", "12", "--json", str(record))
    assert (
        invoke("serve", url, "--workload", "sessions", "--arrivals", "closed:2", "--requests", "6", *SMALL, *own) == 0
    )
    (run,) = read_record(record).runs
    assert {one.outcome for one in run.seen} == {Outcome.OK}
    assert {(one.turn, one.prompt_tokens) for one in run.asked} == {(0, 24), (1, None)}
    assert all((one.prompt_tokens or 0) > 24 + 12 for one in run.seen if one.id % 2)  # by the server's own count
    ids = ("serve", url, "--arrivals", "constant:20", "--requests", "4", "--warmup", "0", "--token-ids", *SMALL)
    assert invoke(*ids) == 0 and "warning 11" in capsys.readouterr().err


def test_an_interrupted_run_is_written_and_shown(url: str, tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    arguments = ("serve", url, "--arrivals", "constant:4", "--requests", "400", *SMALL)
    command_line = [sys.executable, "-m", "penstock", "bench", *arguments, "--json", str(record)]
    process = subprocess.Popen(
        [*command_line, "--processes", "2", "--warmup", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "random: 400 requests" in process.stderr.readline()
    time.sleep(6)  # until it sends, however busy this machine is
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted after" in error and "Latencies" in out
    (run,) = read_record(record).runs
    assert run.interrupted and 1 <= len(run.seen) < 400


@pytest.mark.parametrize("flag", ["--json", "--html"])
@pytest.mark.parametrize("verb", ["serve", "sweep", "compare"])
def test_a_file_that_can_not_be_written_is_refused_before_the_load(verb: str, flag: str, tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:9"] * (2 if verb == "compare" else 1)  # nobody is asked
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "inner"):
        with pytest.raises(ConfigError, match="can't be written"):
            invoke(verb, *urls, flag, str(path))


def test_a_warm_up_that_is_too_long_is_refused_before_the_machine_is_measured(url: str) -> None:
    arguments = ("--arrivals", "constant:20", "--requests", "10", "--warmup", "9", *SMALL, "--machine")
    with pytest.raises(ConfigError, match="no request would count"):
        invoke("serve", url, *arguments)


def test_a_window_that_turns_out_empty_is_written_and_said(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, page = tmp_path / "run.json", tmp_path / "run.html"
    arguments = ("--arrivals", "closed:2", "--requests", "4", "--warmup", "900", *SMALL)
    assert invoke("serve", url, *arguments, "--json", str(record), "--html", str(page)) == 1
    said = capsys.readouterr()
    assert "no: the window is empty: the warm-up is 900 s" in said.out and "Latencies" not in said.out
    assert "the window is empty" in page.read_text()
    assert len(read_record(record).runs[0].seen) == 4


def test_a_sweep_that_ends_before_its_time_keeps_its_runs(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "sweep.json"
    arguments = (*("--start", "10", "--growth", "8", "--max-rate", "80", "--requests", "20", "--warmup", "0.5"), *SMALL)
    with pytest.raises(ConfigError, match=r"the warm-up is 0\.5 s, and nothing arrives after"):
        invoke("sweep", url, *arguments, "--json", str(record))
    assert [run.rate for run in read_record(record).runs] == [10.0]
    assert "ended before its time after 1 runs" in capsys.readouterr().err


def test_sweep_grows_until_the_end(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "sweep.json"
    code = invoke(
        *("sweep", url, "--start", "10", "--max-rate", "20", "--refine", "0", "--duration", "1.5", *SMALL),
        *("--seed", "3", "--json", str(record)),
    )
    said = capsys.readouterr()
    assert code == 0 and "10/s: offered" in said.err and "Rates of the sweep" in said.out
    assert read_record(record).runs[0].rate == 10.0


def test_compare_takes_turns(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "compare.json"
    code = invoke(
        *("compare", url, url, "--rounds", "2", "--arrivals", "constant:20", "--requests", "12", *SMALL),
        *("--json", str(record)),
    )
    said = capsys.readouterr()
    assert code == 0 and "no difference shown" in said.out and "at least 5" in said.err
    assert [(run.label, run.round) for run in read_record(record).runs] == [("A", 0), ("B", 0), ("B", 1), ("A", 1)]


def test_a_report_of_records(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, page = tmp_path / "run.json", tmp_path / "page.html"
    invoke("serve", url, "--arrivals", "constant:20", "--requests", "8", *SMALL, "--json", str(record))
    capsys.readouterr()
    assert invoke("report", str(record), str(record), "--html", str(page)) == 0
    assert capsys.readouterr().err == f"report: {page}\n" and page.stat().st_size > 10_000
    whole = json.loads(record.read_text())
    whole["version"] = 99
    record.write_text(json.dumps(whole))
    with pytest.raises(ConfigError, match="version 99"):
        invoke("report", str(record))


def test_machine_and_engine_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "machine.json"
    assert invoke("machine", "--quick", "--threads", "1", "--json", str(record)) == 0
    said = capsys.readouterr().out
    assert "int8 dot" in said and "mean nothing" in said
    limits = read_record(record).origin.machine
    assert limits is not None and limits.threads == 1 and limits.quick
    code = invoke(
        *("engine", "--quick", "--streams", "1,2", "--depths", "32", "--prompts", "16", "--steps", "3"),
        *("--repeats", "3", "--mixed-prompt", "0", "--no-pack-cache"),
    )
    said = capsys.readouterr().out
    assert code == 0 and "share of the limit" in said and said.count("decode") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--requests", "3"), "nothing says when"),
        (("--arrivals", "poisson:3"), "how many requests"),
        (("--arrivals", "sometimes:3"), "no kind of arrivals"),
        (("--arrivals", "poisson:3", "--requests", "3", "--workload", "real"), "no workload"),
        (("--arrivals", "poisson:3", "--requests", "3", "--body", "[1]"), "--body"),
        (("--arrivals", "poisson:3", "--requests", "3", "--model", "other"), "no model 'other'"),
        (("--arrivals", "poisson:3", "--requests", "3", "--prompt-tokens", "no"), "no length"),
        (("--arrivals", "poisson:3", "--duration", "99", "--objectives", "speed=1s"), "no objective"),
    ],
)
def test_what_can_not_be_done_is_refused(url: str, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        invoke("serve", url, "--tokenizer", str(BUNDLED), *arguments)
    assert caught.value.hint


def test_a_process_says_it_in_one_line() -> None:
    assert "names no models" in is_one_error(penstock("bench", "serve", "http://127.0.0.1:9"), 2)


def test_settings_of_an_inner_verb(url: str, tmp_path: Path) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text('[bench.serve]\narrivals = "constant:20"\nrequests = 4\nno-such = 1\n')
    ran = penstock("bench", "serve", url, *SMALL, PENSTOCK_CONFIG=str(settings))
    assert "no_such in [bench.serve]" in is_one_error(ran, 2)
    settings.write_text(
        '[bench.serve]\narrivals = "constant:20"\nrequests = 4\nmachine = false\nprompt-tokens = "24"\n'
    )
    ran = penstock("bench", "serve", url, PENSTOCK_CONFIG=str(settings), PENSTOCK_BENCH_SERVE_OUTPUT_TOKENS="4")
    assert "random: 4 requests" in ran.stderr, ran.stderr
    settings.write_text("[bench.fly]\na = 1\n")
    ran = penstock("bench", "serve", url, PENSTOCK_CONFIG=str(settings))
    assert "table [bench.fly]" in is_one_error(ran, 2) and "bench.serve" in ran.stderr


def test_progress_moves_in_a_terminal(url: str) -> None:
    arguments = ("bench", "serve", url, "--arrivals", "constant:10", "--duration", "2", *SMALL)
    with Terminal(*arguments, columns=160) as terminal:
        assert terminal.leave() == 0
        assert "in flight" in terminal.screen and "Latencies" in terminal.screen
