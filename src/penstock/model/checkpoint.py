"""A checkpoint on disk, opened: spec, weight map and defaults, from a Hugging Face folder or a GGUF file.

Knows nothing about backends or tokenizers. Invariant: a `Checkpoint` that is returned has every place filled and every
default in range; no weights were read but the samples of its identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.core import InvalidRequest, ModelFileError, SamplingParams, check_sampling, limits
from penstock.formats import num_bytes
from penstock.model.families import family_of, read_spec
from penstock.model.fields import Fields
from penstock.model.gguf_checkpoint import read_gguf_model
from penstock.model.json_file import parse_json, read_bytes, read_json
from penstock.model.safetensors_file import read_folder
from penstock.model.spec import DecoderSpec
from penstock.model.weight_map import fill
from penstock.model.weights import WeightMap

CONFIG = "config.json"
_SAMPLING_NUMBERS = ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened model.

    Attributes:
        name: the folder's or file's name, for answers and logs.
        spec: the decoder.
        weights: every place's source.
        folder: where tokenizer.json and its companions lie; None for a GGUF file.
        gguf_metadata: a GGUF file's metadata, tokenizer included; None otherwise.
        eos_token_ids: end tokens that the config or generation config declares, ascending.
        bos_token_id: first token of a text, or None.
        generation_defaults: sampling that the model's makers recommend.
        storage: storage kind → bytes, largest first.
    """

    name: str
    spec: DecoderSpec
    weights: WeightMap
    folder: Path | None
    gguf_metadata: Mapping[str, object] | None
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    generation_defaults: SamplingParams
    storage: tuple[tuple[str, int], ...]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The model in a local folder (config.json and safetensors) or a `.gguf` file.

    Raises:
        ModelFileError: a file is missing, corrupt, truncated, mismatched or of an unknown kind.
    """
    path = local_path(path)
    if path.is_dir():
        return _open_folder(path)
    model = read_gguf_model(path)
    spec, weights = fill(model.spec, model.family, model.files, b"", gguf=True)
    return Checkpoint(
        name=path.stem,
        spec=spec,
        weights=weights,
        folder=None,
        gguf_metadata=model.metadata,
        eos_token_ids=model.eos_token_ids,
        bos_token_id=model.bos_token_id,
        generation_defaults=generation_defaults(model.generation),
        storage=storage_summary(weights),
    )


def local_path(path: str | Path) -> Path:
    """An existing folder, `.gguf` file or config.json.

    Raises:
        ModelFileError: it does not exist or is of another kind.
    """
    found = Path(path).expanduser()
    try:
        if found.is_dir() or (found.is_file() and found.suffix in (".gguf", ".json")):
            return found
        exists = found.exists()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise ModelFileError(f"{found}: no such file or folder.")
    raise ModelFileError(f"{found}: not a model.", hint="a folder with config.json, or a .gguf file.")


def _open_folder(folder: Path) -> Checkpoint:
    raw = read_bytes(folder / CONFIG, limits.MAX_CONFIG_BYTES)
    config = Fields(parse_json(raw, str(folder / CONFIG)), str(folder / CONFIG))
    family = family_of(config)
    spec, weights = fill(read_spec(config, family), family, read_folder(folder), raw)
    generation = read_generation(folder)
    if isinstance(text := config.get("text_config"), dict):  # a text part may name its tokens itself
        config = Fields({**text, **config.values}, config.source)
    eos = {*_end_tokens(generation, spec.vocab), *_end_tokens(config, spec.vocab)}
    bos = generation.optional_integer("bos_token_id", 0) if "bos_token_id" in generation.values else None
    return Checkpoint(
        name=folder.resolve().name,
        spec=spec,
        weights=weights,
        folder=folder,
        gguf_metadata=None,
        eos_token_ids=tuple(sorted(eos)),
        bos_token_id=bos if bos is not None else config.optional_integer("bos_token_id", 0),
        generation_defaults=generation_defaults(generation),
        storage=storage_summary(weights),
    )


def _end_tokens(fields: Fields, vocab: int) -> tuple[int, ...]:
    """The declared end tokens; one that the model cannot sample would never end a text."""
    ids = fields.token_ids("eos_token_id")
    if ids and max(ids) >= vocab:
        raise fields.error(f"eos_token_id {max(ids)} is outside the model's vocabulary of {vocab}.")
    return ids


def read_generation(folder: Path) -> Fields:
    """The generation config's fields, empty where there is no such file.

    Raises:
        ModelFileError: the file is there and is no JSON object.
    """
    path = folder / "generation_config.json"
    values: dict[str, Any] = read_json(path) if path.is_file() else {}
    return Fields(values, str(path))


def generation_defaults(config: Fields) -> SamplingParams:
    """The sampling that a generation config recommends; `do_sample: false` is greedy.

    Raises:
        ModelFileError: a value that no backend could honour.
    """
    chosen: dict[str, Any] = {}
    for name in _SAMPLING_NUMBERS:
        if (value := config.optional_number(name)) is not None:
            chosen[name] = value
    if (top_k := config.optional_integer("top_k", low=-1, high=2**31 - 1)) is not None:
        chosen["top_k"] = max(top_k, 0)
    if config.get("do_sample") is not None and not config.flag("do_sample", True):
        chosen["temperature"] = 0.0
    params = SamplingParams(**chosen)
    try:
        check_sampling(params, limits.MAX_VOCAB)
    except InvalidRequest as error:
        raise config.error(error.message) from None
    return params


def storage_summary(weights: WeightMap) -> tuple[tuple[str, int], ...]:
    """Storage kind → bytes of the tensors in use, largest first; a tensor named twice counts once."""
    sizes: dict[str, int] = {}
    for tensor in {ref.tensor.name: ref.tensor for ref in weights.tensors.values()}.values():
        sizes[tensor.storage.value] = sizes.get(tensor.storage.value, 0) + num_bytes(tensor.storage, tensor.shape)
    return tuple(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))
