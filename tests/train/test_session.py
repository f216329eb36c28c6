"""A tiny run end to end: it learns, it resumes to the bit, and what it publishes is a Llama checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from penstock.core.errors import ConfigError
from penstock.train import Budget, Folders, Recipe, Record, publish_model, train_model
from penstock.train.checkpoint import load_checkpoint
from penstock.train.network import Network, initial_weights


def losses_of(recipe: Recipe, folders: Folders, budget: Budget) -> list[float]:
    losses: list[float] = []

    def hear(event: str | Record) -> None:
        if isinstance(event, Record) and event.kind == "step":
            losses.append(event.values["loss"])

    train_model(recipe, folders, budget, hear)
    return losses


class StopAfter:
    """Hears records and breaks off after a number of steps, as Ctrl-C would."""

    def __init__(self, num_steps: int) -> None:
        self.left = num_steps

    def __call__(self, event: str | Record) -> None:
        if isinstance(event, Record) and event.kind == "step":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_a_run_learns(recipe: Recipe, folders: Folders) -> None:
    losses = losses_of(recipe, folders, Budget(max_steps=60))
    assert len(losses) == 60
    assert losses[0] == pytest.approx(np.log(300), rel=0.05)
    assert np.mean(losses[-5:]) < 0.75 * losses[0]


def test_resuming_takes_the_same_steps(recipe: Recipe, folders: Folders) -> None:
    budget = Budget(max_steps=14, save_every=5)
    whole = losses_of(recipe, folders, budget)
    broken = Folders(folders.corpus, folders.run.with_name("broken"))
    with pytest.raises(KeyboardInterrupt):
        train_model(recipe, broken, budget, StopAfter(7))
    resumed = losses_of(recipe, broken, budget)
    assert resumed == whole[5:]
    first, second = (load_and_list(recipe, run / "checkpoint.safetensors") for run in (folders.run, broken.run))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = losses_of(replace(recipe, seed=8), Folders(folders.corpus, folders.run.with_name("other")), budget)
    assert other[5:] != whole[5:]


def load_and_list(recipe: Recipe, path: Path) -> dict[str, torch.Tensor]:
    network = Network(recipe.shape, initial_weights(recipe.shape, 0))
    load_checkpoint(path, network)
    return network.weights


def test_a_finished_run_takes_no_more_steps(recipe: Recipe, folders: Folders) -> None:
    assert len(losses_of(recipe, folders, Budget(max_steps=3))) == 3
    assert losses_of(recipe, folders, Budget(max_steps=3)) == []


def test_a_time_budget_ends(recipe: Recipe, folders: Folders) -> None:
    train_model(recipe, folders, Budget(minutes=1e-3), lambda _: None)
    rows = [json.loads(line) for line in (folders.run / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["spent_s"] >= 0.06
    assert all(row["spent_s"] < 0.06 for row in rows[:-1] if row["kind"] == "step")


def test_transformers_reads_what_is_published(recipe: Recipe, folders: Folders, tmp_path: Path) -> None:
    losses_of(recipe, folders, Budget(max_steps=12))
    measured = publish_model(recipe, folders, tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ours = load_and_list(recipe, folders.run / "checkpoint.safetensors")
    network = Network(recipe.shape, {name: weight.bfloat16().float() for name, weight in ours.items()})
    tokens = torch.tensor([tokenizer("The old river ran past the mill.")["input_ids"]])
    assert tokens[0, 0] == theirs.config.bos_token_id == tokenizer.convert_tokens_to_ids("<|bos|>")
    with torch.no_grad():
        expected, found = theirs(tokens).logits, network.logits(tokens)
        unrounded = Network(recipe.shape, ours).logits(tokens)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (unrounded - expected).abs().max() > 1e-4 * expected.abs().max(), "the control: bf16 rounding must show"
    assert measured.num_steps == 12
    assert set(measured.quality) == {"river", "notes"}


def test_the_chat_template_marks_turns_as_training_did(recipe: Recipe, folders: Folders, tmp_path: Path) -> None:
    losses_of(recipe, folders, Budget(max_steps=1))
    publish_model(recipe, folders, tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    messages = [{"role": "system", "content": "River, by A"}, {"role": "user", "content": "The mill."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|bos|><|system|>River, by A<|end|><|user|>The mill.<|end|><|assistant|>"
    with pytest.raises(Exception, match="system, user and assistant"):
        tokenizer.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


def test_the_card_and_curve_say_what_was_measured(recipe: Recipe, folders: Folders, tmp_path: Path) -> None:
    losses_of(recipe, folders, Budget(max_steps=10, evaluate_every=5))
    measured = publish_model(recipe, folders, tmp_path / "model")
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    for text in ("10 steps", f"{measured.quality['river']['perplexity']:.2f}", "public domain", "one document in 10"):
        assert text in card
    assert recipe.limits in card
    assert (folders.run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_publishing_before_the_first_checkpoint_says_so(recipe: Recipe, folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a checkpoint"):
        publish_model(recipe, folders, tmp_path / "model")
    assert not (tmp_path / "model").exists()
