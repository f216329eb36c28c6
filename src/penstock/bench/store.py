"""Records: what a benchmark asked and saw, with its origin, in a versioned JSON file.

Knows nothing about metrics or plots. Invariant: a record holds every request's times and nothing that can be computed
from them, no prompt and no key; a file of another version, or one that was changed by hand into nonsense, is refused.

The file is one JSON object: {"schema": "penstock.bench", "version": 1, "record": {...}}, the record being the fields of
`Record`, those with their default left out. A request's chunk times are whole microseconds, each from the one before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.bench.client import Endpoint
from penstock.bench.definitions import METRICS, Objective
from penstock.bench.health import Health
from penstock.bench.json_form import from_json, to_json
from penstock.bench.machine import is_complete
from penstock.bench.origin import Origin
from penstock.bench.pitfalls import Facts, Pitfall, pitfalls
from penstock.bench.records import Seen, Window
from penstock.bench.stats import Estimate
from penstock.core import ConfigError, check_json_bounds, limits

SCHEMA = "penstock.bench"
VERSION = 1
MICRO = 1_000_000
MAX_TIME_S = 1e9
KINDS = ("serve", "sweep", "compare", "machine", "engine", "figures")
TIMES = ("intended_s", "sent_s", "connect_s", "headers_s", "finish_s", "end_s")


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of a server, without the prompt.

    Attributes:
        id: the ask's.
        prompt_tokens: that the prompt was made to have, or None where nobody counted.
        max_tokens, ignore_eos, session, turn: the ask's.
    """

    id: int
    prompt_tokens: int | None
    max_tokens: int
    ignore_eos: bool = True
    session: int | None = None
    turn: int = 0


@dataclass(frozen=True, slots=True)
class LoadRun:
    """One run of a workload.

    Attributes:
        label: whose: an endpoint's name, such as "A" in a comparison.
        window: what counts.
        health: the client's own.
        invalid: why its figures can't be believed; empty where they can.
        asked, seen: every request that was sent or should have been.
        duration_s: from the start to the end of the last answer.
        rate: requests a second that were meant to arrive; None in a closed loop or a trace.
        users: of a closed loop.
        round: which of several.
        pitfalls: what makes its figures mean something else than they seem to.
        interrupted: whether somebody ended it before its time; what was in flight then is unfinished.
    """

    label: str
    window: Window
    health: Health
    invalid: tuple[str, ...]
    asked: tuple[Asked, ...]
    seen: tuple[Seen, ...]
    duration_s: float
    rate: float | None = None
    users: int | None = None
    round: int = 0
    pitfalls: tuple[Pitfall, ...] = ()
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class StepFigure:
    """One kind of engine step, measured.

    Attributes:
        model: name.
        format: of the weights, and of the KV behind it.
        what: "prefill", "decode" or "mixed".
        streams: sequences that decode.
        depth: tokens that each holds.
        prompt_tokens: that are prefilled in the step.
        seconds: of a step.
        tokens: that a step gives (decode), or takes in (prefill), or both (mixed).
        bytes, int_ops, float_ops: that the step needs at least.
        limit_s: the least that the machine's limits let it take.
        bound: which of them: "bandwidth" or "arithmetic".
        times_s: of every step, in order.
    """

    model: str
    format: str
    what: str
    streams: int
    depth: int
    prompt_tokens: int
    seconds: Estimate
    tokens: int
    bytes: int
    int_ops: int
    float_ops: int
    limit_s: float
    bound: str
    times_s: tuple[float, ...]

    @property
    def share(self) -> float:
        """Of the limit: 1 is as fast as the machine can."""
        return self.limit_s / self.seconds.value

    @property
    def rate(self) -> Estimate:
        """Tokens a second."""
        return self.seconds.per(self.tokens)


@dataclass(frozen=True, slots=True)
class Record:
    """What a benchmark leaves behind.

    Attributes:
        kind: one of KINDS.
        title: for people.
        origin: what it was measured with and on.
        configuration: choices that it was run with, as JSON; no keys, no prompts.
        objectives: that goodput counts by.
        price_per_hour: of everything that serves, or None.
        runs: of load, in the order in which they ran.
        steps: of an engine in process.
        figures: of other programs, as JSON.
    """

    kind: str
    title: str
    origin: Origin
    configuration: dict[str, Any] = field(default_factory=dict)
    objectives: tuple[Objective, ...] = ()
    price_per_hour: float | None = None
    runs: tuple[LoadRun, ...] = ()
    steps: tuple[StepFigure, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)


def load_run(facts: Facts, label: str, rate: float | None = None, round: int = 0) -> LoadRun:
    """A run as it is recorded, with its pitfalls.

    Args:
        facts: the run and what was asked of it; asks that were never due are left out.
        label: whose it is.
        rate: requests a second that were meant to arrive, where that is what was chosen.
        round: which of several.
    """
    result = facts.result
    asks = [facts.asks[seen.id] for seen in result.seen if seen.id in facts.asks]
    return LoadRun(
        label=label,
        window=facts.window,
        health=result.health,
        invalid=result.invalid,
        asked=tuple(
            Asked(ask.id, ask.prompt_tokens, ask.max_tokens, ask.ignore_eos, ask.session, ask.turn) for ask in asks
        ),
        seen=result.seen,
        duration_s=result.duration_s,
        rate=rate,
        users=facts.plan.users,
        round=round,
        pitfalls=pitfalls(facts),
        interrupted=result.interrupted,
    )


def endpoint_facts(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as a record's configuration names it: without its key (a URL with a user is none)."""
    parts = endpoint.parts
    return {
        "url": f"{parts.scheme}://{parts.netloc}{parts.path}",
        "model": endpoint.model,
        "route": endpoint.route.value,
        "stream": endpoint.stream,
        "timeout_s": endpoint.timeout_s,
        "body": to_json(endpoint.body),
    }


def write_record(path: str | Path, record: Record) -> None:
    """Writes a record; the file appears whole or not at all.

    Raises:
        ConfigError: the folder can't be written, or a figure has no JSON form.
    """
    whole = {"schema": SCHEMA, "version": VERSION, "record": _packed(record)}
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(whole, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(f"{target} can't be written: {error.strerror}.", hint="choose another path.") from error


def read_record(path: str | Path) -> Record:
    """The record in a file.

    Raises:
        ConfigError: it can't be read, is too large, of another version, or damaged; says where.
    """
    source = Path(path)
    try:
        size = source.stat().st_size
        if size > limits.MAX_RECORD_BYTES:
            raise _refused(source, f"has {size:,} bytes; at most {limits.MAX_RECORD_BYTES:,} are read")
        data = source.read_bytes()
        check_json_bounds(data, limits.MAX_RECORD_OVERHEAD_BYTES)
        whole = json.loads(data)
    except OSError as error:
        raise _refused(source, f"can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _refused(source, f"is no JSON: {str(error).rstrip('.')[:120]}") from error
    if not isinstance(whole, dict) or whole.get("schema") != SCHEMA:
        raise _refused(source, f"is no record: its schema is not {SCHEMA!r}")
    if whole.get("version") != VERSION:
        raise _refused(source, f"has version {str(whole.get('version'))[:20]}; version {VERSION} is read")
    record = from_json(Record, _unpacked(whole.get("record"), str(source)), f"{source}: record")
    _check(record, source)
    return record


def _packed(record: Record) -> Any:
    """The record's JSON value with packed times."""
    value = to_json(record)
    for packed, run in zip(value.get("runs", ()), record.runs, strict=True):
        for one, seen in zip(packed["seen"], run.seen, strict=True):
            for name in TIMES:
                if name in one and one[name] is not None:
                    one[name] = round(one[name], 6)
            if "chunks_s" in one:
                del one["chunks_s"]
                one["chunk_gaps_us"] = gaps_of(seen.chunks_s)
    return value


def gaps_of(times_s: Sequence[float]) -> list[int]:
    """Times as whole microseconds, the first from zero, each other from the one before."""
    whole = [round(time * MICRO) for time in times_s]
    return [after - before for before, after in zip([0, *whole], whole, strict=False)]


def times_of(gaps_us: Any, where: str) -> list[float]:
    """The times that gaps make.

    Raises:
        ConfigError: they are no whole numbers, or go back in time.
    """
    at, found = 0, []
    for gap in gaps_us if isinstance(gaps_us, list) else [None]:
        if type(gap) is not int or not 0 <= gap <= 2**53:
            raise ConfigError(f"{where}.chunk_gaps_us holds what is no time.", hint="the record was damaged.")
        at += gap
        found.append(at / MICRO)
    return found


def _unpacked(value: Any, where: str) -> Any:
    """The record's JSON value with its times unpacked, where it has the form that times are packed in."""
    runs = value.get("runs") if isinstance(value, dict) else None
    for index, run in enumerate(runs if isinstance(runs, list) else ()):
        seen = run.get("seen") if isinstance(run, dict) else None
        for number, one in enumerate(seen if isinstance(seen, list) else ()):
            if isinstance(one, dict) and "chunk_gaps_us" in one:
                at = f"{where}: record.runs[{index}].seen[{number}]"
                one["chunks_s"] = times_of(one.pop("chunk_gaps_us"), at)
    return value


def _check(record: Record, source: Path) -> None:
    """Passes a record whose parts fit each other and whose numbers can be computed with.

    Raises:
        ConfigError: they don't.
    """
    if record.kind not in KINDS:
        raise _refused(source, f"is of kind {record.kind[:40]!r}; known are {', '.join(KINDS)}")
    metrics = [one.metric for one in record.objectives]
    if len(set(metrics)) < len(metrics) or any(one.limit_s <= 0 for one in record.objectives):
        raise _refused(source, "has an objective twice, or one without a positive limit")
    for name in metrics:
        if name not in METRICS:
            raise _refused(source, f"has an objective of {name[:40]!r}; known are {', '.join(METRICS)}")
    if record.price_per_hour is not None and record.price_per_hour < 0:
        raise _refused(source, f"has a price of {record.price_per_hour:g} an hour")
    machine = record.origin.machine
    if machine is not None and not is_complete(machine):
        raise _refused(source, "has limits of a machine that are unknown, missing or not positive")
    for step in record.steps:
        if not (0 < step.seconds.low <= step.seconds.value <= step.seconds.high and step.limit_s >= 0):
            raise _refused(source, "has a step whose seconds are not positive or not within their interval")
    for index, run in enumerate(record.runs):
        _check_run(run, f"run {index}", source)


def _check_run(run: LoadRun, where: str, source: Path) -> None:
    for name, ids in (("seen", [one.id for one in run.seen]), ("asked", [one.id for one in run.asked])):
        if len(set(ids)) < len(ids):
            raise _refused(source, f"has a request twice among {name} of {where}")
    if run.window.begin_s > run.window.end_s:
        raise _refused(source, f"has a window that ends before it begins in {where}")
    times: list[float | None] = [run.window.begin_s, run.window.end_s, run.duration_s, run.rate]
    for one in run.seen:
        times.extend((one.intended_s, one.sent_s, one.connect_s, one.headers_s, one.finish_s, one.end_s))
        times.extend((*one.chunks_s[-1:], one.retry_after_s))  # chunks ascend
    if any(time is not None and not -MAX_TIME_S <= time <= MAX_TIME_S for time in times):
        raise _refused(source, f"has a time beyond {MAX_TIME_S:g} s in {where}")


def _refused(source: Path, why: str) -> ConfigError:
    return ConfigError(f"{source} {why}.", param="record", hint="give a record that penstock bench wrote.")
