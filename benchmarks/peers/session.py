"""The drivers of one run: opened when first asked, kept stopped in between, closed where memory is short.

Knows nothing about works. Invariant: at most one of them computes at any time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.checkpoints import Forms
from benchmarks.peers.child import Child, PeerFailed
from benchmarks.peers.environment import Peers
from benchmarks.peers.works import Contender

from penstock.backend.cpu import read_machine

LOAD_TIMEOUT_S = 600.0  # vLLM compiles the model when it is loaded first
KEPT_FREE_BYTES = 3 << 30
GROWTH = 2.5  # of a model's file in a process: repacked weights, keys and values, the library itself
PROBE = list(range(5_000, 21_000, 1_000))  # its answer shows whether contenders run the same model
PROBE_TOKENS = 8
WARM_UP = (
    {"do": "prefill", "tokens": 64, "seed": 0},
    {"do": "decode", "streams": 1, "depth": 32, "steps": 2, "seed": 0},
)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


class Session:
    """Children by contender.

    Args:
        peers: where their interpreters are.
        own: the interpreter of contenders that need no package.
        forms: what they read.
        room: streams and tokens that they are loaded for.
        threads: each may use.
        timeout_s: of one order.
    """

    def __init__(
        self, peers: Peers, own: Path, forms: Forms, room: dict[str, int], threads: int, timeout_s: float
    ) -> None:
        self._peers, self._own, self._forms = peers, own, forms
        self._room, self._threads, self._timeout_s = room, threads, timeout_s
        self._children: dict[str, Child] = {}  # least recently asked first
        self._refused: dict[str, str] = {}
        self.loaded: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, contender: Contender, order: dict[str, Any]) -> dict[str, Any]:
        """The answer of a contender's child, which is opened where it is not.

        Raises:
            PeerFailed: it can't be had, or failed.
        """
        child = self._children.pop(contender.name, None)
        if child is None or not child.alive:
            child = self._open_once(contender)
        self._children[contender.name] = child
        return child.ask(order, self._timeout_s)

    def close(self) -> None:
        """Ends all of them."""
        while self._children:
            self._children.popitem()[1].close()

    def _open_once(self, contender: Contender) -> Child:
        """An opened child; one that could not be opened is not tried again."""
        if (why := self._refused.get(contender.name)) is not None:
            raise PeerFailed(why)
        try:
            return self._open(contender)
        except PeerFailed as error:
            self._refused[contender.name] = str(error)
            raise

    def _open(self, contender: Contender) -> Child:
        if contender.package in self._peers.failed:
            raise PeerFailed(f"{contender.package} was not installed: {self._peers.failed[contender.package]}")
        if (why := self._forms.failed.get(self._forms.name(contender))) is not None:
            raise PeerFailed(why)
        path = self._forms.path(contender)
        self._make_place(int(size_of(path) * GROWTH) + KEPT_FREE_BYTES)
        python = self._own if contender.package is None else self._peers.python[contender.package]
        log = self._forms.folder / f"driver-{contender.name.replace(' ', '-')}.log"
        child = Child(python, contender.driver, self._threads, log)
        order = {"do": "load", "model": str(path), "format": contender.format, "threads": self._threads}
        try:
            said = child.ask(order | self._room | {"options": contender.options}, LOAD_TIMEOUT_S)
            first = child.ask({"do": "generate", "prompt": PROBE, "count": PROBE_TOKENS}, self._timeout_s)
            self.loaded[contender.name] = said | {"first_tokens": first["tokens"]}
            for each in WARM_UP:
                child.ask(each, self._timeout_s)
        except BaseException:
            child.close()
            raise
        return child

    def _make_place(self, needed: int) -> None:
        """Closes children, the least recently asked first, until so many bytes are free."""
        while self._children and read_machine().available_bytes < needed:
            name = next(iter(self._children))
            self._children.pop(name).close()


def quiet(name: str, say: Callable[[str], None]) -> None:
    """Warns where the machine is not idle: figures that are taken beside other programs mean little."""
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"warning: the load is {load:.1f} before {name}: is this machine idle?")
