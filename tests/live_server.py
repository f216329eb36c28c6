"""A real `penstock serve` process on a free port, for tests that must see the whole thing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 60.0


class LiveServer:
    """Starts on entry, ends on exit; `url` and `name` once it is ready, `lines` is everything said on stderr."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.command = [sys.executable, "-m", "penstock", "serve", *arguments, "--port", "0"]
        self.env = {**os.environ, "XDG_CACHE_HOME": str(ROOT / "build/test-cache"), **(env or {})}
        self.lines: list[str] = []
        self.url = ""
        self._ready = threading.Event()

    def __enter__(self) -> LiveServer:
        self.process = subprocess.Popen(
            self.command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_LIMIT_S) or not self.url:
            self.__exit__(None, None, None)
            raise AssertionError("the server did not start:\n" + "\n".join(self.lines))
        return self

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            match = re.search(r"ready in [\d.]+ s on (http://\S+)", line)
            if match:
                self.url = match[1]
                self._ready.set()
        self._ready.set()

    def stop(self, signal_number: int = signal.SIGTERM, limit_s: float = 40.0) -> int:
        """The exit code after that signal."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        code = self.process.wait(limit_s)
        self._reader.join(5)
        return code

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
