"""One spoiled model, opened as a server would: what came of it, and what it cost."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.assemble import LoadOptions, load, read_tokenizer
from penstock.core import ConfigError, ModelFileError, PenstockError
from penstock.model import inspect_checkpoint, open_checkpoint

ALLOWED_BYTES = 64 * 1024 * 1024
MAX_LINE = 4000
Open = Callable[[Path], None]


@dataclass(frozen=True)
class Outcome:
    """What came of one case.

    Attributes:
        kind: "opened", "refused", or what is wrong: "bug", "line", "memory".
        said: the refusal, or what is wrong.
        grown_bytes: peak of resident memory above what was resident before.
    """

    kind: str
    said: str = ""
    grown_bytes: int = 0

    @property
    def sound(self) -> bool:
        return self.kind in ("opened", "refused")


def open_model(path: Path) -> None:
    """Opens everything that a start reads, and encodes a text.

    Raises:
        ModelFileError: something is wrong with the files.
    """
    inspect_checkpoint(path)
    checkpoint = open_checkpoint(path)
    for ref in checkpoint.weights.tensors.values():
        if ref.load is not None:
            ref.load()
    tokenizer = read_tokenizer(checkpoint)
    try:
        tokenizer.encode("hello <s> wörld")
    except ModelFileError:
        raise
    except PenstockError as error:
        raise ModelFileError(f"{path}: {error}") from None


def start_model(path: Path) -> None:
    """Starts an engine on it, repacked weights and all, and ends it.

    Raises:
        ModelFileError: something is wrong with the files, or no such model fits the limits of the start.
    """
    limits = {"kv_bytes": 4_000_000, "threads": 1, "max_running": 2, "max_step_tokens": 64}
    try:
        load(LoadOptions(model=str(path), pack_cache=False, **limits)).close()
    except ConfigError as error:
        raise ModelFileError(f"{path}: {error}") from None


def write(files: dict[str, bytes], folder: Path) -> Path:
    """Puts a case on disk, alone in its folder, and returns the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return case_path(folder)


def case_path(folder: Path) -> Path:
    """What is opened of a folder."""
    return folder / "model.gguf" if (folder / "model.gguf").exists() else folder


def attempt(path: Path, opener: Open = open_model) -> Outcome:
    """Opens a model and judges what comes of it: one ModelFileError line that names a file, or success."""
    before = start_peak()
    try:
        opener(path)
        kind, said = "opened", ""
    except ModelFileError as error:
        kind, said = "refused", str(error)
    except MemoryError:
        kind, said = "memory", "MemoryError"
    except BaseException as error:  # a panic of a library is no Exception
        kind, said = "bug", f"{type(error).__module__}.{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt):
            raise
    grown = peak() - before
    if kind == "refused" and (fault := line_fault(said, path)):
        kind, said = "line", f"{fault}: {said}"
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
    if kind == "refused" and grown > ALLOWED_BYTES + size:
        kind, said = "memory", f"{grown:,} bytes for {size:,} on disk: {said}"
    return Outcome(kind, said[:MAX_LINE], grown)


def line_fault(said: str, path: Path) -> str | None:
    """What is wrong with a refusal, or None."""
    if not said.isprintable():
        return "not one printable line"
    if len(said) > MAX_LINE:
        return f"{len(said)} characters"
    if str(path) not in said and path.name not in said and path.stem not in said:
        return "names no file"
    return None


def start_peak() -> int:
    """Bytes resident now; the peak is counted from here."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return _status("VmRSS")


def peak() -> int:
    """The peak of resident bytes."""
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0
