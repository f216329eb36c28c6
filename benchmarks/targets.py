"""What the CPU engine was asked to reach and what the records at hand say that it did, as the table of docs/speed.md.

    python -m benchmarks.targets --page docs/speed.md

Knows nothing about how anything was measured. Invariant: every figure is a record's; a target whose record is not there
says so, and one that is missed says what was tried and, where nobody knows why, that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.pages import expect_table, fill
from benchmarks.peers.results import OURS, best, name_of, rates
from benchmarks.peers.served import LLAMA_SERVER, PENSTOCK
from benchmarks.random_checkpoint import SHAPE, tensors
from benchmarks.records import ROOT

from penstock.bench import MachineLimits, Record, Table, markdown, read_record
from penstock.bench.machine import DOT
from penstock.bench.stats import compare_rounds

RECORDS = ROOT / "benchmarks/records"
KV_BYTES = 64 * 2**20  # that benchmarks/load.py gives every load
HEAD = "model.embed_tokens.weight"
NONE = "–"
Row = dict[str, Any]


class Part(NamedTuple):
    """One figure beside what was asked of it."""

    said: str
    met: bool


class Line(NamedTuple):
    """One row: a missed one tells why."""

    what: str
    asked: str
    parts: Sequence[Part]
    why: str


class Asked(NamedTuple):
    """What was asked of one work with one format."""

    work: str
    format: str
    limit: float | None  # share of the machine's limit at least
    peak: float | None  # share of the int8 peak at least
    peer: float | None  # times the best peer at least
    why: str


UNKNOWN = "What is left to the limit has no profile yet: not known."
ALONE = (
    "Asking ahead ([0008](decisions/0008-weights-are-asked-for-ahead.md)), scales beside products and longer distances "
    f"([0010](decisions/0010-scales-beside-products.md)). {UNKNOWN}"
)
SEVERAL = (
    "Asking for the next span while rows compute ([0008](decisions/0008-weights-are-asked-for-ahead.md)), even passes, "
    "direct unpacking ([0010](decisions/0010-scales-beside-products.md)), attention in registers "
    "([0011](decisions/0011-attention-in-registers.md)). Warm, a block of 32 × 32 takes 22 cycles a row of the 20 that "
    "products and scales of groups of 32 need at least, 16 of them the products'; the peers' int4 has groups of 128. "
    "How the rest divides with cold weights is not known."
)
PROMPT = (
    "Chunks of rows and tiles ([0010](decisions/0010-scales-beside-products.md)), attention at 0.8 of the f32 peak "
    "([0011](decisions/0011-attention-in-registers.md)); scales of groups of 32 cost what "
    "[0008](decisions/0008-weights-are-asked-for-ahead.md) counts. What the peer does better is not known."
)
DEEP = (
    "Next tiles asked for by page: attention of many streams reads at 0.69 to 0.76 of one core's bandwidth "
    f"([0011](decisions/0011-attention-in-registers.md)); weights as with one stream. {UNKNOWN}"
)
SERVED = (
    "Prefill, see above: at the rate of one prompt of 512 the eight prompts of 256 tokens alone take nearly half of "
    "the time, and four times llama-server's rate leaves little more for everything. How the rest divides has no "
    "profile yet."
)
FLOATS = (
    "Asking for the next channels ([0008](decisions/0008-weights-are-asked-for-ahead.md)); each line once, fewer "
    "channels, and huge pages, which are worth most ([0010](decisions/0010-scales-beside-products.md)). "
    f"{UNKNOWN}"
)
VOCABULARY = (
    "What does not grow with the model is in it: interpreter and a vocabulary of 151,936 tokens "
    "([what the weights alone take](models.md#loading))."
)
SAMPLES = "Outlines of logits ([0007](decisions/0007-outlines-of-logits.md))."
BUSY = "Tiles are stolen, waiting yields early; what is left is not known."
LOOP = "Not known."
PRODUCTS = "As decoding of many streams."
CHANNELS = "No reader of files gives codes with one scale a channel yet: only their product is measured."
SAMPLED = ((("greedy", "top-k 64"), 2.0, "greedy or top-k ≤ 64"), (("unfiltered",), 8.0, "unfiltered"))
ASKED = (
    Asked("decode-1", "q8_0", 0.85, None, 1.4, ALONE),
    Asked("decode-1", "q4_0", 0.80, None, 1.6, ALONE),
    Asked("decode-1", "bf16", 0.85, None, None, FLOATS),
    Asked("prefill-512", "q4_0", None, 0.36, 2.0, PROMPT),
    Asked("prefill-512", "q8_0", None, 0.36, 2.0, PROMPT),
    Asked("prefill-2048", "q4_0", None, None, 2.0, PROMPT),
    Asked("prefill-2048", "q8_0", None, None, 2.0, PROMPT),
    Asked("decode-8", "q4_0", None, None, 2.0, SEVERAL),
    Asked("decode-8", "q8_0", None, None, 2.0, SEVERAL),
    Asked("decode-16", "q4_0", None, 0.30, 2.0, SEVERAL),
    Asked("decode-16", "q8_0", None, 0.30, 2.0, SEVERAL),
    Asked("decode-32", "q4_0", None, 0.35, None, SEVERAL),
    Asked("decode-32", "q8_0", None, 0.35, None, SEVERAL),
    Asked("depth-2048", "q4_0", 0.75, None, 2.0, DEEP),
)


def at_least(value: float, least: float, said: str) -> Part:
    """A figure that should be large."""
    return Part(said, value >= least)


def at_most(value: float, most: float, said: str) -> Part:
    """A figure that should be small."""
    return Part(said, value <= most)


def weights(head: bool) -> int:
    """Weights that a token is multiplied with: of the layers, and of the head."""
    matrices = [(name, shape) for name, _, shape in tensors(SHAPE) if len(shape) == 2]
    return sum(shape[0] * shape[1] for name, shape in matrices if head or name != HEAD)


def peer_lines(record: Record) -> Iterator[Line]:
    """In process, beside the peers of the same run."""
    units = record.figures["units"]
    for asked in ASKED:
        ours = find(units, asked)
        words = [f"≥ {asked.limit:.0%} of the limit"] if asked.limit else []
        words += [f"≥ {asked.peak:.0%} of the int8 peak"] if asked.peak else []
        words += [f"≥ {asked.peer} × the best peer"] if asked.peer else []
        parts = [] if ours is None else list(peer_parts(units, ours, asked, record.origin.machine))
        title = f"{ours['title'] if ours else asked.work}, {asked.format}"
        yield Line(title, ", ".join(words), parts, asked.why)
    pairs = [(find(units, asked), find(units, asked._replace(work="prefill-2048"))) for asked in ASKED[3:5]]
    parts = [at_least(kept(*pair), 0.6, f"{pair[0]['format']} {kept(*pair):.0%}") for pair in pairs if all(pair)]
    yield Line("prefill, 2,048 tokens", "≥ 60% of the rate at 512", parts, PROMPT)
    yield Line("prefill, 512 tokens, one scale a channel", "≥ 45% of the int8 peak", (), CHANNELS)


def find(units: Sequence[Row], asked: Asked) -> Row | None:
    """Our row of a work and format, where it was measured."""
    wanted = (OURS, asked.work, asked.format)
    return next((u for u in units if (u["peer"], u["work"], u["format"]) == wanted and "rate" in u), None)


def kept(short: Row, long: Row) -> float:
    """How much of the short prompt's rate the long one keeps."""
    return float(long["rate"]["value"] / short["rate"]["value"])


def peer_parts(units: Sequence[Row], ours: Row, asked: Asked, machine: MachineLimits | None) -> Iterator[Part]:
    """The figures of one work."""
    rate = ours["rate"]["value"]
    if asked.limit and "limit_rate" in ours:
        share = rate / ours["limit_rate"]
        yield at_least(share, asked.limit, f"{share:.0%} of {ours['bound']}")
    if asked.peak and machine is not None:
        share = 2 * weights(head=ours["what"] == "decode") * rate / machine.peak(DOT)
        yield at_least(share, asked.peak, f"{share:.0%} of the int8 peak")
    if asked.peer is None:
        return
    theirs = best(u for u in units if (u["work"], u["bits"]) == (ours["work"], ours["bits"]) and u["peer"] != OURS)
    if theirs is None:
        yield Part("no peer was measured", False)
        return
    times = ratio_of(rates(theirs), rates(ours))
    said = f"{times:.2f} × {name_of(theirs)}"
    if times < asked.peer and "limit_rate" in ours:
        said += f" (the limit itself is {ours['limit_rate'] / theirs['rate']['value']:.1f} ×)"
    yield at_least(times, asked.peer, said)


def ratio_of(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Ours over theirs, of the rounds that both have."""
    both = min(len(theirs), len(ours))
    return compare_rounds(theirs[:both], ours[:both]).ratio.value


def served_lines(record: Record) -> Iterator[Line]:
    """Over HTTP, beside llama-server."""
    by = {(row["work"], row["server"]): row for row in record.figures["served"]}
    loads = (
        ("served-8", "≥ 4 × llama-server, TTFT p50 ≤ a fifth", 4.0, 0.2),
        ("shared-prefix", "≥ 10 × llama-server", 10.0, None),
    )
    for work, asked, least, most in loads:
        ours, theirs = by.get((work, PENSTOCK)), by.get((work, LLAMA_SERVER))
        parts = []
        if ours and theirs:
            times = ratio_of(theirs["rounds"], ours["rounds"])
            parts.append(at_least(times, least, f"{times:.1f} ×"))
        if ours and theirs and most and "ttft_s_p50" in ours and "ttft_s_p50" in theirs:
            first = ours["ttft_s_p50"]["value"] / theirs["ttft_s_p50"]["value"]
            parts.append(at_most(first, most, f"TTFT p50 {first:.2f} of theirs"))
        yield Line(ours["title"] if ours else work, asked, parts, SERVED)
    many, few = by.get(("served-16", PENSTOCK)), by.get(("served-8", PENSTOCK))
    parts = []
    if many and few:
        times = many["rate"]["value"] / few["rate"]["value"]
        parts.append(at_least(times, 1.0, f"{times:.2f} × the tokens a second of 8"))
    yield Line("served, 16 clients", "no worse per token than 8", parts, SERVED)


def busy_lines(record: Record) -> Iterator[Line]:
    """Beside a process that keeps a core busy."""
    rows = [row for row in record.figures["servers"] if row["server"].startswith(PENSTOCK)]
    parts = [at_most(r, 2.2, f"{r:.2f} × ({name})") for row in rows for name, r in busy_ratios(row)]
    yield Line("one core kept busy by another process", "ITL ≤ 2.2 × the idle one", parts, BUSY)


def busy_ratios(row: Row) -> Iterator[tuple[str, float]]:
    """Busy over idle, of the mean and of the median gap."""
    for name in ("mean", "p50"):
        yield name, row[name]["ratio"]["value"]


def kernel_lines(record: Record) -> Iterator[Line]:
    """Products alone, and sampling."""
    shares = {row["kind"]: row["share_of_peak"] for row in record.figures["products"] if row["rows"] == 512}
    for kinds, least, asked in ((("Q4_0", "Q8_0"), 0.45, "groups of 32"), (("INT8",), 0.55, "one scale a channel")):
        parts = [at_least(shares[kind], least, f"{kind} {shares[kind]:.0%}") for kind in kinds if kind in shares]
        yield Line(f"product of 512 rows, {asked}", f"≥ {least:.0%} of the int8 peak", parts, PRODUCTS)
    times = {row["kind"]: 1e3 * row["seconds"]["value"] for row in record.figures["sampling"]}
    for kinds, most, asked in SAMPLED:
        parts = [sampling_part(times, kind, most) for kind in kinds]
        yield Line(f"sampling of 64 rows, {asked}", f"under {most:g} ms", parts, SAMPLES)


def sampling_part(times: dict[str, float], kind: str, most: float) -> Part:
    """Milliseconds of one kind of sampling, alone and more than its vocabulary pass: the longer counts."""
    if kind not in times or f"head, {kind}" not in times:
        return Part(f"{kind} was not measured", False)
    more = times[f"head, {kind}"] - times["head"]
    said = f"{kind}: {times[kind]:.2f} ms alone, {more:.2f} ms behind the vocabulary pass"
    return at_most(max(times[kind], more), most, said)


def loop_lines(record: Record) -> Iterator[Line]:
    """The control loop."""
    rows = {row["rows"]: row for row in record.figures["rows"] if row["figure"] == "alone"}
    for count, most in ((64, 300.0), (256, 1200.0)):
        found = rows[count]["total"]["median_us"] if count in rows else None
        parts = [] if found is None else [at_most(found, most, f"{found:,.0f} µs")]
        yield Line(f"control loop, {count} sequences", f"≤ {most:,.0f} µs", parts, LOOP)


def load_lines(record: Record) -> Iterator[Line]:
    """Memory and time of loading: the worst file of each size."""
    figures: dict[str, Row] = record.figures
    sizes = dict.fromkeys(name.split()[0] for name in figures)
    for size in sizes:
        files = [name.rpartition(" ")[0] for name in figures if name.startswith(f"{size} ") and name.endswith(" none")]
        times = {file: resident(figures, file) for file in files}
        parts = [at_most(value, 1.1, f"{file} {value:.2f} ×") for file, value in worst(times, max)]
        yield Line(f"memory after a load, {size}", "≤ 1.1 × packed weights and KV", parts, VOCABULARY)
        speeds = {file: figures[f"{file} none"]["bytes_per_s"] / 1e9 for file in files}
        parts = [at_least(value, 1.0, f"{file} {value:.2f} GB/s") for file, value in worst(speeds, min)]
        yield Line(f"load from the page cache, {size}", "≥ 1 GB/s", parts, VOCABULARY)
    warm = {name: load["load_s"] for name, load in figures.items() if name.endswith(" warm")}
    parts = [at_most(value, 1.0, f"{name.removesuffix(' warm')} {value:.2f} s") for name, value in worst(warm, max)]
    yield Line("load from the packed cache", "under 1 s", parts, VOCABULARY)


def resident(figures: dict[str, Row], file: str) -> float:
    """What a load without a pack cache holds, over what its packed weights and KV need; the peak in older records."""
    load = figures[f"{file} none"]
    held = load.get("resident_bytes", load["peak_bytes"])
    return float(held / (figures[f"{file} cold"]["packed_bytes"] + KV_BYTES))


def worst(values: dict[str, float], pick: Callable[..., str]) -> list[tuple[str, float]]:
    """The one that is furthest from its target, where there is any."""
    return [(name, values[name]) for name in ([pick(values, key=values.__getitem__)] if values else [])]


SOURCES: tuple[tuple[str, Callable[[Record], Iterator[Line]]], ...] = (
    ("peers", peer_lines),
    ("peers", served_lines),
    ("busy", busy_lines),
    ("kernels", kernel_lines),
    ("engine_loop", loop_lines),
    ("load", load_lines),
)


def lines_of(folder: Path) -> Iterator[tuple[Line, str]]:
    """Every line with the date of its record; of one that is not there, only that."""
    for name, make in SOURCES:
        path = folder / f"{name}.json"
        if not path.exists():
            yield Line(f"of {path.name}", "", (), "That record is not there."), NONE
            continue
        record = read_record(path)
        for line in make(record):
            yield line, f"{record.origin.date.removesuffix(' UTC')}, {record.origin.commit or 'unknown'}"


def verdict(parts: Sequence[Part]) -> str:
    """Whether all of a line's figures are what was asked."""
    if not parts:
        return "not measured"
    return "yes" if all(part.met for part in parts) else "**no**"


def table(folder: Path) -> tuple[Table, list[str]]:
    """All targets, and the notes that those name which are missed: what was tried, and why not."""
    cells = []
    notes: list[str] = []
    for line, measured in lines_of(folder):
        met, why = verdict(line.parts), NONE
        if met != "yes":
            notes += [line.why] * (line.why not in notes)
            why = f"note {notes.index(line.why) + 1}"
        said = "; ".join(part.said for part in line.parts) or NONE
        cells.append((line.what, line.asked, said, met, why, measured))
    head = ("work", "asked", "reached", "met", "what was tried, and why not", "record")
    count = sum(cell[3] == "yes" for cell in cells)
    return Table(f"{count} of {len(cells)} met", head, tuple(cells)), notes


def text_of(folder: Path) -> str:
    """The table and its notes in Markdown."""
    found, notes = table(folder)
    return markdown(found) + "".join(f"\n{number}. {note}" for number, note in enumerate(notes, 1)) + "\n"


def main() -> None:
    """Prints the table, or writes it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder")
    parser.add_argument("--page", type=Path, help="page whose table named targets is written anew")
    options = parser.parse_args()
    expect_table(options.page, "targets")
    text = text_of(options.records)
    if options.page is None:
        print(text)
    else:
        fill(options.page, "targets", text)


if __name__ == "__main__":
    main()
