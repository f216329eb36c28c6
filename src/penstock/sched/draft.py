"""A step in the making, as the parts of the planner hand it on.

Knows nothing about who fills it. Invariant: `left` and the three costs belong to exactly the rows in it.
"""

from __future__ import annotations

from penstock.core import Opened, PageCopy, Row
from penstock.sched.cost import StepFeatures


class Draft:
    """A step in the making.

    Attributes:
        step: its number.
        left: tokens that still fit under the ceiling.
        opened, rows, copies: as in a plan.
        prefill_tokens, decode_rows, kv_tokens: what it costs so far.
        forced: no prefill yet; the first prefill row gets a token whatever it costs.
        spare_s: seconds left for prefill.
        stretch_s: seconds beyond that for the first in rank, where nobody decodes.
    """

    __slots__ = (
        "copies",
        "decode_rows",
        "forced",
        "kv_tokens",
        "left",
        "opened",
        "prefill_tokens",
        "rows",
        "spare_s",
        "step",
        "stretch_s",
    )

    def __init__(self, step: int, left: int) -> None:
        self.step = step
        self.left = left
        self.opened: list[Opened] = []
        self.rows: list[Row] = []
        self.copies: list[PageCopy] = []
        self.prefill_tokens = 0
        self.decode_rows = 0
        self.kv_tokens = 0
        self.forced = True
        self.spare_s = 0.0
        self.stretch_s = 0.0

    @property
    def features(self) -> StepFeatures:
        """What its duration depends on."""
        return StepFeatures(self.prefill_tokens, self.decode_rows, self.kv_tokens)
