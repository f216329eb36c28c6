"""A training recipe: which text, which shape and which plan, read from one TOML file.

Knows nothing about torch. Invariant: a recipe and the files it names determine the tokens, the first weights and the
order of the rows; the budget (time or steps) and the run's folder come from the command line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from penstock.core.errors import ConfigError
from penstock.train.shape import Shape

MAX_RECIPE_BYTES = 2**20
HELD_OUT_PHASE = 7  # which one of every `hold_out_every` documents is held out

Row = TypeVar("Row", bound="TextSource | Recipe | Shape | Optimization")


@dataclass(frozen=True, slots=True)
class TextSource:
    """One domain of text.

    Attributes:
        name: what it is called in the log and the model card.
        files: patterns of .jsonl or .jsonl.bz2 files under the corpus folder.
        share: of the training rows.
        held_out: patterns of files that are only evaluated on.
        hold_out_every: when above 0, every so many-th document of `files` is evaluated on and never trained on.
        license: the words of the model card about this text.
    """

    name: str
    files: tuple[str, ...]
    share: float
    held_out: tuple[str, ...] = ()
    hold_out_every: int = 0
    license: str = "not stated"

    def __post_init__(self) -> None:
        """Refuse a source without text to train on or text to evaluate on.

        Raises:
            ConfigError: no files, a share that is not above 0, or not exactly one way of holding text out.
        """
        if not self.files or self.share <= 0:
            raise ConfigError(f"text {self.name!r} has files {self.files} and share {self.share}", hint="give both")
        if bool(self.held_out) == (self.hold_out_every > HELD_OUT_PHASE):
            raise ConfigError(
                f"text {self.name!r} has held_out {self.held_out} and hold_out_every {self.hold_out_every}",
                hint=f"give files in held_out, or hold_out_every above {HELD_OUT_PHASE}, and not both",
            )


@dataclass(frozen=True, slots=True)
class Optimization:
    """The learning rate, its shape over the run, and how many rows a step has."""

    learning_rate: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.35
    weight_decay: float = 0.1
    max_norm: float = 1.0
    num_rows: int = 8

    def __post_init__(self) -> None:
        """Refuse what no run can use.

        Raises:
            ConfigError: a value is outside its range.
        """
        within = self.learning_rate > 0 and self.warmup_steps >= 1 and self.max_norm > 0 and self.num_rows >= 1
        if not within or not 0 < self.decay_share <= 1 or self.weight_decay < 0:
            raise ConfigError(
                f"{self} cannot train",
                hint="rates, norms and counts are above 0, decay_share in 0..1, weight_decay not below 0",
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a run needs to know but its budget and its folders."""

    name: str
    text: tuple[TextSource, ...]
    shape: Shape
    optimization: Optimization
    seed: int = 7
    sample_chars: int = 60_000  # of each document, from a third into it, that the tokenizer learns from
    limits: str = ""  # what the model card says about what the model cannot do


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in the TOML file `path`.

    Raises:
        ConfigError: the file is not TOML, or a field is unknown, missing, of the wrong type or out of range.
    """
    try:
        with path.open("rb") as stream:
            content = tomllib.loads(stream.read(MAX_RECIPE_BYTES).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a recipe: {error}", hint="see examples/bundled_model.toml") from error
    rows = content.pop("text", None)
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{path} has no [[text]]", hint="see examples/bundled_model.toml")
    text = tuple(_build(TextSource, row, "text") for row in rows)
    shape = _build(Shape, content.pop("shape", {}), "shape")
    optimization = _build(Optimization, content.pop("optimization", {}), "optimization")
    return _build(Recipe, {**content, "text": text, "shape": shape, "optimization": optimization}, str(path))


def _build(kind: type[Row], values: object, place: str) -> Row:
    """Return `kind` made of a TOML table, every field checked against the dataclass."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{place} is not a table", hint="see examples/bundled_model.toml")
    known = {field.name: str(field.type) for field in fields(kind)}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{place} has an unknown field {key!r}", hint=f"known: {', '.join(known)}")
        checked[key] = _typed(value, known[key], f"{place}.{key}")
    try:
        return kind(**checked)
    except TypeError as error:
        raise ConfigError(f"{place}: {error}", hint="see examples/bundled_model.toml") from error


def _typed(value: object, wanted: str, place: str) -> Any:
    """Return `value` as the field wants it: lists of text as tuples, whole numbers also where floats are wanted."""
    if wanted == "tuple[str, ...]" and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "tuple[str, ...]": ()}
    if wanted in kinds and (not isinstance(value, kinds[wanted]) or isinstance(value, bool)):
        raise ConfigError(f"{place} is {value!r}, not {wanted}", hint="see examples/bundled_model.toml")
    return float(value) if wanted == "float" and isinstance(value, int) else value


def find_files(corpus: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Return the files under `corpus` that match `patterns`, sorted within each pattern.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(corpus.glob(pattern))
        if not matches:
            raise ConfigError(f"no file {pattern} under {corpus}", hint="name the corpus folder with --corpus")
        found.extend(matches)
    return found
