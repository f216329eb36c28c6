"""The command line as a process, plain or in a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

BUNDLED = Path(__file__).parents[2] / "src/penstock/models/bundled"
LIMIT_S = 60.0


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without anyone's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return {**kept, "XDG_CONFIG_HOME": "/nonexistent", "COLUMNS": "80", **changes}


def penstock(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """A finished `penstock` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
    )


def is_one_error(ran: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that it failed with, having printed nothing else."""
    lines = ran.stderr.splitlines()
    assert ran.returncode == code, ran.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), ran.stderr
    assert ran.stdout == ""
    return lines[0]


def talkative_model(folder: Path, context: int = 32768) -> Path:
    """The bundled model with a context so long that a greedy answer does not end by itself for seconds."""
    shutil.copytree(BUNDLED, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = context
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Terminal:
    """`penstock` on a terminal of its own; `screen` is everything that was shown."""

    def __init__(self, *arguments: str, columns: int = 80, **changes: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

        def own_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(TERM="xterm", **changes),
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(slave)
        self.screen = ""

    def type(self, text: str) -> None:
        """Types on the keyboard; \\x03 is Ctrl-C, \\x04 is Ctrl-D."""
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> str:
        """What came up to and with `text`, which is taken off the screen."""
        deadline = time.monotonic() + LIMIT_S
        while text not in self.screen:
            assert time.monotonic() < deadline and self._read(), f"{text!r} is not in {self.screen!r}"
        before, _, self.screen = self.screen.partition(text)
        return before + text

    def leave(self) -> int:
        """The exit code, once it has ended by itself."""
        while self._read():
            pass
        return self.process.wait(LIMIT_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], LIMIT_S)
        data = b""
        if ready:
            with contextlib.suppress(OSError):  # the other side was closed
                data = os.read(self._master, 65536)
        self.screen += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self._master)
