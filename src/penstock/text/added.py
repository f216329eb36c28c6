"""Tokens that a folder's small files add to the vocabulary of its tokenizer file, or name anew.

Knows nothing about reading files. Invariant: an added id follows the vocabulary closely, so that
no file makes ids without end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.core import ModelFileError, limits
from penstock.text.spm import Kind, Pieces
from penstock.text.vocab import looks_like_control


@dataclass(frozen=True, slots=True)
class Files:
    """What the small files beside the tokenizer say.

    Attributes:
        config: tokenizer_config.json.
        names: special names and their spellings.
        end_ids: generation_config.json's end tokens.
        added: added_tokens.json, ids by spelling.
    """

    config: Mapping[str, Any]
    names: Mapping[str, str]
    end_ids: tuple[int, ...]
    added: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AddedFile:
    """One added token as the files describe it.

    Attributes:
        content: its spelling.
        special: it steers the model.
        lstrip: swallows white space before it.
        rstrip: swallows white space after it.
        single_word: only where no letter or digit touches it.
    """

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


def extend_pieces(pieces: Pieces, files: Files) -> Mapping[int, AddedFile]:
    """Adds the files' tokens to a vocabulary in place and marks those that steer; returns the added ones by id.

    Raises:
        ModelFileError: ids far beyond the vocabulary, or a kind of token that can't be served.
    """
    added = _added(files, len(pieces.names))
    for id in range(len(pieces.names), max(added, default=-1) + 1):
        pieces.names.append(f"[EMPTY_{id}]")
        pieces.kinds.append(Kind.CONTROL)
        pieces.scores.append(0.0)
    for id, token in added.items():
        pieces.names[id] = token.content
        if pieces.kinds[id] not in (Kind.UNKNOWN, Kind.BYTE):
            pieces.kinds[id] = Kind.CONTROL if token.special else Kind.USER
        if pieces.kinds[id] == Kind.USER and (token.lstrip or token.rstrip or token.single_word):
            raise ModelFileError(
                f"the ordinary token {token.content[:64]!r} minds the space around it.",
                hint="add tokenizer.json, which can say so exactly.",
            )
    named = set(files.names.values())
    for id in list(pieces.of(Kind.NORMAL, Kind.USER)):
        name = pieces.names[id]
        if name in named or (pieces.kinds[id] == Kind.USER and looks_like_control(name)):
            pieces.kinds[id] = Kind.CONTROL
    return added


def rename_special(special: Mapping[str, int], first_id: int, num_tokens: int, files: Files) -> dict[str, int]:
    """Special tokens by name, once the files have had their say.

    Raises:
        ModelFileError: a token of the files is an ordinary one of the vocabulary.
    """
    names = {id: name for name, id in special.items()}
    for id, token in _added(files, num_tokens + len(special)).items():
        if first_id <= id < first_id + num_tokens:
            raise ModelFileError(f"the added token {token.content[:64]!r} has the id {id} of an ordinary one.")
        names[id] = token.content
    renamed = {name: id for id, name in names.items()}
    if len(renamed) != len(names):
        raise ModelFileError("two special tokens have the same name.")
    return renamed


def _added(files: Files, size: int) -> dict[int, AddedFile]:
    """The files' tokens by id; tokenizer_config.json's word counts more than added_tokens.json's."""
    named = set(files.names.values())
    found: dict[int, AddedFile] = {}
    for content, id in files.added.items():
        if isinstance(id, int) and not isinstance(id, bool):
            found[id] = AddedFile(content, content in named or looks_like_control(content))
    entries = files.config.get("added_tokens_decoder")
    for key, entry in entries.items() if isinstance(entries, Mapping) else ():
        spelled = entry.get("content") if isinstance(entry, Mapping) else None
        if not isinstance(spelled, str) or not spelled or not key.isascii() or not key.isdigit() or len(key) > 9:
            raise ModelFileError(f"tokenizer_config.json: the added token {key[:32]!r} is not one.")
        flags = {name: entry.get(name) is True for name in ("special", "lstrip", "rstrip", "single_word")}
        flags["special"] = flags["special"] or spelled in named or looks_like_control(spelled)
        found[int(key)] = AddedFile(spelled, **flags)
    if len(found) > limits.MAX_ADDED_TOKENS or any(not 0 <= id < size + limits.MAX_ADDED_TOKENS for id in found):
        raise ModelFileError(
            f"{len(found)} added tokens, ids up to {max(found)}; at most {limits.MAX_ADDED_TOKENS} may follow {size}."
        )
    return found
