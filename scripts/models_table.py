"""Fills the tables of docs/models.md that tests prove from a run of those tests.

    PYTHONPATH=src python scripts/models_table.py            # writes docs/models.md
    PYTHONPATH=src python scripts/models_table.py --check    # says whether it would change

Knows nothing about models: what a row says is what a test of that name recorded or whether it passed. Invariant: a cell
without a passed test says so.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models.md"
FAMILIES = "tests/backend/test_families.py"
GGUF = "tests/model/test_gguf_families.py"
TEMPLATES = "tests/text/test_published_templates.py"
TOKENIZERS = "tests/text/test_gguf_vocab.py"
# A published template that shows a family's turns; families without one in the set are not listed.
SHOWN = {
    "llama": "meta-llama-Llama-3.1-8B-Instruct",
    "mistral": "mistralai-Mistral-Nemo-Instruct-2407",
    "ministral": "mistralai-Ministral-3-14B-Reasoning-2512",
    "qwen2": "Qwen-Qwen2.5-7B-Instruct",
    "qwen3": "Qwen-Qwen3-0.6B",
    "qwen3_moe": "Qwen-Qwen3-0.6B",
    "gemma2": "google-gemma-2-2b-it",
    "phi3": "microsoft-Phi-3.5-mini-instruct",
    "smollm3": "HuggingFaceTB-SmolLM3-3B",
}


class Outcome(NamedTuple):
    """One test: whether it passed, and what it recorded."""

    passed: bool
    recorded: dict[str, object]


class Collector:
    """A pytest plugin that keeps the outcome of every test by its id."""

    def __init__(self) -> None:
        """Starts empty."""
        self.outcomes: dict[str, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps what a test's call came to; one that was skipped or broke before it counts as not passed."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = Outcome(report.outcome == "passed", dict(report.user_properties))

    def of(self, file: str, test: str) -> Iterator[tuple[str, Outcome]]:
        """(parameter, outcome) of a parametrised test."""
        for name, outcome in self.outcomes.items():
            match = re.fullmatch(rf"{re.escape(file)}::{test}\[(.*)\]", name)
            if match:
                yield match[1], outcome


def run_tests() -> Collector:
    """The outcomes of the tests that the tables rest on.

    Raises:
        SystemExit: pytest could not run them.
    """
    collector = Collector()
    code = pytest.main(["-q", "-p", "no:cacheprovider", FAMILIES, GGUF, TEMPLATES, TOKENIZERS], plugins=[collector])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"pytest ended with {code}.")
    return collector


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mark(outcome: Outcome | None, text: Callable[[Outcome], str] = lambda outcome: "yes") -> str:
    """A cell: what `text` makes of a passed test, else that it is not shown."""
    if outcome is None:
        return "not shown"
    return text(outcome) if outcome.passed else "**no**"


def recorded(name: str, form: str) -> Callable[[Outcome], str]:
    """Shows a value that the test recorded."""
    return lambda outcome: form.format(outcome.recorded[name]) if name in outcome.recorded else "yes"


def families(found: Collector) -> str:
    """Entry × safetensors, GGUF, template."""
    exact = dict(found.of(FAMILIES, "test_families_agree_with_transformers"))
    ragged = dict(found.of(FAMILIES, "test_a_ragged_batch_with_a_prefix_hit_agrees"))
    gguf = dict(found.of(GGUF, "test_the_same_logits_and_tokens_as_from_safetensors"))
    brain = dict(found.of(GGUF, "test_the_same_in_bfloat16"))
    templates = dict(found.of(TEMPLATES, "test_every_conversation_renders_as_in_the_reference"))
    rows = []
    for name in sorted({*exact, *gguf}):
        shown = SHOWN.get(name.split()[0])
        rows.append(
            [
                f"`{name.split()[0]}`" + name[len(name.split()[0]) :],
                mark(exact.get(name), recorded("delta", "{:.1e}")),
                mark(exact.get(name), recorded("same_tokens", "{}")),
                mark(ragged.get(name)),
                mark(gguf.get(name), recorded("difference", "{}")),
                mark(gguf.get(name)),
                mark(brain.get(name)),
                mark(templates.get(shown)) if shown else "none published here",
            ]
        )
    head = ["family", "max Δ to transformers", "same greedy token", "ragged batch, prefix hit"]
    head += ["GGUF logits", "GGUF tokens equal (F32)", "GGUF tokens equal (BF16)", "template rendered"]
    return table(head, rows)


def templates(found: Collector) -> str:
    """Template × rendered as the reference does."""
    rows = [
        [name, mark(outcome)]
        for name, outcome in found.of(TEMPLATES, "test_every_conversation_renders_as_in_the_reference")
    ]
    return table(["template", "every conversation as the reference"], rows)


def tokenizers(found: Collector) -> str:
    """Published vocabulary × pairs."""
    rows = [
        [name, mark(outcome, recorded("pairs", "{}"))] for name, outcome in found.of(TOKENIZERS, "test_published_pairs")
    ]
    return table(["vocabulary", "pairs equal"], rows)


TABLES: dict[str, Callable[[Collector], str]] = {
    "families": families,
    "templates": templates,
    "tokenizers": tokenizers,
}


def fill(page: str, found: Collector) -> str:
    """The page with every marked table made anew.

    Raises:
        SystemExit: a mark is missing.
    """
    for name, make in TABLES.items():
        mark_of = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        filled = make(found)
        page, count = mark_of.subn(lambda match, filled=filled: match[1] + filled + "\n" + match[2], page)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{PAGE}: {count} places for the table {name}.")
    return page


def main() -> None:
    """Runs the tests, then writes or checks the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where the page would change")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    page = PAGE.read_text()
    filled = fill(page, run_tests())
    if arguments.check and filled != page:
        raise SystemExit(f"{PAGE} is not what the tests show; run scripts/models_table.py.")
    PAGE.write_text(filled)


if __name__ == "__main__":
    main()
