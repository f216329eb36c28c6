"""KV memory as integers: page pools, prefix index, page tables, and how many pages a machine gets."""

from penstock.kv.manager import KvManager, Match
from penstock.kv.prefix import PageHasher, PendingPage, PromptPages
from penstock.kv.size import DEFAULT_SEQUENCES, KvBudget, KvSize, human_bytes, size_kv

__all__ = [
    "DEFAULT_SEQUENCES",
    "KvBudget",
    "KvManager",
    "KvSize",
    "Match",
    "PageHasher",
    "PendingPage",
    "PromptPages",
    "human_bytes",
    "size_kv",
]
