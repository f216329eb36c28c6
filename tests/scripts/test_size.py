"""The size check: it passes a tree within budget, and each budget broken on its own is named."""

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = """
[tool.penstock.size]
max_file_lines = 20
max_kernel_lines = 30
max_function_lines = 10
p90_function_lines = 5
max_config_fields = 3
max_cost_backend_lines = 12
"""


@pytest.fixture(scope="module")
def size() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "size.py"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    for folder in ("src", "tests", "native"):
        (tmp_path / folder).mkdir()
    (tmp_path / "src" / "fine.py").write_text("def short():\n    return 1\n" * 8)
    (tmp_path / "src" / "config.py").write_text("class EngineConfig:\n    a: int\n    b: int\n    c: int\n")
    (tmp_path / "src" / "sim.py").write_text("class CostBackend:\n    pass\n")
    (tmp_path / "native" / "kernel.cc").write_text("int x;\n" * 30)
    return tmp_path


def test_a_tree_within_budget_passes(size: dict[str, Any], tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert size["main"](tree) == 0
    assert "0 over budget" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("src/long.py", "x = 1\n" * 21, "src/long.py has 21"),
        ("tests/test_long.py", "x = 1\n" * 21, "tests/test_long.py has 21"),
        ("native/kernel.inc", "int x;\n" * 31, "native/kernel.inc has 31"),
        ("src/f.py", "def wide():\n" + "    pass\n" * 10, "wide() has 11"),
        ("src/g.py", "class A:\n    async def wide(self):\n" + "        pass\n" * 10, "wide() has 11"),
        (
            "src/p.py",
            "".join(f"def f{n}():\n" + "    pass\n" * 5 + "\n" for n in range(2)),
            "percentile of functions has 6",
        ),
        (
            "src/config.py",
            "class EngineConfig:\n" + "".join(f"    f{n}: int = 0\n" for n in range(4)),
            "EngineConfig has 4",
        ),
        ("src/sim.py", "class CostBackend:\n    pass\n" + "x = 1\n" * 11, "CostBackend has 13"),
    ],
)
def test_each_budget_is_held(
    size: dict[str, Any], tree: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, says: str
) -> None:
    (tree / file).write_text(text)
    assert size["main"](tree) == 1
    assert says in capsys.readouterr().out


def test_the_percentile_is_the_nearest_rank(size: dict[str, Any]) -> None:
    assert size["percentile_90"](list(range(1, 11))) == 9
    assert size["percentile_90"]([7]) == 7


def test_this_project_is_within_its_budgets(size: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert size["main"](ROOT) == 0, capsys.readouterr().out
