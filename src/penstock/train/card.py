"""The model card: what a model was trained on, how well it does, and what it cannot do.

Knows nothing about torch. Invariant: every number in the card was measured by the run that writes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.train.corpus import TURN_SHARE
from penstock.train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run found out: its size, its length, its last training loss and its quality by source of held-out text."""

    num_parameters: int
    num_steps: int
    minutes: float
    num_corpus_tokens: int
    last_loss: float
    quality: dict[str, dict[str, float]]


_USE = """## Use

The model continues text; it was not taught to follow instructions or to answer questions. In about {turns:.0%} of the
passages the opening was marked as a user turn and the rest as the assistant's, so a chat message is taken as the
beginning of a passage, and the answer continues it:

    <|bos|><|user|>It was a dark night.<|end|><|assistant|>

A system message is taken as the title and author of the text, for example `Emma, by Jane Austen`. More than one
exchange was never trained. Plain completions start with `<|bos|>` and end with `<|eos|>`.
"""


def model_card(recipe: Recipe, measured: Measured) -> str:
    """Return the card as markdown."""
    shape, optimization = recipe.shape, recipe.optimization
    num_tokens = measured.num_steps * optimization.num_rows * shape.context_tokens
    sections = [
        f"# {recipe.name}\n",
        _shape_sentence(recipe, measured),
        _USE.format(turns=TURN_SHARE),
        "## Data\n",
        "| text | share of the rows | held out | licence |\n|---|---|---|---|\n" + _data_rows(recipe),
        "## Training\n",
        f"{measured.num_steps:,} steps of {optimization.num_rows} rows of {shape.context_tokens} tokens, "
        f"{num_tokens / 1e6:.1f} million tokens in {measured.minutes:.0f} minutes, drawn from "
        f"{measured.num_corpus_tokens / 1e6:.1f} million. AdamW, learning rate {optimization.learning_rate:g} after "
        f"{optimization.warmup_steps} warm-up steps, falling to zero over the last {optimization.decay_share:.0%}. "
        f"The training loss at the end: {measured.last_loss:.3f} nats a token.\n",
        "## Quality\n",
        "On held-out text, windows of one context without overlap, the weights as shipped:\n",
        "| held out | loss (nats a token) | perplexity (per token) | bits per byte |\n|---|---|---|---|\n"
        + _quality_rows(measured),
    ]
    if recipe.limits:
        sections += ["## Limits\n", recipe.limits.strip() + "\n"]
    return "\n".join(sections)


def _shape_sentence(recipe: Recipe, measured: Measured) -> str:
    shape = recipe.shape
    return (
        f"A Llama-shaped text model of {measured.num_parameters / 1e6:.2f} million parameters: "
        f"{shape.num_layers} layers, width {shape.hidden_size}, {shape.num_heads} heads over {shape.num_kv_heads} KV "
        f"heads, feed-forward {shape.ffn_size}, a vocabulary of {shape.vocab_size} byte-level BPE tokens, a context of "
        f"{shape.context_tokens} tokens, weights in bf16. Written by `penstock train`.\n"
    )


def _data_rows(recipe: Recipe) -> str:
    total = sum(source.share for source in recipe.text)
    rows = ""
    for source in recipe.text:
        held_out = f"one document in {source.hold_out_every}" if source.hold_out_every else ", ".join(source.held_out)
        rows += f"| {source.name} | {source.share / total:.0%} | {held_out} | {source.license} |\n"
    return rows


def _quality_rows(measured: Measured) -> str:
    rows = ""
    for name, found in measured.quality.items():
        rows += f"| {name} | {found['loss']:.3f} | {found['perplexity']:.2f} | {found['bits_per_byte']:.3f} |\n"
    return rows
