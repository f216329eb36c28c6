"""The engine's choices, resolved: sizes in bytes and tokens, never in fractions.

Knows nothing about flags or files. Invariant: at most 24 fields; every one is honoured somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Choices of one engine.

    Attributes:
        max_model_tokens: longest prompt plus output of one sequence.
        max_step_tokens: ceiling of tokens a step; the real budget is time.
        max_running: sequences with a slot.
        max_waiting: queued requests before 429.
        max_waiting_tokens: queued prompt tokens before 429.
        page_tokens: tokens of a KV page.
        pages: pages of each KV group.
        prefix_cache: whether finished pages stay findable.
        step_target_s: prefill joins while the predicted step is ≤ max(step_target_s, step_slack × decode-only step).
            Where nobody decodes, the first prompt in rank may take three times as long.
        step_slack: see step_target_s.
        age_tokens_per_s: ageing of waiting prefill: a request's rank falls by this many tokens a second.
        max_preemptions: after this many a sequence runs fully reserved.
        depth: steps that may be planned but not committed (1 on a CPU, 2 on a GPU).
        model_identity: digest of the model's header or manifest; part of every page hash.
        step_log: path of a JSONL step log, or None.
        vocab_size: ids ≥ this are refused.
    """

    max_model_tokens: int
    vocab_size: int
    pages: tuple[int, ...]
    max_step_tokens: int = 2048
    max_running: int = 256
    max_waiting: int = 4096
    max_waiting_tokens: int = 16_777_216
    page_tokens: int = 32
    prefix_cache: bool = True
    step_target_s: float = 0.2
    step_slack: float = 2.0
    age_tokens_per_s: float = 256.0
    max_preemptions: int = 2
    depth: int = 1
    model_identity: str = ""
    step_log: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_model_tokens", "vocab_size", "max_step_tokens", "max_running", "max_waiting", "page_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.", param=name)
        if not self.pages or min(self.pages) < 1:
            raise ConfigError(f"pages is {self.pages}; every KV group needs at least one.", param="pages")
        if self.depth not in (1, 2):
            raise ConfigError(f"depth is {self.depth}; it must be 1 or 2.", param="depth")
