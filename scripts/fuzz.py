"""Opens spoiled model files for hours, in watched processes, and keeps every case that is not refused as it should be.

    python scripts/fuzz.py --hours 8 --workers 2 --findings fuzz-findings
    python scripts/fuzz.py --seed 975            # one case again, with its files kept
    python scripts/fuzz.py --planted "wrong error" --cases 5   # a known fault: the harness must find it

A case is made from its seed alone (tests/fuzz/mutations.py). Every case must be opened, or refused in one
ModelFileError line that names a file, within 20 s, with no more than 64 MB of memory above the files' size, printing
nothing else.
Exit code: 0 nothing found, 1 something was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "src")]

from tests.fuzz.arena import Worker, run_all  # noqa: E402
from tests.fuzz.bombs import BOMBS  # noqa: E402
from tests.fuzz.mutations import case  # noqa: E402
from tests.fuzz.opening import Outcome, open_model, start_model, write  # noqa: E402
from tests.fuzz.planted import PLANTED  # noqa: E402
from tests.fuzz.vocabulary_bombs import VOCABULARY_BOMBS, open_vocabulary  # noqa: E402

REPORT_EVERY = 2000  # cases


def main() -> int:
    """Runs and says what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=0.1)
    parser.add_argument("--cases", type=int, default=2**62, help="stop after that many")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--first", type=int, default=time.time_ns() // 10**6, help="first seed; the time if left out")
    parser.add_argument("--seed", type=int, help="run this one case")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--bombs", action="store_true", help="only the files made to cost the most memory")
    parser.add_argument("--start", action="store_true", help="start an engine on what can be opened")
    parser.add_argument("--planted", choices=PLANTED, help="open with a known fault")
    options = parser.parse_args()
    if options.bombs:
        return bombs(options.findings)
    if options.seed is not None:
        options.first, options.cases, options.workers = options.seed, 1, 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: no process is left behind
    found = Findings(options.findings)
    for number, (seed, outcome) in enumerate(outcomes(options)):
        found.add(seed, outcome)
        if options.seed is not None:
            print(f"{seed}: {outcome.kind}: {outcome.said}")
            print(write(case(seed), options.findings / f"case-{seed}"))
        elif number % REPORT_EVERY == REPORT_EVERY - 1:
            print(found, flush=True)
    print(found)
    return 1 if found.kept else 0


def bombs(folder: Path) -> int:
    """Opens every file of tests/fuzz/bombs.py and tests/fuzz/vocabulary_bombs.py; the exit code."""
    faults = 0
    for table, opener in ((BOMBS, open_model), (VOCABULARY_BOMBS, open_vocabulary)):
        names, makers = list(table), list(table.values())
        worker = Worker(folder / "running", lambda at, makers=makers: makers[at](), opener, apart=True)  # type: ignore[misc]
        for at, outcome in run_all(range(len(names)), worker, hang_s=60):
            faults += outcome.kind != "refused"
            print(
                f"{outcome.kind:8} {outcome.grown_bytes / 1e6:6.1f} MB  {names[at]}: {outcome.said[:160]}", flush=True
            )
    return 1 if faults else 0


class Findings:
    """Counts, and the first case of every kind of fault on disk."""

    def __init__(self, folder: Path) -> None:
        """Nothing yet."""
        self.kinds: Counter[str] = Counter()
        self.refusals: set[str] = set()
        self.kept: dict[str, int] = {}
        self.grown_bytes = 0
        self._folder = folder
        self._started = time.monotonic()

    def add(self, seed: int, outcome: Outcome) -> None:
        """Counts an outcome; a fault that is new is written down."""
        self.kinds[outcome.kind] += 1
        alike = re.sub(r"\d+|'[^']*'|case-?\S*", "N", outcome.said.rsplit("/", 1)[-1])[:100]
        if outcome.sound:
            self.refusals.add(alike)
            if outcome.kind == "refused":
                self.grown_bytes = max(self.grown_bytes, outcome.grown_bytes)
            return
        if f"{outcome.kind}: {alike}" not in self.kept:
            self.kept[f"{outcome.kind}: {alike}"] = seed
            write(case(seed), self._folder / f"case-{seed}")
            (self._folder / f"case-{seed}.json").write_text(json.dumps({"kind": outcome.kind, "said": outcome.said}))
            print(f"{seed}: {outcome.kind}: {outcome.said[:500]}", flush=True)

    def __str__(self) -> str:
        hours = (time.monotonic() - self._started) / 3600
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common())
        return (
            f"{hours:.2f} h: {kinds}; {len(self.refusals)} ways to refuse, {self.grown_bytes:,} bytes for one at most; "
            f"{len(self.kept)} kinds of fault"
        )


def outcomes(options: argparse.Namespace) -> Iterator[tuple[int, Outcome]]:
    """(seed, outcome) of every worker's cases, until the time or the cases are used up."""
    results: multiprocessing.Queue[tuple[int, Outcome]] = multiprocessing.Queue(1000)
    runners = [multiprocessing.Process(target=run, args=(options, at, results)) for at in range(options.workers)]
    for runner in runners:
        runner.start()
    try:
        while any(runner.is_alive() for runner in runners) or not results.empty():
            try:
                yield results.get(timeout=1.0)
            except Empty:
                continue
    except KeyboardInterrupt:
        return
    finally:
        for runner in runners:
            runner.terminate()
            runner.join()


def _ends_by_default() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run(options: argparse.Namespace, at: int, results: multiprocessing.Queue[tuple[int, Outcome]]) -> None:
    """One worker's share: every `workers`-th seed."""
    _ends_by_default()
    deadline = time.monotonic() + options.hours * 3600
    opener = PLANTED[options.planted][0] if options.planted else start_model if options.start else open_model
    seeds = range(options.first + at, min(options.first + options.cases, 2**63), options.workers)
    for each in run_all(seeds, Worker(options.findings / f"running-{at}", case, opener)):
        results.put(each)
        if time.monotonic() > deadline:
            return


if __name__ == "__main__":
    sys.exit(main())
