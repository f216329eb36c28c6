"""Names of models on the hub, and which files of a repository a name stands for.

Knows nothing about the network or the disk. Invariant: a path that is chosen is relative, plain (no "..", no link
syntax) and of a kind that holds no code: never a pickle, never a script.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from penstock.core import ModelFileError, limits

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_FILE_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}"
_NAME = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(?:/(?P<file>(?:{_FILE_PART}/){{0,4}}{_FILE_PART}\.gguf)|:(?P<kind>[A-Za-z0-9._-]{{1,64}}))?",
    re.ASCII,
)
_PLAIN = re.compile(rf"(?:{_FILE_PART}/){{0,4}}{_FILE_PART}", re.ASCII)
_SMALL = frozenset(
    {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
        "chat_template.jinja", "chat_template.json", "tekken.json",
    }
)  # fmt: skip
_TEMPLATES = "additional_chat_templates/"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SECOND_COPIES = ("adapter_", "consolidated")
_NO_MODELS = ("mmproj", "imatrix")
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_SPLIT = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})$", re.ASCII)
_KIND = re.compile(
    r"(?:^|[-._/])(?P<label>(?:(?:UD|i1)[-_])?(?P<type>(?:T|I)?Q\d(?:_[A-Z0-9]{1,3}){0,4}|BF16|F16|F32|FP16|FP32|MXFP4(?:_MOE)?))"
    r"(?=$|[-._/])",
    re.ASCII | re.IGNORECASE,
)
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Reference:
    """A model on the hub.

    Attributes:
        repo: `owner/name`.
        file: of `owner/name/file.gguf`, or None.
        kind: of `owner/name:Q4_K_M`, in capitals, or None.
    """

    repo: str
    file: str | None = None
    kind: str | None = None

    @property
    def selector(self) -> str:
        """What is asked of the repository: "" (its safetensors, or its only GGUF), "/file.gguf" or ":TYPE"."""
        return f"/{self.file}" if self.file else f":{self.kind}" if self.kind else ""

    def __str__(self) -> str:
        return self.repo + self.selector


def parse_reference(name: str) -> Reference | None:
    """The reference that `name` spells (`owner/name`, `owner/name/file.gguf` or `owner/name:TYPE`), or None."""
    match = _NAME.fullmatch(name)
    if match is None or "--" in match["repo"] or ".." in match["repo"]:  # the cache's folder names are made with "--"
        return None
    return Reference(match["repo"], match["file"], match["kind"].upper() if match["kind"] else None)


def gguf_kinds(paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Label → the file or the ascending parts of every GGUF model among the paths.

    A label is the quantization in the file's (or else the folder's) name, such as Q4_K_M or UD-Q4_K_XL. A file that
    says none, or says what another says too, has its path for a label.
    """
    groups: dict[str, list[str]] = {}
    for path in sorted(paths):
        name = path.rsplit("/", 1)[-1].lower()
        if is_plain(path) and name.endswith(".gguf") and not name.startswith(_NO_MODELS):
            groups.setdefault(_SPLIT.sub("", path[: -len(".gguf")]), []).append(path)
    labels: dict[str, list[str]] = {}
    for stem in groups:
        labels.setdefault(_label(stem) or f"{stem}.gguf", []).append(stem)
    found: dict[str, tuple[str, ...]] = {}
    for label, stems in sorted(labels.items()):
        for stem in stems:
            found[label if len(stems) == 1 else f"{stem}.gguf"] = tuple(groups[stem])
    return found


def choose(paths: Iterable[str], reference: Reference) -> tuple[str, ...]:
    """The files of a repository that the reference stands for; a GGUF model's first part comes first.

    Raises:
        ModelFileError: what is asked for is not there, is ambiguous, or is there as pickles only.
    """
    plain = sorted(path for path in set(paths) if is_plain(path))
    if reference.file:
        return _all_parts(plain, reference, reference.file)
    kinds = gguf_kinds(plain)
    if reference.kind:
        return _all_parts(plain, reference, _of_kind(kinds, reference))
    weights = _safetensors(plain)
    if weights:
        small = [path for path in plain if path in _SMALL or _is_template(path)]
        return (*small, *weights)
    if len(kinds) == 1:
        return _all_parts(plain, reference, next(iter(kinds.values()))[0])
    if kinds:
        raise ModelFileError(
            f"{reference}: {len(kinds)} GGUF models and no safetensors: {listed(kinds)}.",
            hint=f"say which: {reference.repo}:{next(iter(kinds))}.",
        )
    pickled = next((path for path in plain if path.endswith(_PICKLED)), None)
    if pickled:
        raise ModelFileError(
            f"{reference}: its weights are pickles ({pickled}), which can run code and are never fetched.",
            hint="look for a safetensors or GGUF version of the model.",
        )
    raise ModelFileError(f"{reference}: no safetensors and no GGUF among its {len(plain)} files.")


def is_plain(path: str) -> bool:
    """Whether a path is relative, at most five deep, and free of "..", hidden names and odd characters."""
    return len(path) <= 1024 and _PLAIN.fullmatch(path) is not None


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def _label(stem: str) -> str | None:
    """The quantization that a path says, its file name first."""
    for text in (stem.rsplit("/", 1)[-1], stem):
        found = list(_KIND.finditer(text))
        if found:
            return found[-1]["label"].upper()
    return None


def _all_parts(plain: list[str], reference: Reference, file: str) -> tuple[str, ...]:
    """A GGUF file, or all parts of the model that it is a part of."""
    stem = file[: -len(".gguf")]
    split = _SPLIT.search(stem)
    parts = [file]
    if split is not None:
        base, count = stem[: split.start()], min(int(split["count"]), limits.MAX_SHARDS)
        parts = [f"{base}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    there = set(plain)
    missing = [part for part in parts if part not in there]
    if missing:
        found = [path for path in plain if path.endswith(".gguf")]
        raise ModelFileError(
            f"{reference}: the model is on the hub, this file is not: {missing[0]}.",
            hint=f"it has {listed(found)}." if found else "it has no GGUF file.",
        )
    return tuple(parts)


def _of_kind(kinds: dict[str, tuple[str, ...]], reference: Reference) -> str:
    """The first file of the one model of that type; a label in full wins over its type alone (UD-Q4_K_M, Q4_K_M)."""
    kind = reference.kind or ""
    if kind in kinds:
        return kinds[kind][0]
    near = [label for label in kinds if (_label(label[:-5] if label.endswith(".gguf") else label) == kind)]
    near = near or [label for label in kinds if "/" not in label and label.split("-", 1)[-1] == kind]
    if len(near) == 1:
        return kinds[near[0]][0]
    if near:
        raise ModelFileError(
            f"{reference}: {len(near)} models are {kind}: {listed(near)}.", hint="name the file: owner/name/file.gguf."
        )
    there = f"it has {listed(kinds)}." if kinds else "it has no GGUF file."
    raise ModelFileError(f"{reference}: no GGUF of type {kind}.", hint=there)


def _safetensors(plain: list[str]) -> list[str]:
    """The repository's own weights and their index; second copies of them (adapters, variants) are left out."""
    if _SINGLE in plain:
        return [_SINGLE]
    top = [path for path in plain if "/" not in path and path.endswith(".safetensors")]
    weights = [path for path in top if not path.startswith(_SECOND_COPIES)]
    return [_INDEX, *weights] if weights and _INDEX in plain else weights


def _is_template(path: str) -> bool:
    return path.endswith(".jinja") and ("/" not in path or path.startswith(_TEMPLATES))
