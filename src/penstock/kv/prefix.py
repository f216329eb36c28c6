"""Which pages hold which tokens: page hashes and the index from a hash to pages.

Knows nothing about requests in flight or free memory. Invariant: an entry that is found has the tokens asked for;
equal hashes alone are never enough.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence

from penstock.core import Request

PageHash = Callable[[bytes], bytes]

# Where a writer's id would stand, in an entry whose pages are complete.
READY = -1


def sha256(data: bytes) -> bytes:
    """The SHA-256 digest."""
    return hashlib.sha256(data).digest()


class Entry:
    """One page of tokens after one prefix: its page in every KV group, or who is computing it.

    Attributes:
        key: hash of (parent, tokens, extra).
        parent: key of the page before, b"" for the first.
        tokens: the page's ids.
        extra: what else the keys and values depend on.
        pages: page of each group, -1 where there is none.
        writer: id of the sequence that computes it, READY when it is complete.
        alive: whether it is in the index.
    """

    __slots__ = ("alive", "extra", "key", "pages", "parent", "tokens", "writer")

    def __init__(self, key: bytes, parent: bytes, tokens: tuple[int, ...], extra: bytes, writer: int) -> None:
        self.key = key
        self.parent = parent
        self.tokens = tokens
        self.extra = extra
        self.pages: list[int] = []
        self.writer = writer
        self.alive = True

    @property
    def pending(self) -> bool:
        """Whether it is still being computed by a live sequence."""
        return self.alive and self.writer != READY


class PageHasher:
    """Hashes of full pages of a request; safe to use from any thread.

    Args:
        page_tokens: tokens of a page.
        model_identity: digest of the model.
        hash_page: bytes to digest; SHA-256 unless a test forces collisions.
    """

    def __init__(self, page_tokens: int, model_identity: str, hash_page: PageHash = sha256) -> None:
        self._page_tokens = page_tokens
        self._identity = model_identity.encode()
        self._hash = hash_page

    def extra(self, request: Request, index: int) -> bytes:
        """What page `index` depends on beside its tokens: model, adapter, salt, media; every field length-prefixed."""
        fields = [self._identity, (request.adapter or "").encode(), request.cache_salt.encode()]
        first = index * self._page_tokens
        for start, length, digest in request.media:
            if start < first + self._page_tokens and start + length > first:
                fields.append(f"{start - first} {length} {digest}".encode())
        return b"".join(len(field).to_bytes(4, "little") + field for field in fields)

    def key(self, parent: bytes, tokens: Sequence[int], extra: bytes) -> bytes:
        """The hash of one page."""
        return self._hash(parent + array("q", tokens).tobytes() + extra)

    def keys(self, request: Request) -> tuple[bytes, ...]:
        """Hashes of every full page of the prompt, each one chained to the one before."""
        size, tokens = self._page_tokens, request.prompt_tokens
        keys: list[bytes] = []
        parent = b""
        plain = None if request.media else self.extra(request, 0)
        for index in range(len(tokens) // size):
            extra = self.extra(request, index) if plain is None else plain
            parent = self.key(parent, tokens[index * size : (index + 1) * size], extra)
            keys.append(parent)
        return tuple(keys)


class PrefixIndex:
    """Entries by key."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: bytes, parent: bytes, tokens: tuple[int, ...], extra: bytes) -> Entry | None:
        """The entry of exactly these tokens after this parent; None where there is none or only the hash agrees."""
        entry = self._entries.get(key)
        if entry is None or entry.tokens != tokens or entry.parent != parent or entry.extra != extra:
            return None
        return entry

    def claim(self, key: bytes) -> bool:
        """Whether the key is free to be entered."""
        return key not in self._entries

    def enter(self, entry: Entry) -> None:
        """Adds an entry under a free key."""
        assert entry.key not in self._entries, "a key is entered twice"
        self._entries[entry.key] = entry

    def remove(self, entry: Entry) -> None:
        """Takes an entry out; whoever waits for it sees that it is dead."""
        del self._entries[entry.key]
        entry.alive = False

    def entries(self) -> tuple[Entry, ...]:
        """All of them, for checks."""
        return tuple(self._entries.values())
