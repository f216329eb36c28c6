"""Checks the documents: every relative link leads to a file, and every Python example parses.

Knows nothing about what they say. Invariant: exits 0 when all hold and 1 when one does not, naming each place.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

FOLDERS = ("docs", "src", "benchmarks", "examples")
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
_EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def documents(root: Path) -> list[Path]:
    """Return the markdown files that belong to the project."""
    return sorted([*root.glob("*.md"), *(path for folder in FOLDERS for path in (root / folder).rglob("*.md"))])


def faults(path: Path) -> list[str]:
    """Return what is wrong in one document."""
    text = path.read_text(encoding="utf-8")
    found = [
        f"{path}: the link {target} leads nowhere"
        for target in _LINK.findall(text)
        if "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists()
    ]
    for example in _EXAMPLE.findall(text):
        try:
            ast.parse(example)
        except SyntaxError as error:
            found.append(f"{path}: a Python example does not parse: {error}")
    return found


def main(root: Path) -> int:
    """Print the faults of the documents under `root` and return the exit code."""
    paths = documents(root)
    found = [fault for path in paths for fault in faults(path)]
    print("\n".join([*found, f"{len(paths)} documents, {len(found)} faults"]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent))
