"""What a rounded KV costs in quality: the distribution after every token of a text, against that of an f32 KV.

Windows of the text, evenly spread, go through the serving backend with each KV type; only the KV differs. The figures
are no timings: the same model, text and tier give the same numbers on any machine, busy or idle.

    make bench-kv
    python benchmarks/kv_quality.py --text book.txt --text articles.jsonl.bz2 --model owner/name --context 4096
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from forced import PIECE, Logprobs, Reader, expect_texts, read_text
from pages import expect_table, fill
from records import ROOT, write_record

from penstock.assemble import find_model, read_tokenizer
from penstock.model import KV_COSTS, open_checkpoint

EXACT = "f32"
CORPUS = ROOT.parent / "shared/data/corpus"
TEXTS = (CORPUS / "classic_books_valid.jsonl.bz2", CORPUS / "wikitext2_valid.txt.gz")


@dataclass
class Tally:
    """Figures of one KV type over all positions so far."""

    losses: list[float] = field(default_factory=list)  # nats of the next token
    divergences: list[float] = field(default_factory=list)  # KL(f32 KV ‖ this) in nats
    same: int = 0  # positions with the f32 KV's most likely token

    def add(self, exact: Logprobs, found: Logprobs, following: npt.NDArray[np.int64]) -> None:
        """Counts a piece; `following` has the token after each position, one less at the window's end."""
        self.losses.extend(-found[np.arange(len(following)), following])
        self.divergences.extend((np.exp(exact) * (exact - found)).sum(-1))
        self.same += int((exact.argmax(-1) == found.argmax(-1)).sum())

    def figures(self, exact: Tally) -> dict[str, float]:
        """Means, their standard errors (of the paired difference for the loss) and the worst."""
        divergences = np.array(self.divergences)
        more = np.array(self.losses) - np.array(exact.losses)
        return {
            "positions": len(divergences),
            "loss": float(np.mean(self.losses)),
            "perplexity": math.exp(float(np.mean(self.losses))),
            "loss_difference": float(more.mean()),
            "loss_difference_error": float(more.std() / math.sqrt(len(more))),
            "kl_mean": float(divergences.mean()),
            "kl_p99": float(np.quantile(divergences, 0.99)),
            "kl_max": float(divergences.max()),
            "same_top_token": self.same / len(divergences),
        }


def spread(tokens: tuple[int, ...], count: int, size: int) -> list[tuple[int, ...]]:
    """`count` windows of `size` tokens, evenly spread, as far as the text reaches."""
    count = min(count, len(tokens) // size)
    if count < 1:
        raise SystemExit(f"the text has {len(tokens):,} tokens; one window has {size:,}")
    return [tokens[at : at + size] for at in np.linspace(0, len(tokens) - size, count).astype(int)]


def compare(readers: dict[str, Reader], windows: list[tuple[int, ...]]) -> dict[str, dict[str, float]]:
    """Figures of every KV type over the windows."""
    tallies = {kv_type: Tally() for kv_type in readers}
    for window in windows:
        following = np.array(window[1:], np.int64)
        streams = [reader.read(window) for reader in readers.values()]
        for index, pieces in enumerate(zip(*streams, strict=True)):
            after = following[index * PIECE : (index + 1) * PIECE]
            for tally, piece in zip(tallies.values(), pieces, strict=True):
                tally.add(pieces[0], piece, after)
    return {kv_type: tally.figures(tallies[EXACT]) for kv_type, tally in tallies.items()}


def table(costs: dict[str, int], figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """A Markdown table, a row for each text and KV type."""
    heads = (
        "text",
        "KV",
        "bytes a token",
        "perplexity",
        "loss more than f32's (nats)",
        "KL mean",
        "KL 99 %",
        "KL worst",
    )
    lines = [f"| {' | '.join((*heads, 'same top token'))} |", "|---" * (len(heads) + 1) + "|"]
    for text, kinds in figures.items():
        for kv_type, f in kinds.items():
            more = f"{f['loss_difference']:+.6f} ± {f['loss_difference_error']:.6f}"
            rounded = f"{more} | {f['kl_mean']:.2e} | {f['kl_p99']:.2e} | {f['kl_max']:.2e} | {f['same_top_token']:.2%}"
            rest = "| | | | " if kv_type == EXACT else rounded
            lines.append(f"| {text} | {kv_type} | {costs[kv_type]:,} | {f['perplexity']:.4f} | {rest} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text", action="append", type=Path, help="text or .jsonl file, maybe .gz or .bz2; more than once"
    )
    parser.add_argument("--model", default=None, help="as for `penstock run`; the bundled model if left out")
    parser.add_argument("--windows", type=int, default=64, help="windows of each text")
    parser.add_argument("--context", type=int, default=None, help="tokens of a window; the model's, at most 2,048")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", default=None, help="write a record there")
    parser.add_argument("--page", type=Path, help="page whose table named kv is written anew")
    args = parser.parse_args()
    texts = args.text or TEXTS
    expect_texts(texts)
    expect_table(args.page, "kv")
    checkpoint = open_checkpoint(find_model(args.model))
    tokenizer = read_tokenizer(checkpoint)
    context = args.context or min(checkpoint.spec.max_tokens, 2048)
    readers = {kv_type: Reader(checkpoint, kv_type, context, args.threads) for kv_type in KV_COSTS}
    first = tokenizer.encode("")  # what the model's texts begin with
    figures = {}
    for path in texts:
        tokens = tokenizer.encode(read_text(path), add_special_tokens=False)
        windows = [first + window for window in spread(tokens, args.windows, context - len(first))]
        figures[path.name.split(".")[0]] = compare(readers, windows)
    costs = {
        kv_type: sum(cost.bytes_per_token(layer.attention) for layer in checkpoint.spec.layers)
        for kv_type, cost in KV_COSTS.items()
    }
    text = table(costs, figures)
    print(text)
    choices = {"model": checkpoint.name, "tier": readers[EXACT].tier, "windows": args.windows, "context": context}
    record = write_record(args.json, "kv_quality", figures, bytes_a_token=costs, **choices)
    if args.page is not None:
        said = f"{checkpoint.name}, {args.windows} windows of {context} tokens of each text."
        fill(args.page, "kv", f"{said}\n\n{text}", record.origin)


if __name__ == "__main__":
    main()
