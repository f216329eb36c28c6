"""The sizes of a network to train.

Knows nothing about torch. Invariant: a shape that exists can be built: its heads divide what they must.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.core.errors import ConfigError
from penstock.train.tokenizer import MAX_VOCAB

MAX_SIZE = 65_536  # of any width or count: a training run on a workstation stays far below


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a network; `vocab_size` counts ids, the rest are widths, counts and the longest context."""

    vocab_size: int = 4096
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    ffn_size: int = 640
    context_tokens: int = 512
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built.

        Raises:
            ConfigError: a size is outside 1..MAX_SIZE, the heads do not divide the width into even heads, or the kv
                heads do not divide the heads.
        """
        sizes = (
            self.hidden_size,
            self.num_layers,
            self.num_heads,
            self.num_kv_heads,
            self.ffn_size,
            self.context_tokens,
        )
        if not all(1 <= size <= MAX_SIZE for size in sizes) or not 1 <= self.vocab_size <= MAX_VOCAB:
            raise ConfigError(f"{self} has a size outside 1..{MAX_SIZE}", hint="see examples/bundled_model.toml")
        if self.hidden_size % (2 * self.num_heads) or self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} with {self.num_heads} heads and {self.num_kv_heads} kv heads",
                hint="hidden_size must be an even multiple of the heads, and the heads a multiple of the kv heads",
            )

    @property
    def head_size(self) -> int:
        """The width of one head."""
        return self.hidden_size // self.num_heads
