"""The document check: links and examples that work pass, broken ones are named; this project's own documents pass."""

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "check_docs.py"))


def test_documents_that_hold_pass(check: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "[a](LICENSE) [b](LICENSE#top) [c](https://x.invalid)\n\n```python\nx = 1\n```\n"
    )
    (tmp_path / "LICENSE").write_text("")
    assert check["main"](tmp_path) == 0


@pytest.mark.parametrize(
    ("text", "says"), [("[a](gone.md)", "gone.md"), ("```python\nx = = 1\n```\n", "does not parse")]
)
def test_faults_are_named(
    check: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    (tmp_path / "README.md").write_text(text)
    assert check["main"](tmp_path) == 1
    assert says in capsys.readouterr().out


def test_this_project_s_documents_hold(check: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert check["main"](ROOT) == 0, capsys.readouterr().out
