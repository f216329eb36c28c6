"""Reads lengths that were observed together: a prompt's and its answer's, row by row.

Knows nothing about times. Invariant: pairs stay pairs; every length is within bounds.

Format: CSV whose heading names the two columns in one of the known ways, others are passed over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from penstock.bench.lengths import Observed
from penstock.bench.trace_file import count_in, refuse, trace_lines
from penstock.core.limits import MAX_MODEL_TOKENS

COLUMNS: Final = (
    (b"prompt_tokens", b"output_tokens"),
    (b"num_prefill_tokens", b"num_decode_tokens"),  # microsoft/vidur
    (b"ContextTokens", b"GeneratedTokens"),  # Azure/AzurePublicDataset
    (b"input_toks", b"output_toks"),  # casys-kaist/LLMServingSim
)


def read_pairs(path: Path) -> Observed:
    """The pairs of lengths of a file; an answer of no token counts as one of one.

    Raises:
        ConfigError: the file can't be read, no columns are known, or a length is out of bounds; names the line.
    """
    lines = trace_lines(path)
    number, heading = next(lines, (1, b""))
    names = heading.removeprefix(b"\xef\xbb\xbf").split(b",")
    places = next(((names.index(one), names.index(two)) for one, two in COLUMNS if one in names and two in names), None)
    if places is None:
        known = "; ".join(f"{one.decode()}, {two.decode()}" for one, two in COLUMNS)
        refuse(path, number, f"names none of these columns: {known}")
    pairs: list[tuple[int, int]] = []
    for number, line in lines:
        cells = line.split(b",")
        try:
            prompt, output = (int(cells[place]) for place in places)
        except (ValueError, IndexError):
            refuse(path, number, "has no two counts in its columns")
        if not (count_in(prompt, 1, MAX_MODEL_TOKENS) and count_in(output, 0, MAX_MODEL_TOKENS)):
            refuse(path, number, f"has a length outside 1..{MAX_MODEL_TOKENS}")
        pairs.append((prompt, max(1, output)))
    if not pairs:
        refuse(path, number, "is the last one: there are no lengths")
    return Observed(pairs)
