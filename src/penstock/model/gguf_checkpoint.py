"""A model in GGUF files: the set of files, its family and spec, and its tensors under the architecture's layout.

Knows nothing about bytes in files. Invariant: a set that is opened is complete and of one model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.core import ModelFileError, limits
from penstock.formats import Storage
from penstock.model.dense import Family
from penstock.model.families import family_of, read_spec
from penstock.model.fields import Fields, shown
from penstock.model.gguf_fields import read_architecture, read_config
from penstock.model.gguf_file import GgufFile, read_gguf
from penstock.model.gguf_names import stored_as
from penstock.model.gguf_rope import with_divisors
from penstock.model.spec import DecoderSpec
from penstock.model.tensor_file import TensorFile, merge

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII | re.DOTALL)

_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


@dataclass(frozen=True, slots=True)
class GgufModel:
    """One model of one or more GGUF files, before its tensors are assigned.

    Attributes:
        family: with the names and the layout of these files.
        spec: of what they hold.
        files: in order.
        metadata: of the first file.
        eos_token_ids, bos_token_id: as the tokenizer's keys declare them.
        generation: recommended sampling, in the names of a generation config.
    """

    family: Family
    spec: DecoderSpec
    files: tuple[TensorFile, ...]
    metadata: Mapping[str, object]
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    generation: Fields


def read_gguf_model(path: Path) -> GgufModel:
    """The model in a GGUF file, or in the set of files that it is the first of.

    Raises:
        ModelFileError: a file is missing, corrupt, of another set, or of an unknown architecture.
    """
    opened = _open_all(path)
    metadata, files = opened[0].metadata, tuple(file.tensors for file in opened)
    source = Fields(metadata, str(path))
    architecture = read_architecture(source)
    tensors, foreign = merge(files)
    if foreign:
        name, kind = next(iter(foreign.items()))
        raise source.error(
            f"tensor {shown(name)} is {kind}, which is not served.",
            hint=f"served: {', '.join(storage.value for storage in Storage)}.",
        )
    config = Fields(read_config(source, architecture, tensors), str(path))
    family = family_of(config)
    spec = with_divisors(read_spec(config, family), tensors, str(path))
    family, spec = stored_as(architecture, family, spec)
    # eot ends a turn where it differs from the end of text
    names = ("eos", "eot", "eom")
    ids = (source.optional_integer(f"tokenizer.ggml.{name}_token_id", 0, spec.vocab - 1) for name in names)
    return GgufModel(
        family=family,
        spec=spec,
        files=files,
        metadata=metadata,
        eos_token_ids=tuple(sorted({token for token in ids if token is not None})),
        bos_token_id=source.optional_integer("tokenizer.ggml.bos_token_id", 0, spec.vocab - 1),
        generation=_generation(source),
    )


def _generation(source: Fields) -> Fields:
    """What `general.sampling.` recommends; a decimal that was stored as float32 reads as it was written."""
    found = {name: source.optional_number(f"general.sampling.{key}") for key, name in _SAMPLING.items()}
    return Fields({name: float(f"{value:.7g}") for name, value in found.items() if value is not None}, source.source)


def _open_all(path: Path) -> tuple[GgufFile, ...]:
    """The file, or all files of the set that it is the first of."""
    first = read_gguf(path)
    count = Fields(first.metadata, str(path)).integer("split.count", 1, high=limits.MAX_SHARDS)
    if count == 1:
        return (first,)
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise ModelFileError(f"{path}: one of {count} files, and not named ...-00001-of-{count:05d}.gguf.")
    if int(match["number"]) != 1:
        raise ModelFileError(f"{path}: file {int(match['number'])} of {count}.", hint="name the first one.")
    others = (path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf") for number in range(2, count + 1))
    opened = (first, *(read_gguf(other) for other in others))
    _check_set(opened)
    return opened


def _check_set(opened: tuple[GgufFile, ...]) -> None:
    """Passes when every file says that it is the one that its name makes it, and no tensor is missing."""
    first = Fields(opened[0].metadata, str(opened[0].tensors.path))
    total = 0
    for index, file in enumerate(opened):
        fields = Fields(file.metadata, str(file.tensors.path))
        for key, expected in (("split.no", index), ("split.count", len(opened))):
            if fields.get(key) != expected:
                raise fields.error(f"{key} is {shown(fields.get(key))}; {expected} is needed: a file of another set.")
        for key in ("general.architecture", "split.tensors.count"):
            if fields.get(key) is not None and fields.get(key) != first.get(key):
                raise fields.error(f"{key} is {shown(fields.get(key))}, not that of {first.source}: of another set.")
        total += len(file.tensors.tensors) + len(file.tensors.foreign)
    declared = first.get("split.tensors.count")
    if declared is not None and declared != total:
        raise first.error(f"split.tensors.count is {shown(declared)}; the {len(opened)} files hold {total} tensors.")
