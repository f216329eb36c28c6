"""Which installed distributions the base install consists of, read from pyproject and from their own metadata."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def base_distributions(requirements: list[str] | None = None) -> dict[str, importlib.metadata.Distribution]:
    """The distributions that `pip install penstock` brings, by normalised name, without penstock itself."""
    if requirements is None:
        with (ROOT / "pyproject.toml").open("rb") as stream:
            requirements = tomllib.load(stream)["project"]["dependencies"]
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(Requirement(text), "") for text in requirements]
    done: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = requirement.name.lower().replace("_", "-")
        for wanted in ("", *requirement.extras):
            if (name, wanted) in done:
                continue
            done.add((name, wanted))
            found[name] = importlib.metadata.distribution(requirement.name)
            waiting += [(Requirement(text), wanted) for text in found[name].requires or []]
    return found


def installed_files(distribution: importlib.metadata.Distribution) -> list[Path]:
    """The files of a distribution that lie in site-packages, bytecode left out."""
    files = [file for file in distribution.files or [] if ".." not in file.parts and file.suffix != ".pyc"]
    return [path for path in (Path(str(distribution.locate_file(file))) for file in files) if path.is_file()]


def package_files() -> list[Path]:
    """The files of penstock itself, bytecode and other builds' leftovers left out."""
    return [path for path in (ROOT / "src" / "penstock").rglob("*") if path.is_file() and path.suffix != ".pyc"]
