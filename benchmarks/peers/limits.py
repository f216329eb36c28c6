"""What the machine's limits let any engine do at best: bytes and operations of our own account of the checkpoint.

Knows nothing about peers. Invariant: a limit is that of the format it is named for, whoever is compared with it, so
that two contenders of a class are shown against the same line.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.peers.works import Work

from penstock.bench import MachineLimits
from penstock.bench.work import Share
from penstock.bench.work import Work as Account
from penstock.formats import Storage
from penstock.model import Checkpoint, open_checkpoint


class Limits:
    """Limits by format.

    Args:
        folder: of the GGUF files.
        machine: its limits.
    """

    def __init__(self, folder: Path, machine: MachineLimits) -> None:
        self._folder, self._machine = folder, machine
        self._accounts: dict[str, Account | None] = {}

    def rate(self, format: str, work: Work) -> tuple[float, str] | None:
        """(tokens a second at most, what bounds them), or None where the format's file is not there."""
        if format not in self._accounts:
            self._accounts[format] = self._open(format)
        account = self._accounts[format]
        if account is None:
            return None
        if work.what == "prefill":
            shares = [Share(0, work.tokens)]
        else:
            shares = [Share(work.tokens + work.steps // 2, 1)] * work.streams
        seconds, bound = account.needs(shares).limit(self._machine)
        return sum(share.tokens for share in shares) / seconds, bound

    def _open(self, format: str) -> Account | None:
        path = self._folder / ("bf16.gguf" if format == "f32" else f"{format}.gguf")
        if not path.exists():
            return None
        checkpoint = open_checkpoint(path)
        weights = as_f32(checkpoint) if format == "f32" else checkpoint.weights
        return Account(checkpoint.spec, weights, "bf16")


def as_f32(checkpoint: Checkpoint):
    """The weight map as if all of it were stored in float32; its bytes are never read."""
    refs = checkpoint.weights.tensors.items()
    wide = {name: replace(ref, tensor=replace(ref.tensor, storage=Storage.F32)) for name, ref in refs}
    return replace(checkpoint.weights, tensors=wide)
