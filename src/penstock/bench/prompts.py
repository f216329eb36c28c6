"""Makes prompts that are an exact number of tokens to the server, no two alike unless that is asked for.

Knows nothing about arrivals or HTTP. Invariant: a prompt's count is what a counter said of that very prompt, the chat
template and the model's beginning in it; a length that can't be met is refused, never approached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

import numpy as np

from penstock.bench.counters import TokenCounter
from penstock.bench.vocabulary import Pieces, learn_ids, learn_pieces
from penstock.core import ConfigError

CHUNK = 512  # pieces drawn at once: the beginning of a stream does not depend on how much of it is used
MAX_ROUNDS = 24
MAX_DRAWS = 64

Turn = dict[str, str]
Prompt = str | tuple[int, ...] | tuple[Turn, ...]


class PromptKind(str, Enum):
    """What a prompt is."""

    TEXT = "text"
    IDS = "ids"  # exact by construction, and cheap; for servers that take them
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a prompt.

    Attributes:
        key: names its text: parts of one key begin alike, in every prompt.
        tokens: its share of the prompt's length.
        role: who says it in a conversation; neighbours of one role are one message.
        fresh: whether its text may be drawn again, should the prompt have been made before.
    """

    key: tuple[int, ...]
    tokens: int
    role: str = "user"
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A prompt.

    Attributes:
        prompt: as an Ask has it.
        tokens: its length to the server.
    """

    prompt: Prompt
    tokens: int


class PromptMaker:
    """Makes prompts for one tokenizer.

    Args:
        counter: the tokenizer.
        kind: of the prompts.
        seed: of all text.

    Raises:
        ConfigError: the tokenizer can't write enough different texts.
    """

    def __init__(self, counter: TokenCounter, kind: PromptKind = PromptKind.TEXT, seed: int = 0) -> None:
        self.kind = kind
        self.counter = counter
        self.seed = seed
        self._ids = learn_ids(counter) if kind is PromptKind.IDS else ()
        self._pieces = Pieces({}, ()) if kind is PromptKind.IDS else learn_pieces(counter)
        self._around: dict[tuple[int, bool], int] = {}  # what goes around the text, found out with the first prompt
        self._seen: set[int] = set()
        self._draws: dict[tuple[int, ...], int] = {}  # by run and a fresh part's key, how often it was drawn
        self._num_runs = 0

    def new_run(self) -> int:
        """A number that no run before had; texts of different runs have nothing in common."""
        self._num_runs += 1
        return self._num_runs

    def make(self, parts: Sequence[Part], after: Made | None = None, run: int = 0) -> Made:
        """A prompt of exactly as many tokens as its parts are together, and those of what it goes on from.

        What the template and the model's beginning take is taken from the end of the last message.

        Args:
            parts: at least one; in a conversation the last is the user's.
            after: the prompt that it goes on from, to the letter.
            run: whose text a key names; the same key stands for another text in each run.

        Raises:
            ConfigError: there is no prompt of that length, or no more that weren't made before.
        """
        part = parts[-1]
        if not part.fresh:
            return self._made(parts, after, (run, 0))
        first = self._draws.get((run, *part.key), 0)
        for draw in range(first, first + MAX_DRAWS):
            self._draws[run, *part.key] = draw + 1
            made = self._made(parts, after, (run, draw))
            key = hash(made.prompt if self.kind is not PromptKind.CHAT else str(made.prompt))
            if key not in self._seen:
                self._seen.add(key)
                return made
        raise ConfigError(
            f"there are hardly any more different prompts of {sum(part.tokens for part in parts)} tokens.",
            param="prompt_tokens",
            hint="ask for longer prompts, or allow a number of distinct ones to be used again.",
        )

    @property
    def least_tokens(self) -> int:
        """The length of a prompt of one short word: none that is shorter can be made."""
        if self.kind is PromptKind.IDS:
            return 1
        word = self._pieces.text(self._pieces.few[:1], True)
        return self._count(word if self.kind is PromptKind.TEXT else ({"role": "user", "content": word},))

    def _made(self, parts: Sequence[Part], after: Made | None, drawn: tuple[int, int]) -> Made:
        total = sum(part.tokens for part in parts) + (after.tokens if after is not None else 0)
        run, draw = drawn
        streams = [self._stream(part, (run, draw if part.fresh else 0)) for part in parts]
        if self.kind is PromptKind.IDS:
            ids = [
                self._ids[at] for part, stream in zip(parts, streams, strict=True) for at in islice(stream, part.tokens)
            ]
            before = after.prompt if after is not None else ()
            assert isinstance(before, tuple)
            return Made((*before, *ids), total)
        if self.kind is PromptKind.TEXT:
            text = after.prompt if after is not None else ""
            assert isinstance(text, str)
            return self._fitted(
                Draft(list(zip(parts, streams, strict=True)), lambda more: text + more, 0, not text), total
            )
        return self._chat(parts, streams, after, total)

    def _chat(self, parts: Sequence[Part], streams: Sequence[Iterator[int]], after: Made | None, total: int) -> Made:
        """A conversation: all but the last message as they come, the last one fitted."""
        turns: list[Turn] = list(after.prompt) if after is not None else []  # type: ignore[arg-type]
        groups: list[tuple[str, list[tuple[Part, Iterator[int]]]]] = []
        for part, stream in zip(parts, streams, strict=True):
            if not groups or groups[-1][0] != part.role:
                groups.append((part.role, []))
            groups[-1][1].append((part, stream))
        for role, group in groups[:-1]:
            turns.append({"role": role, "content": self._pieces.text(self._drawn(group), True)})
        role, last = groups[-1]
        return self._fitted(
            Draft(last, lambda text: (*turns, {"role": role, "content": text}), len(turns) + 1, True), total
        )

    def _stream(self, part: Part, drawn: tuple[int, int]) -> Iterator[int]:
        """Endless places in the table of pieces (or of ids) that a part's text is made of."""
        size = len(self._ids) or len(self._pieces.drawn)
        rng = np.random.default_rng([self.seed, *drawn, *part.key])
        while True:
            yield from rng.integers(size, size=CHUNK).tolist()

    def _drawn(self, group: Sequence[tuple[Part, Iterator[int]]]) -> list[str]:
        """Pieces for each part until they cost what it is long."""
        found: list[str] = []
        for part, stream in group:
            left = part.tokens
            while left > 0:
                piece = self._pieces.drawn[next(stream)]
                if self._pieces.cost[piece] > left:
                    piece = self._pieces.filler(left, len(found))
                found.append(piece)
                left -= self._pieces.cost[piece]
        return found

    def _fitted(self, draft: Draft, total: int) -> Made:
        """The draft with as much of its last message as makes it `total` tokens."""
        pieces = self._drawn(draft.parts)
        gap = -self._around.get((draft.num_turns, draft.first), 0)
        for round in range(MAX_ROUNDS):
            self._change(draft, pieces, gap, round)
            if not pieces:
                pieces.append(self._pieces.few[round % len(self._pieces.few)])
            prompt = draft.build(self._pieces.text(pieces, draft.first))
            count = self._count(prompt)
            if count == total:
                asked = sum(part.tokens for part, _ in draft.parts)
                self._around[draft.num_turns, draft.first] = asked - sum(self._pieces.cost[piece] for piece in pieces)
                return Made(prompt, total)
            gap = total - count
        least = self._count(draft.build(self._pieces.text(self._pieces.few[:1], draft.first)))
        raise ConfigError(
            f"no prompt of exactly {total} tokens could be made; one of the shortest has {least}.",
            param="prompt_tokens",
            hint="ask for longer prompts: the chat template and the beginning take some tokens too.",
        )

    def _count(self, prompt: str | tuple[Turn, ...]) -> int:
        return self.counter.count(prompt)

    def _change(self, draft: Draft, pieces: list[str], gap: int, round: int) -> None:
        """Adds pieces worth `gap` tokens, or takes as many away; what was taken away comes back first."""
        cost = self._pieces.cost
        while gap < 0 and pieces:
            draft.spare.append(pieces.pop())
            gap += cost[draft.spare[-1]]
        if not pieces and gap <= 0:
            return
        while gap > 0:
            piece = draft.spare.pop() if draft.spare else self._pieces.drawn[next(draft.parts[-1][1])]
            if cost[piece] > gap or (round > 2 and gap == 1):
                draft.spare.append(piece)
                piece = self._pieces.filler(gap, round)
            pieces.append(piece)
            gap -= cost[piece]


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt whose last message is still to be fitted.

    Attributes:
        parts: of that message, with the streams of their pieces.
        build: the prompt with that text as its last message.
        num_turns: messages in it, 0 for a text.
        first: nothing stands before the message's text.
        spare: pieces that were taken away from its end, the last one first to come back.
    """

    parts: Sequence[tuple[Part, Iterator[int]]]
    build: Callable[[str], str | tuple[Turn, ...]]
    num_turns: int
    first: bool
    spare: list[str] = field(default_factory=list)
