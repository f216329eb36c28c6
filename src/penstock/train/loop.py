"""The training loop: AdamW under a time or step budget, resumable to the bit.

Knows nothing about text, tokenizers or the exported layout. Invariant: a run that stops after a checkpoint and resumes
takes the same steps, on the same rows and with the same losses, as one that never stopped (under a step budget; a time
budget decides the learning rate from the seconds spent, which no two runs share).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from penstock.core.errors import ConfigError
from penstock.train.batches import BatchSource
from penstock.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from penstock.train.network import Network
from penstock.train.recipe import Optimization


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to train, in minutes or in steps, and after how many steps to save and to evaluate."""

    minutes: float = 0.0
    max_steps: int = 0
    save_every: int = 100
    evaluate_every: int = 250

    def __post_init__(self) -> None:
        """Refuse what is not exactly one budget.

        Raises:
            ConfigError: both or neither of `minutes` and `max_steps` are above zero, or an interval is below one.
        """
        if (self.minutes > 0) == (self.max_steps > 0):
            raise ConfigError(
                f"minutes {self.minutes} and max_steps {self.max_steps}: a run has one budget",
                hint="give minutes or max_steps, not both",
            )
        if self.save_every < 1 or self.evaluate_every < 1:
            raise ConfigError(f"intervals {self.save_every}, {self.evaluate_every} are below 1", hint="give steps")

    def spent_share(self, progress: Progress) -> float:
        """Return the share of the budget that is spent, 0 to 1."""
        share = progress.step / self.max_steps if self.max_steps else progress.spent_s / (60 * self.minutes)
        return min(1.0, share)


def learning_rate(optimization: Optimization, budget: Budget, progress: Progress) -> float:
    """Return the learning rate of the next step: linear warm-up, constant, linear decay to zero at the budget's end."""
    left = (1.0 - budget.spent_share(progress)) / optimization.decay_share
    return optimization.learning_rate * min(1.0, (progress.step + 1) / optimization.warmup_steps, left)


def make_optimizer(network: Network, optimization: Optimization) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101) that decays matrices and leaves norm scales alone."""
    matrices = [weight for weight in network.weights.values() if weight.dim() >= 2]
    scales = [weight for weight in network.weights.values() if weight.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": optimization.weight_decay},
        {"params": scales, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optimization.learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)


def multiplies_bf16_fast() -> bool:
    """Return whether bf16 autocast pays here: on a GPU, and on CPUs with bf16 instructions; elsewhere it is slower."""
    return bool(torch.cuda.is_available() or torch.cpu.get_capabilities().get("avx512_bf16", False))


@dataclass(frozen=True, slots=True)
class Record:
    """What one step or one evaluation says: its kind, the steps finished, and numbers that go into the log."""

    kind: str
    step: int
    values: dict[str, float]


class Trainer:
    """A network, its optimizer and the rows it learns from, in one run folder."""

    def __init__(self, network: Network, source: BatchSource, optimization: Optimization, run: Path) -> None:
        """Start in `run`, or take up the checkpoint that lies there."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)
        self.optimizer = make_optimizer(self.network, optimization)
        self.progress = Progress()
        self._source, self._optimization, self._run = source, optimization, run
        self._autocast = multiplies_bf16_fast()
        self._checkpoint_path = run / "checkpoint.safetensors"
        run.mkdir(parents=True, exist_ok=True)
        if self._checkpoint_path.exists():
            self.progress = load_checkpoint(self._checkpoint_path, self.network, self.optimizer)

    def step(self, budget: Budget) -> Record:
        """Take one optimizer step.

        Raises:
            ConfigError: the loss is not a number; the checkpoint on disk is from before that.
        """
        began_s = time.monotonic()
        rate = learning_rate(self._optimization, budget, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rows = torch.from_numpy(self._source.rows(self.progress.step)).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            loss = self.network.loss(rows)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.weights.values(), self._optimization.max_norm)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigError(f"the loss of step {self.progress.step} is {value}", hint="lower the learning rate")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress = Progress(self.progress.step + 1, self.progress.spent_s + time.monotonic() - began_s)
        values = {"loss": value, "rate": rate, "norm": float(norm), "spent_s": self.progress.spent_s}
        return Record("step", self.progress.step, values)

    def train(
        self, budget: Budget, evaluate: Callable[[Network], dict[str, float]], report: Callable[[Record], None]
    ) -> None:
        """Train until the budget is spent, hand every record to `report` and to log.jsonl, and save at the end."""
        with (self._run / "log.jsonl").open("a", encoding="utf-8") as log:

            def tell(record: Record) -> None:
                row = {"kind": record.kind, "step": record.step, **{k: round(v, 6) for k, v in record.values.items()}}
                print(json.dumps(row), file=log, flush=True)
                report(record)

            while budget.spent_share(self.progress) < 1.0:
                tell(self.step(budget))
                finished = self.progress.step
                if finished % budget.save_every == 0 or budget.spent_share(self.progress) >= 1.0:
                    save_checkpoint(self._checkpoint_path, self.network, self.optimizer, self.progress)
                if finished % budget.evaluate_every == 0:
                    tell(Record("evaluation", finished, evaluate(self.network)))
