"""The words between a run's parent and its client processes: plans, asks and results as JSON.

Knows nothing about processes. Invariant: what is read back equals what was written.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from penstock.bench.client import Endpoint, Route
from penstock.bench.health import Health, Lag, LagBounds
from penstock.bench.records import Ask, Counted, Outcome, Seen
from penstock.bench.runner import RunPlan, RunResult


def plain(thing: Any) -> dict[str, Any]:
    """The fields of a flat dataclass; enumerations of strings are strings to JSON."""
    return {item.name: getattr(thing, item.name) for item in fields(thing)}


def plan_to(plan: RunPlan) -> dict[str, Any]:
    """A plan as plain data, its key included: for a pipe, never for a file."""
    return plain(plan) | {
        "endpoint": plain(plan.endpoint) | {"body": dict(plan.endpoint.body)},
        "bounds": plain(plan.bounds),
    }


def plan_from(data: dict[str, Any]) -> RunPlan:
    """The plan that `plan_to` wrote."""
    endpoint = data["endpoint"]
    return RunPlan(
        **data
        | {
            "endpoint": Endpoint(**endpoint | {"route": Route(endpoint["route"])}),
            "bounds": LagBounds(**data["bounds"]),
        }
    )


def ask_from(data: dict[str, Any]) -> Ask:
    """The ask whose fields these are."""
    frozen = {name: tuple(data[name]) if isinstance(data[name], list) else data[name] for name in ("prompt", "said")}
    return Ask(**data | frozen)


def result_to(result: RunResult) -> dict[str, Any]:
    """A result as plain data."""
    health = plain(result.health)
    return {
        "seen": [plain(one) for one in result.seen],
        "health": health | {name: plain(health[name]) for name in ("send_lag", "loop_lag")},
        "invalid": list(result.invalid),
        "texts": list(result.texts.items()),
        "duration_s": result.duration_s,
        "interrupted": result.interrupted,
    }


def result_from(data: dict[str, Any]) -> RunResult:
    """The result that `result_to` wrote."""
    health = data["health"]
    return RunResult(
        seen=tuple(seen_from(one) for one in data["seen"]),
        health=Health(**health | {name: Lag(**health[name]) for name in ("send_lag", "loop_lag")}),
        invalid=tuple(data["invalid"]),
        texts=dict(data["texts"]),
        duration_s=data["duration_s"],
        interrupted=data["interrupted"],
    )


def seen_from(data: dict[str, Any]) -> Seen:
    """The Seen whose fields these are."""
    return Seen(**data | {"outcome": Outcome(data["outcome"]), "counted": Counted(data["counted"])})
