"""A `tokenizer.json` of the Hugging Face layout, read by the library it was written for, under limits.

Knows nothing about the other files of a folder. The library parses in compiled code, which panics on some broken files:
a panic is no `Exception`. Invariant: whatever is in the file, what comes out is a tokenizer or one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken
from tokenizers import Tokenizer as HfTokenizer

from penstock.core import ModelFileError, limits, one_line
from penstock.text.notes import Notes
from penstock.text.patterns import check_pattern
from penstock.text.tokenizer_check import TokenizerFacts, examine
from penstock.text.vocab import ControlToken, ControlTokens, check_size, looks_like_control

_PATTERN = re.compile(rb'"Regex"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL)
_MAX_STEPS_CHARS = 4 * 1024 * 1024  # of the normalizer, which may carry a map of characters


@dataclass(frozen=True, slots=True)
class Sound:
    """What a file that may be built was found to hold.

    Attributes:
        size: the end of the ids that the vocabulary has, and its added tokens will get.
        added: where the list of added tokens is in the file; (0, 0) for none.
        forgotten: control tokens that are not marked so.
    """

    size: int
    added: tuple[int, int]
    forgotten: tuple[str, ...]


def read_tokenizer_json(
    path: Path,
    data: bytes,
    names: Mapping[str, str],
    max_ids: int = limits.MAX_VOCAB,
    notes: Notes | None = None,
) -> tuple[HfTokenizer, ControlTokens, int]:
    """The tokenizer, its control tokens, all of which it knows as special and reads as text, and the end of its ids.

    Control are the added tokens marked special, those that `names` names, and those that look the part (<|…|> and the
    like): some published files forget to mark their turn tokens.

    The library parses twice: first the file without its vocabulary and merges, so that nearly everything that can be
    wrong is found while little memory is taken. A file that was found sound before is parsed at once.

    Args:
        path: the file, for messages.
        data: its bytes.
        names: special names (bos_token, …) and spellings.
        max_ids: rows of the model's embedding.
        notes: where it is kept that a file is sound.

    Raises:
        ModelFileError: not a tokenizer, or one past the limits.
    """
    key = "" if notes is None else Notes.key(data, tokenizers.__version__, *sorted(set(names.values())))
    kept = None if notes is None else _sound(notes.find(key), len(data))
    sound = kept or _examined(path, data, names, max_ids)
    with named_failures(path):
        check_size(sound.size, max_ids)
    hf = _parse(path, _marked(data, sound) if sound.forgotten else data)
    added = hf.get_added_tokens_decoder()
    size = max(sound.size, max(added, default=-1) + 1)
    if size > limits.MAX_VOCAB:
        raise ModelFileError(f"{path}: ids up to {size - 1}; at most {limits.MAX_VOCAB} are taken.")
    unknown = names.get("unk_token")
    hf.encode_special_tokens = True
    hf.no_truncation()
    hf.no_padding()
    controls = ControlTokens(_controls(added), unknown=None if unknown is None else hf.token_to_id(unknown))
    if notes is not None and kept is None:
        notes.keep(key, asdict(sound))
    return hf, controls, size


def _sound(note: Mapping[str, Any] | None, num_bytes: int) -> Sound | None:
    """What a note says, or None where there is none or it isn't one."""
    match note:
        case {"size": int(size), "added": [int(start), int(end)], "forgotten": list(forgotten)}:
            whole = 0 <= size <= limits.MAX_VOCAB and 0 <= start <= end <= num_bytes
            if whole and all(isinstance(name, str) for name in forgotten):
                return Sound(size, (start, end), tuple(forgotten))
    return None


def _examined(path: Path, data: bytes, names: Mapping[str, str], max_ids: int) -> Sound:
    """What is found by looking.

    Raises:
        ModelFileError: not a tokenizer, or one past the limits.
    """
    with named_failures(path):
        facts = examine(data)
        check_size(facts.size, max_ids)
        _check_patterns(json.loads(match[1]) for match in _PATTERN.finditer(facts.skeleton))
    return Sound(facts.size, facts.added, tuple(sorted(_check_skeleton(path, facts, set(names.values())))))


@contextmanager
def named_failures(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes one line that names the file."""
    try:
        yield
    except ModelFileError as error:
        if str(path) in error.message:
            raise
        raise ModelFileError(f"{path}: {error.message}", hint=error.hint) from None
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # the library raises bare Exception, ValueError and its own panic
        reason = one_line(str(error))[:200]
        raise ModelFileError(f"{path}: not a tokenizer: {reason}") from None


def _parse(path: Path, data: bytes) -> HfTokenizer:
    """The tokenizer in a file's bytes."""
    with named_failures(path):
        return HfTokenizer.from_buffer(data)


def _check_skeleton(path: Path, facts: TokenizerFacts, named: set[str]) -> set[str]:
    """What must hold of the parsed rest of the file, however it was spelled; returns control tokens not marked so.

    Raises:
        ModelFileError: it does not hold.
    """
    hf = _parse(path, facts.skeleton)
    steps = [step.__getstate__() for step in (hf.normalizer, hf.pre_tokenizer, hf.decoder) if step is not None]
    if sum(map(len, steps)) > _MAX_STEPS_CHARS:
        raise ModelFileError(f"{path}: its steps take more than {_MAX_STEPS_CHARS} characters.")
    with named_failures(path):
        _check_patterns(pattern for step in steps for pattern in _patterns(json.loads(step)))
        hf.no_truncation()
        hf.no_padding()
        around = hf.encode("", add_special_tokens=True).ids
        if any(id >= facts.size for id in around):
            raise ModelFileError(f"ids {around[:8]} go around a text, the vocabulary has {facts.size}.")
        added = hf.get_added_tokens_decoder()
        ControlTokens(_controls(added))  # which measures them
    return {
        token.content
        for token in added.values()
        if not token.special and (token.content in named or looks_like_control(token.content))
    }


def _controls(added: Mapping[int, AddedToken]) -> list[ControlToken]:
    """The tokens that steer."""
    return [
        ControlToken(id, token.content, token.lstrip, token.rstrip, token.single_word)
        for id, token in added.items()
        if token.special
    ]


def _marked(data: bytes, sound: Sound) -> bytes:
    """The file with its forgotten control tokens marked special."""
    start, end = sound.added
    entries = json.loads(data[start:end])
    for entry in entries:
        entry["special"] = bool(entry.get("special")) or entry.get("content") in sound.forgotten
    return data[:start] + json.dumps(entries).encode() + data[end:]


def _check_patterns(patterns: Iterable[str]) -> None:
    """Every pattern may run, and there are few."""
    found = list(dict.fromkeys(patterns))
    if len(found) > limits.MAX_PATTERNS:
        raise ModelFileError(f"{len(found)} patterns, at most {limits.MAX_PATTERNS} are taken.")
    for pattern in found:
        check_pattern(pattern)


def _patterns(state: Any) -> Iterator[str]:
    """Every regular expression in the state of a step."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            if key == "Regex" and isinstance(value, str):
                yield value
            else:
                yield from _patterns(value)
    elif isinstance(state, list):
        for value in state:
            yield from _patterns(value)
