"""The tokenizer and chat template of a folder in the Hugging Face layout.

Knows nothing about weights. Invariant: a file is measured before it is read, and a bad one is named in one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HfTokenizer

from penstock.core import ModelFileError, limits
from penstock.text.chat import ChatTemplate
from penstock.text.tokenizer import Tokenizer, Vocabulary
from penstock.text.vocab import ControlToken, ControlTokens

_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
_LOOKS_LIKE_CONTROL = re.compile(r"<[|｜].*[|｜]>|</?s>|\[/?INST\]|<(start|end)_of_turn>")
# Classes whose add_bos_token and add_eos_token overrule what tokenizer.json puts around a text.
_ADDING_CLASSES = frozenset({"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast"})


@dataclass(frozen=True, slots=True)
class _Files:
    """What the small files beside tokenizer.json say.

    Attributes:
        config: tokenizer_config.json.
        names: special names and their spellings.
        end_ids: generation_config.json's end tokens.
    """

    config: Mapping[str, Any]
    names: Mapping[str, str]
    end_ids: tuple[int, ...]


def load_tokenizer(folder: Path, *, now: Callable[[], datetime] | None = None) -> Tokenizer:
    """The tokenizer of a model folder.

    Args:
        folder: holds tokenizer.json and, where the model has them, tokenizer_config.json, special_tokens_map.json,
            generation_config.json and chat_template.jinja.
        now: the date and time for templates that ask; without it they are told that there is none.

    Raises:
        ModelFileError: tokenizer.json is missing, or a file is too large or broken.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelFileError(
            f"{path}: no such file.", hint="a tokenizer in the Hugging Face format (tokenizer.json) is needed."
        )
    files = _read_files(folder)
    data = _read_bytes(path, limits.MAX_TOKENIZER_BYTES)
    hf = _parse(path, data)
    hf, controls = _control_tokens(path, data, hf, files)
    hf.encode_special_tokens = True
    hf.no_truncation()
    hf.no_padding()
    vocabulary = _vocabulary(hf, controls, files)
    template = _read_template(folder, files, now)
    return Tokenizer(vocabulary, template)


def _vocabulary(hf: HfTokenizer, controls: ControlTokens, files: _Files) -> Vocabulary:
    """The vocabulary with its special ids."""
    bos = _id_of(hf, files.names.get("bos_token"))
    eos = _id_of(hf, files.names.get("eos_token"))
    size = hf.get_vocab_size(with_added_tokens=True)
    ends = {*files.end_ids, *(() if eos is None else (eos,))}
    prefix, suffix = _around(hf)
    if files.config.get("tokenizer_class") in _ADDING_CLASSES:
        prefix = _overruled(prefix, bos, files.config.get("add_bos_token"))
        suffix = _overruled(suffix, eos, files.config.get("add_eos_token"))
    return Vocabulary(
        hf=hf,
        controls=controls,
        inner=_inner(hf),
        bos_token_id=bos,
        eos_token_ids=tuple(sorted(end for end in ends if 0 <= end < max(size, 1) or hf.id_to_token(end) is not None)),
        prefix=prefix,
        suffix=suffix,
        names=files.names,
    )


def _overruled(around: tuple[int, ...], id: int | None, wanted: Any) -> tuple[int, ...]:
    """The ids put around a text once the configuration has had its say."""
    if not isinstance(wanted, bool) or id is None or wanted == (id in around):
        return around
    return (id,) if wanted else tuple(each for each in around if each != id)


def _around(hf: HfTokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer itself puts before and after a text."""
    bare = hf.encode("a", add_special_tokens=False).ids
    full = hf.encode("a", add_special_tokens=True).ids
    for at in range(len(full) - len(bare) + 1):
        if bare and full[at : at + len(bare)] == bare:
            return tuple(full[:at]), tuple(full[at + len(bare) :])
    return (), ()


def _inner(hf: HfTokenizer) -> HfTokenizer | None:
    """A twin that puts no space before the first word, where the tokenizer does so at the beginning only."""
    state = json.loads(hf.pre_tokenizer.__getstate__()) if hf.pre_tokenizer is not None else {}
    if '"prepend_scheme": "first"' not in json.dumps(state):
        return None
    whole = json.loads(hf.to_str())
    whole["pre_tokenizer"] = json.loads(
        json.dumps(state).replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
    )
    twin = HfTokenizer.from_str(json.dumps(whole))
    twin.encode_special_tokens = True
    return twin


def _control_tokens(path: Path, data: bytes, hf: HfTokenizer, files: _Files) -> tuple[HfTokenizer, ControlTokens]:
    """The control tokens, and a tokenizer that knows all of them as special.

    Control are the added tokens marked special, those the configuration names, and those that look the part
    (<|…|> and the like): some published files forget to mark their turn tokens.
    """
    named = set(files.names.values())
    added = hf.get_added_tokens_decoder()
    forgotten = {
        id
        for id, token in added.items()
        if not token.special and (token.content in named or _LOOKS_LIKE_CONTROL.fullmatch(token.content))
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
    return hf, ControlTokens(tokens, unknown=_id_of(hf, files.names.get("unk_token")))


def _parse(path: Path, data: bytes) -> HfTokenizer:
    """The tokenizer in a file's bytes."""
    try:
        return HfTokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare Exception and ValueError
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{path}: not a tokenizer: {reason}") from None


def _read_files(folder: Path) -> _Files:
    """The small files, each optional."""
    config = _read_json(folder / "tokenizer_config.json")
    special = _read_json(folder / "special_tokens_map.json")
    names: dict[str, str] = {}
    for source in (special, config):
        for name in _NAMES:
            value = source.get(name)
            text = value.get("content") if isinstance(value, Mapping) else value
            if isinstance(text, str) and text:
                names[name] = text
    ends = _read_json(folder / "generation_config.json").get("eos_token_id")
    found = ends if isinstance(ends, list) else [ends]
    ids = tuple(id for id in found if isinstance(id, int) and not isinstance(id, bool) and id >= 0)
    return _Files(config, names, ids)


def _read_template(folder: Path, files: _Files, now: Callable[[], datetime] | None) -> ChatTemplate | None:
    """The chat template: a file of its own, or a string or named strings in the configuration."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            source = _read_bytes(path, 4 * limits.MAX_TEMPLATE_CHARS).decode("utf-8")
        except UnicodeDecodeError:
            raise ModelFileError(f"{path}: not UTF-8.") from None
        return ChatTemplate(source, names=files.names, now=now, origin=str(path))
    found, origin = files.config.get("chat_template"), str(folder / "tokenizer_config.json")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, Mapping)}
    if isinstance(found, Mapping):
        texts = {name: text for name, text in found.items() if isinstance(text, str)}
        default = texts.get("default") or next(iter(texts.values()), None)
        if default is None:
            return None
        tools = texts.get("tool_use")
        return ChatTemplate(default, tool_source=tools, names=files.names, now=now, origin=origin)
    if not isinstance(found, str) or not found:
        return None
    return ChatTemplate(found, names=files.names, now=now, origin=origin)


def _read_json(path: Path) -> dict[str, Any]:
    """A small JSON object; {} where there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_bytes(path, limits.MAX_CONFIG_BYTES))
    except (ValueError, RecursionError):
        raise ModelFileError(f"{path}: not valid JSON.") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: must hold a JSON object.")
    return value


def _read_bytes(path: Path, limit: int) -> bytes:
    """A file's bytes, at most `limit` of them."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or 'unreadable'}.") from None
    if len(data) > limit:
        raise ModelFileError(f"{path}: larger than {limit} bytes.")
    return data


def _id_of(hf: HfTokenizer, text: str | None) -> int | None:
    """The id of a token by its spelling."""
    return None if text is None else hf.token_to_id(text)
