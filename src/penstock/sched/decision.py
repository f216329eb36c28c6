"""A chain hash over the plans of a run: equal hashes mean equal decisions.

Knows nothing about why a plan is as it is. Invariant: two different plans pack to different bytes.
"""

from __future__ import annotations

import hashlib
from array import array

from penstock.core import FutureToken, StepPlan

FUTURE = -1  # stands where a row's first token id would


def decision_hash(previous: bytes, plan: StepPlan) -> bytes:
    """SHA-256 of the previous hash and the plan.

    Slots are packed with the ids of the sequences that they were opened for, so rows name sequences by way of the
    chain. What a request asked (sampling, stops) is an input, not a decision, and is left out.
    """
    packed = array("q", (plan.step, len(plan.released_slots), *plan.released_slots, len(plan.opened)))
    for opened in plan.opened:
        packed.extend((opened.slot, opened.sequence, opened.sample, opened.num_prompt, len(opened.tokens)))
        packed.extend(opened.tokens)
    packed.append(len(plan.copies))
    for copy in plan.copies:
        packed.extend(copy)
    packed.append(len(plan.rows))
    for row in plan.rows:
        output = row.output
        packed.extend((row.slot, row.start, row.num_drafts, output.kind, output.first, output.num, output.k))
        packed.append(output.sample)
        packed.append(len(row.new_pages))
        for pages in row.new_pages:
            packed.append(len(pages))
            packed.extend(pages)
        if isinstance(row.tokens, FutureToken):
            packed.extend((FUTURE, row.tokens.slot, row.tokens.step))
        else:
            packed.append(len(row.tokens))
            packed.extend(row.tokens)
    return hashlib.sha256(previous + packed.tobytes()).digest()
