"""Tables in pages: what lies between the marks is replaced, nothing else, and a page without them is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.pages import expect_table, fill

from penstock.bench import read_origin

PAGE = "before\n<!-- table: a -->\nold\n<!-- end -->\nbetween\n<!-- table: b -->\n<!-- end -->\nafter\n"


def test_only_what_lies_between_the_marks_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    fill(page, "b", r"| \1 |", read_origin())
    text = page.read_text()
    assert text.startswith("before\n<!-- table: a -->\nold\n<!-- end -->\nbetween\n<!-- table: b -->\nMeasured ")
    assert text.endswith("\n\n| \\1 |\n<!-- end -->\nafter\n")
    fill(page, "a", "new")
    fill(page, "b", "")
    assert page.read_text() == PAGE.replace("old", "new").replace("b -->\n", "b -->\n\n")


@pytest.mark.parametrize("name", ["c", "a -->|<!-- table: b"])
def test_a_page_without_the_table_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    with pytest.raises(SystemExit, match="0 tables named"):
        fill(page, name, "new")
    with pytest.raises(SystemExit, match="0 tables named"):
        expect_table(page, name)
    assert page.read_text() == PAGE
    expect_table(page, "b")
    expect_table(None, name)
    with pytest.raises(SystemExit, match="0 tables"):
        fill(tmp_path / "none.md", "a", "new")
