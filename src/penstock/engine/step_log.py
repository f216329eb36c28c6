"""The step log: what each step was given and what came of it, one JSON object a line, enough to run it all again.

Knows nothing about how steps are made. Invariant: a log holds token ids, never text: stop strings are left out (their
hits are recorded as inputs), salts and tenants are replaced by digests.

Line 1 is the header: version, EngineConfig, KV groups. Every other line is one turn of the loop: `now`, `inputs`
drained in order, `plan` (step number or null), `hash` (chain of decisions so far), `commit` (step, now, duration_s and
what every row sampled) or null.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from penstock.core import (
    ConfigError,
    EngineConfig,
    FinishReason,
    KvGroup,
    Request,
    RowResult,
    SamplingParams,
    StepResult,
)
from penstock.engine.inbox import Arrive, Cancel, Command, End
from penstock.engine.stream import EventStream

VERSION = 1
MAX_LINE_CHARS = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Commit:
    """The committed part of one turn."""

    now: float
    result: StepResult


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the loop, read back.

    Attributes:
        now: the clock at its start.
        inputs: drained in this order.
        step: number of the step planned in it, or None.
        decisions: the decision hash after it, hex.
        commit: what was committed in it, or None.
    """

    now: float
    inputs: tuple[Command, ...]
    step: int | None
    decisions: str
    commit: Commit | None


class StepLogWriter:
    """Appends turns; `write` only remembers, `flush` does the work, so that it can be done while a forward runs.

    Args:
        path: the file, replaced if it exists.
        config: the engine's.
        groups: the backend's KV groups.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: str, config: EngineConfig, groups: tuple[KvGroup, ...]) -> None:
        try:
            self._file = Path(path).open("w", encoding="ascii")  # noqa: SIM115 - lives as long as the engine
        except OSError as error:
            raise ConfigError(
                f"the step log {path} cannot be written: {error.strerror}.",
                param="step_log",
                hint="name a file in a folder that exists and may be written.",
            ) from None
        self._turns: list[dict[str, Any]] = []
        header = {"version": VERSION, "config": asdict(config), "groups": [asdict(group) for group in groups]}
        self._file.write(json.dumps(header) + "\n")

    def write(self, now: float, inputs: list[Command], step: int | None, decisions: bytes) -> None:
        """Remembers the first half of a turn."""
        self._turns.append(
            {"now": now, "inputs": inputs, "plan": step, "hash": decisions.hex(), "commit": None},
        )

    def commit(self, now: float, result: StepResult) -> None:
        """Remembers what the turn just written has committed."""
        self._turns[-1]["commit"] = (now, result)

    def flush(self, keep: int = 1) -> None:
        """Writes all turns but the last `keep`, whose commits may still come, to the file."""
        done = len(self._turns) - keep
        if done <= 0:
            return
        turns, self._turns = self._turns[:done], self._turns[done:]
        for turn in turns:
            turn["inputs"] = [_encode_command(command) for command in turn["inputs"]]
            if turn["commit"] is not None:
                turn["commit"] = _encode_commit(*turn["commit"])
            self._file.write(json.dumps(turn, separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Writes what is left and closes the file."""
        try:
            self.flush(keep=0)
        finally:
            self._file.close()


def _digest(secret: str) -> str:
    """Equal exactly when the secrets are; "" stays "", so that a log shows where there was none."""
    return hashlib.sha256(secret.encode()).hexdigest()[:32] if secret else ""


def _encode_request(request: Request) -> dict[str, Any]:
    silent = replace(
        request,
        sampling=replace(request.sampling, stop=()),
        tenant=_digest(request.tenant),
        cache_salt=_digest(request.cache_salt),
        detokenize=False,
    )
    return asdict(silent)


def _decode_request(fields: dict[str, Any]) -> Request:
    sampling = dict(fields["sampling"])
    for name in ("stop", "stop_token_ids"):
        sampling[name] = tuple(sampling[name])
    sampling["logit_bias"] = tuple((token, bias) for token, bias in sampling["logit_bias"])
    return Request(
        **{
            **fields,
            "prompt_tokens": tuple(fields["prompt_tokens"]),
            "eos_token_ids": tuple(fields["eos_token_ids"]),
            "media": tuple((start, num, digest) for start, num, digest in fields["media"]),
            "sampling": SamplingParams(**sampling),
        }
    )


def _encode_command(command: Command) -> dict[str, Any]:
    if isinstance(command, Arrive):
        return {"add": _encode_request(command.request)}
    if isinstance(command, Cancel):
        return {"cancel": command.request_id}
    return {"end": command.request_id, "sample": command.sample, "reason": command.reason.value}


def _decode_command(fields: dict[str, Any]) -> Command:
    if "add" in fields:
        request = _decode_request(fields["add"])
        return Arrive(request, EventStream(request), None)
    if "cancel" in fields:
        return Cancel(fields["cancel"])
    return End(fields["end"], fields["sample"], FinishReason(fields["reason"]))


def _encode_commit(now: float, result: StepResult) -> dict[str, Any]:
    rows = [[row.tokens, row.drafts, row.error] if row.drafts or row.error else row.tokens for row in result.rows]
    return {"step": result.step, "now": now, "duration_s": result.duration_s, "rows": rows}


def _decode_row(row: list[Any]) -> RowResult:
    if len(row) == 3 and isinstance(row[0], list):
        return RowResult(tokens=tuple(row[0]), drafts=tuple(row[1]), error=row[2])
    return RowResult(tokens=tuple(row))


def _decode_turn(fields: dict[str, Any]) -> Turn:
    commit = fields["commit"]
    if commit is not None:
        rows = tuple(_decode_row(row) for row in commit["rows"])
        commit = Commit(commit["now"], StepResult(commit["step"], rows, commit["duration_s"]))
    inputs = tuple(_decode_command(command) for command in fields["inputs"])
    return Turn(fields["now"], inputs, fields["plan"], fields["hash"], commit)


def read_step_log(path: str) -> tuple[EngineConfig, tuple[KvGroup, ...], Iterator[Turn]]:
    """The header's choices and KV groups, and the turns, read one at a time.

    Raises:
        ConfigError: the file is missing, not a step log, or of another version; on the way, for a line that is broken.
    """
    try:
        file = Path(path).open(encoding="ascii")  # noqa: SIM115 - closed by the iterator
    except OSError as error:
        raise ConfigError(f"the step log {path} cannot be read: {error.strerror}.", param="step_log") from None
    try:
        header = _parse(path, 1, file.readline(MAX_LINE_CHARS))
        if header.get("version") != VERSION:
            raise ConfigError(
                f"{path} has step log version {header.get('version')}.",
                param="step_log",
                hint=f"this program reads version {VERSION}.",
            )
        fields = header["config"]
        config = EngineConfig(**{**fields, "pages": tuple(fields["pages"]), "step_log": None})
        groups = tuple(KvGroup(**{**group, "layers": tuple(group["layers"])}) for group in header["groups"])
    except (KeyError, TypeError) as error:
        file.close()
        raise ConfigError(f"{path} line 1 is no step log header ({error}).", param="step_log") from None
    except ConfigError:
        file.close()
        raise

    def turns() -> Iterator[Turn]:
        with file:
            number = 1
            while line := file.readline(MAX_LINE_CHARS):
                number += 1
                try:
                    yield _decode_turn(_parse(path, number, line))
                except (KeyError, TypeError, ValueError) as error:
                    raise ConfigError(f"{path} line {number} is no turn ({error}).", param="step_log") from None

    return config, groups, turns()


def _parse(path: str, number: int, line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ConfigError(f"{path} line {number} is not a JSON object.", param="step_log")
    return parsed
