"""Checks the size budgets of `[tool.penstock.size]` in pyproject.toml and prints where the code stands against them.

Knows nothing about style or types. Invariant: exits 0 when every budget holds, else 1, naming each place.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PYTHON_FOLDERS = ("src", "tests", "scripts", "examples", "benchmarks")
FUNCTION_FOLDERS = ("src", "scripts", "examples", "benchmarks")
CPP_SUFFIXES = (".cc", ".h", ".inc")
CONFIG_CLASS = "EngineConfig"
COST_BACKEND_CLASS = "CostBackend"


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits, each in lines or fields."""

    max_file_lines: int
    max_kernel_lines: int
    max_function_lines: int
    p90_function_lines: int
    max_config_fields: int
    max_cost_backend_lines: int


@dataclass(frozen=True, slots=True)
class Measure:
    """One measured size: what it is of, how large, and its limit."""

    what: str
    size: int
    limit: int


def read_budget(root: Path) -> Budget:
    """Return the budget in pyproject.toml."""
    with (root / "pyproject.toml").open("rb") as stream:
        return Budget(**tomllib.load(stream)["tool"]["penstock"]["size"])


def count_lines(path: Path) -> int:
    """Return the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def python_files(root: Path, folders: tuple[str, ...]) -> list[Path]:
    """Return the Python files under `folders`, sorted."""
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the name and the length in lines, decorators left out, of every function in `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            yield node.name, node.end_lineno - node.lineno + 1


def fields_of(tree: ast.AST, name: str) -> int:
    """Return how many annotated fields the class `name` has in `tree`, 0 when it is not there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return sum(isinstance(item, ast.AnnAssign) for item in node.body)
    return 0


def percentile_90(sizes: list[int]) -> int:
    """Return the smallest size that at least nine tenths of `sizes` do not exceed."""
    return sorted(sizes)[max(0, -(-len(sizes) * 9 // 10) - 1)]


def measure(root: Path, budget: Budget) -> list[Measure]:
    """Return every measured size under `root`."""
    found: list[Measure] = []
    for path in python_files(root, PYTHON_FOLDERS):
        found.append(Measure(str(path.relative_to(root)), count_lines(path), budget.max_file_lines))
    for path in sorted((root / "native").rglob("*")):
        if path.suffix in CPP_SUFFIXES:
            found.append(Measure(str(path.relative_to(root)), count_lines(path), budget.max_kernel_lines))
    lengths: list[int] = []
    for path in python_files(root, FUNCTION_FOLDERS):
        place, tree = path.relative_to(root), ast.parse(path.read_text(encoding="utf-8"))
        for name, length in functions(tree):
            lengths.append(length)
            found.append(Measure(f"{place}: {name}()", length, budget.max_function_lines))
        if fields := fields_of(tree, CONFIG_CLASS):
            found.append(Measure(f"{place}: fields of {CONFIG_CLASS}", fields, budget.max_config_fields))
        if any(isinstance(node, ast.ClassDef) and node.name == COST_BACKEND_CLASS for node in ast.walk(tree)):
            found.append(Measure(f"{place}: {COST_BACKEND_CLASS}", count_lines(path), budget.max_cost_backend_lines))
    if lengths:
        found.append(Measure("90th percentile of functions", percentile_90(lengths), budget.p90_function_lines))
    return found


def report(found: list[Measure]) -> list[str]:
    """Return one line for each size over its limit, then a summary of the fullest of each kind."""
    over = [item for item in found if item.size > item.limit]
    lines = [f"over budget: {item.what} has {item.size}, the limit is {item.limit}" for item in over]
    files = [item for item in found if "(" not in item.what and " " not in item.what]
    for title, items in (
        ("longest file", files),
        ("longest function", [item for item in found if item.what.endswith("()")]),
        ("", [item for item in found if " " in item.what and not item.what.endswith("()")]),
    ):
        shown = items if not title else sorted(items, key=lambda item: item.size / item.limit)[-1:]
        lines += [f"{title + ': ' if title else ''}{item.what} {item.size}/{item.limit}" for item in shown]
    lines.append(f"{len(found)} sizes measured, {len(over)} over budget")
    return lines


def main(root: Path) -> int:
    """Print the report of `root` and return the exit code."""
    found = measure(root, read_budget(root))
    print("\n".join(report(found)))
    return int(any(item.size > item.limit for item in found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent))
