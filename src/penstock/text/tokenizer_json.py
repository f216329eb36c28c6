"""A `tokenizer.json` of the Hugging Face layout, read by the library it was written for, under limits.

Knows nothing about the other files of a folder. The library parses in compiled code, which panics on some broken files:
a panic is no `Exception`. Invariant: whatever is in the file, what comes out is a tokenizer or one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HfTokenizer

from penstock.core import ModelFileError, limits
from penstock.text.patterns import check_pattern
from penstock.text.vocab import ControlToken, ControlTokens, looks_like_control

_PATTERN = re.compile(rb'"Regex"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL)
_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')
_MAX_STEPS_CHARS = 4 * 1024 * 1024  # of the normalizer, which may carry a map of characters


def read_tokenizer_json(path: Path, data: bytes, names: Mapping[str, str]) -> tuple[HfTokenizer, ControlTokens, int]:
    """The tokenizer, its control tokens, all of which it knows as special and reads as text, and the end of its ids.

    Control are the added tokens marked special, those that `names` names, and those that look the part (<|…|> and the
    like): some published files forget to mark their turn tokens.

    Args:
        path: the file, for messages.
        data: its bytes.
        names: special names (bos_token, …) and spellings.

    Raises:
        ModelFileError: not a tokenizer, or one past the limits.
    """
    _check_before(path, data)
    hf = _parse(path, data)
    size = _check_after(path, hf)
    named = set(names.values())
    added = hf.get_added_tokens_decoder()
    forgotten = {
        id
        for id, token in added.items()
        if not token.special and (token.content in named or looks_like_control(token.content))
    }
    if forgotten:
        state = json.loads(data)
        for entry in state["added_tokens"]:
            entry["special"] = bool(entry.get("special")) or entry.get("id") in forgotten
        hf = _parse(path, json.dumps(state).encode())
        added = hf.get_added_tokens_decoder()
    tokens = [
        ControlToken(id, token.content, token.lstrip, token.rstrip, token.single_word)
        for id, token in added.items()
        if token.special
    ]
    unknown = names.get("unk_token")
    hf.encode_special_tokens = True
    hf.no_truncation()
    hf.no_padding()
    return hf, ControlTokens(tokens, unknown=None if unknown is None else hf.token_to_id(unknown)), size


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
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{path}: not a tokenizer: {reason}") from None


def _parse(path: Path, data: bytes) -> HfTokenizer:
    """The tokenizer in a file's bytes."""
    with named_failures(path):
        return HfTokenizer.from_buffer(data)


def _check_before(path: Path, data: bytes) -> None:
    """What must hold before the library sees the bytes."""
    if (count := data.count(b",") + data.count(b"[")) > limits.MAX_TOKENIZER_VALUES:
        raise ModelFileError(f"{path}: {count} JSON values, at most {limits.MAX_TOKENIZER_VALUES} are taken.")
    if (count := data.count(b'"content"')) > limits.MAX_ADDED_TOKENS:
        raise ModelFileError(f"{path}: {count} added tokens, at most {limits.MAX_ADDED_TOKENS} are taken.")
    with named_failures(path):
        _check_patterns(json.loads(match[1]) for match in _PATTERN.finditer(data))
        if b'"merges"' in data and _PREFIX.search(data):
            _check_merges(json.loads(data)["model"])


def _check_merges(model: Mapping[str, Any]) -> None:
    """Passes merges whose second pieces can lose their prefix: the library panics, and prints that it does."""
    shortest = len(model["continuing_subword_prefix"].encode())
    for merge in model["merges"]:
        second = (merge.split(" ") if isinstance(merge, str) else merge)[1]
        if len(second.encode()) < shortest:
            raise ModelFileError(f"a merge's second piece {second[:40]!r} is shorter than continuing_subword_prefix.")


def _check_after(path: Path, hf: HfTokenizer) -> int:
    """What must hold of the parsed tokenizer, however its file was spelled; returns the end of its ids."""
    steps = [step.__getstate__() for step in (hf.normalizer, hf.pre_tokenizer, hf.decoder) if step is not None]
    if sum(map(len, steps)) > _MAX_STEPS_CHARS:
        raise ModelFileError(f"{path}: its steps take more than {_MAX_STEPS_CHARS} characters.")
    with named_failures(path):
        _check_patterns(pattern for step in steps for pattern in _patterns(json.loads(step)))
    added = hf.get_added_tokens_decoder()
    highest = max(hf.get_vocab(with_added_tokens=True).values(), default=0)
    if len(added) > limits.MAX_ADDED_TOKENS or highest >= limits.MAX_VOCAB:
        raise ModelFileError(
            f"{path}: {len(added)} added tokens, ids up to {highest}; at most {limits.MAX_ADDED_TOKENS} and "
            f"{limits.MAX_VOCAB} are taken."
        )
    return highest + 1


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
