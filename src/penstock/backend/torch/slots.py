"""What a backend keeps of its sequences between steps, and a plan read against it.

Knows nothing about tensors. Invariant: a plan that names what is not there is refused whole before anything is
computed, and the slots that it names can be released and opened again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock.core import FutureToken, KvGroup, Opened, Output, OutputKind, Row, StepPlan


@dataclass(slots=True)
class Slot:
    """One sequence: its parameters, tokens, page tables, and how often each token occurs.

    Attributes:
        opened: as introduced.
        tokens: prompt and output known so far.
        tables: pages of each KV group.
        counts: token → occurrences in the output, 0 where only in the prompt.
    """

    opened: Opened
    tokens: list[int]
    tables: tuple[list[int], ...]
    counts: dict[int, int] = field(default_factory=dict)
    num_counted: int = 0

    def put(self, position: int, token: int) -> None:
        """Makes `token` the one at `position`; what follows it is forgotten."""
        if position + 1 == len(self.tokens) and self.tokens[position] == token:
            return
        if position < self.num_counted:
            self.counts, self.num_counted = {}, 0
        del self.tokens[position:]
        self.tokens.append(token)

    def occurrences(self, drafts: Sequence[int] = ()) -> dict[int, int]:
        """The counts as of now, or as they will be when these drafts stand."""
        for at in range(self.num_counted, len(self.tokens)):
            token = self.tokens[at]
            self.counts[token] = self.counts.get(token, 0) + (at >= self.opened.num_prompt)
        self.num_counted = len(self.tokens)
        if not drafts:
            return self.counts
        found = dict(self.counts)
        for token in drafts:
            found[token] = found.get(token, 0) + 1
        return found


class Share(NamedTuple):
    """A row as it is computed: its ids are known, its pages are in the slot's table.

    `first` is the place of its first token in the step's batch.
    """

    slot: int
    start: int
    tokens: tuple[int, ...]
    num_drafts: int
    output: Output
    first: int

    @property
    def drafts(self) -> tuple[int, ...]:
        """The tokens to verify."""
        return self.tokens[len(self.tokens) - self.num_drafts :]


class Bounds(NamedTuple):
    """What a plan is checked against."""

    max_running: int
    max_step_tokens: int
    max_model_tokens: int
    page_tokens: int
    vocab: int


class Slots:
    """Every slot of a backend."""

    def __init__(self, groups: tuple[KvGroup, ...], bounds: Bounds) -> None:
        self._groups = groups
        self._bounds = bounds
        self._slots: dict[int, Slot] = {}
        self.pages: tuple[int, ...] = ()

    def __getitem__(self, slot: int) -> Slot:
        return self._slots[slot]

    def take(self, plan: StepPlan) -> list[Share]:
        """The plan's rows, once it has released, opened and extended what it names.

        Raises:
            ValueError: a slot, page, token or position is not there.
        """
        for slot in plan.released_slots:
            self._slots.pop(self._known(slot), None)
        for opened in plan.opened:
            self._open(opened)
        if sum(row.num_tokens for row in plan.rows) > self._bounds.max_step_tokens:
            raise ValueError(f"more tokens than max_step_tokens, {self._bounds.max_step_tokens}")
        if not self.pages:
            raise ValueError("no pages are allocated")
        shares: list[Share] = []
        for row in plan.rows:
            first = shares[-1].first + len(shares[-1].tokens) if shares else 0
            shares.append(self._take_row(row, first))
        if len({share.slot for share in shares}) != len(shares):
            raise ValueError("a slot has two rows in one step: the second is out of range")
        for copy in plan.copies:
            if not 0 <= copy.group < len(self._groups):
                raise ValueError(f"KV group {copy.group} is out of range")
            for page in (copy.source, copy.target):
                self.check_page(copy.group, page)
        return shares

    def check_page(self, group: int, page: int) -> None:
        """Passes when the page is there; ValueError."""
        if not 0 <= group < len(self._groups):
            raise ValueError(f"KV group {group} is out of range")
        if not 0 <= page < self.pages[group]:
            raise ValueError(f"page {page} is out of range; KV group {group} has {self.pages[group]}")

    def _known(self, slot: int) -> int:
        if not 0 <= slot < self._bounds.max_running:
            raise ValueError(f"slot {slot} is out of range; there are {self._bounds.max_running}")
        return slot

    def _known_token(self, token: int) -> int:
        if not 0 <= token < self._bounds.vocab:
            raise ValueError(f"token id {token} is out of range; the vocabulary has {self._bounds.vocab}")
        return token

    def _open(self, opened: Opened) -> None:
        if self._known(opened.slot) in self._slots:
            raise ValueError(f"slot {opened.slot} is open already")
        if not 0 <= opened.num_prompt <= len(opened.tokens):
            raise ValueError(f"num_prompt {opened.num_prompt} is out of range")
        for token in opened.tokens:
            self._known_token(token)
        for token, _ in opened.sampling.logit_bias:
            self._known_token(token)
        self._slots[opened.slot] = Slot(opened, list(opened.tokens), tuple([] for _ in self._groups))

    def _take_row(self, row: Row, first: int) -> Share:
        slot = self._slots.get(self._known(row.slot))
        if slot is None:
            raise ValueError(f"slot {row.slot} is not open")
        self._take_pages(row, slot)
        tokens = _ids(row, slot)
        if not 0 <= row.num_drafts < len(tokens):
            raise ValueError(f"num_drafts {row.num_drafts} is out of range")
        for at, token in enumerate(tokens):
            self._known_token(token)
            position = row.start + at
            if at < len(tokens) - row.num_drafts:
                if position > len(slot.tokens):
                    raise ValueError(f"a row skips positions: {position} is out of range")
                if position == len(slot.tokens) or slot.tokens[position] != token:
                    slot.put(position, token)
        share = Share(row.slot, row.start, tokens, row.num_drafts, row.output, first)
        _check_output(share, slot)
        return share

    def _take_pages(self, row: Row, slot: Slot) -> None:
        """Appends the row's pages: every one that it reads or writes must be there."""
        end, size = row.start + row.num_tokens, self._bounds.page_tokens
        if row.start < 0 or row.num_tokens < 1 or end > self._bounds.max_model_tokens:
            raise ValueError(f"positions [{row.start}, {end}) are out of range of max_model_tokens")
        if len(row.new_pages) != len(self._groups):
            raise ValueError(f"a row has pages for {len(row.new_pages)} KV groups of {len(self._groups)}")
        for group, (table, pages) in enumerate(zip(slot.tables, row.new_pages, strict=True)):
            for page in pages:
                if page != -1:
                    self.check_page(group, page)
            table.extend(pages)
            if end > len(table) * size:
                raise ValueError(f"position {end - 1} is beyond the slot's {len(table)} pages")
            window = self._groups[group].window
            first = 0 if window is None else max(0, row.start - window + 1)
            if min(table[first // size : -(-end // size)]) < 0:
                raise ValueError(f"a page that the row at position {row.start} reads was freed")


def _ids(row: Row, slot: Slot) -> tuple[int, ...]:
    """The row's ids; a future token is the slot's last sample."""
    if not isinstance(row.tokens, FutureToken):
        return row.tokens
    if row.tokens.slot != row.slot or row.start + 1 != len(slot.tokens):
        raise ValueError("a future token is not the slot's last sample: it is out of range")
    return (slot.tokens[row.start],)


def _check_output(share: Share, slot: Slot) -> None:
    output, end = share.output, share.start + len(share.tokens)
    if output.kind is OutputKind.POOL or output.kind not in tuple(OutputKind):
        raise ValueError("this backend has no output of that kind")
    if output.sample and end - share.num_drafts != len(slot.tokens):
        raise ValueError("a row samples before its last token")
    if output.kind is OutputKind.PROMPT_LOGPROBS:
        last = output.first + output.num
        if output.first <= share.start or min(output.num, output.k) < 0 or last > min(end + 1, len(slot.tokens)):
            raise ValueError(f"prompt logprobs of positions [{output.first}, {last}) are out of range")
