"""The tokenizer and chat template of a model folder.

Knows nothing about weights. Invariant: a file is measured before it is read, and a bad one is named in one line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer as HfTokenizer

from penstock.core import ModelFileError, check_json_bounds, limits
from penstock.text.added import AddedFile, Files, extend_pieces, rename_special
from penstock.text.charsmap import CharsMap
from penstock.text.chat import ChatTemplate
from penstock.text.notes import Notes
from penstock.text.rank_bpe import RankModel, build_rank_bpe, looks_like_ranks, read_tekken, read_tiktoken
from penstock.text.sentencepiece_model import UNIGRAM, SpmModel, read_spm_model
from penstock.text.spm import Kind, SpmText, build_spm, check_pieces
from penstock.text.tokenizer import Tokenizer, Vocabulary
from penstock.text.tokenizer_json import named_failures, read_tokenizer_json
from penstock.text.vocab import ControlToken, ControlTokens, check_size

_NAMES: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
# Classes whose add_bos_token and add_eos_token overrule what tokenizer.json puts around a text.
_ADDING_CLASSES = frozenset({"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast"})


def load_tokenizer(
    folder: Path,
    *,
    now: Callable[[], datetime] | None = None,
    max_ids: int = limits.MAX_VOCAB,
    notes: Path | None = None,
) -> Tokenizer:
    """The tokenizer of a model folder.

    Args:
        folder: holds tokenizer.json, or else tokenizer.model (SentencePiece or tiktoken), or else tekken.json; and,
            where the model has them, tokenizer_config.json, special_tokens_map.json, added_tokens.json,
            generation_config.json, chat_template.jinja, additional_chat_templates/tool_use.jinja or chat_template.json.
        now: the date and time for templates that ask; without it they are told that there is none.
        max_ids: rows of the model's embedding.
        notes: folder that keeps what was found in a tokenizer.json, so that the next start need not look again.

    Raises:
        ModelFileError: there is no tokenizer, a file is too large or broken, or there are more ids than that.
    """
    files = _read_files(folder)
    from_json = partial(_from_json, notes=None if notes is None else Notes(notes))
    readers = (("tokenizer.json", from_json), ("tokenizer.model", _from_model), ("tekken.json", _from_tekken))
    for name, reader in readers:
        path = folder / name
        if path.is_file():
            template = _read_template(folder, files, now)  # what is small and may be wrong comes first
            data = _read_bytes(path, limits.MAX_TOKENIZER_BYTES)
            with named_failures(path):
                vocabulary = reader(path, data, files, max_ids)
            if vocabulary.names != files.names:
                template = _read_template(folder, replace(files, names=vocabulary.names), now)
            return Tokenizer(vocabulary, template)
    raise ModelFileError(
        f"{folder / 'tokenizer.json'}: no such file, nor tokenizer.model or tekken.json beside it.",
        hint="a tokenizer of one of these kinds is needed.",
    )


def _from_json(path: Path, data: bytes, files: Files, max_ids: int, notes: Notes | None) -> Vocabulary:
    """The vocabulary of a tokenizer.json."""
    hf, controls, size = read_tokenizer_json(path, data, files.names, max_ids, notes)
    bos = _id_of(hf, files.names.get("bos_token"))
    eos = _id_of(hf, files.names.get("eos_token"))
    ends = {*files.end_ids, *(() if eos is None else (eos,))}
    prefix, suffix = _around(hf)
    if files.config.get("tokenizer_class") in _ADDING_CLASSES:
        prefix = _overruled(prefix, bos, files.config.get("add_bos_token"))
        suffix = _overruled(suffix, eos, files.config.get("add_eos_token"))
    if any(id >= size for id in (*prefix, *suffix)):
        raise ModelFileError(f"ids {[*prefix, *suffix][:8]} go around a text, the vocabulary has {size}.")
    return Vocabulary(
        hf=hf,
        controls=controls,
        size=size,
        inner=_inner(hf),
        bos_token_id=bos,
        eos_token_ids=tuple(sorted(end for end in ends if 0 <= end < size)),
        prefix=prefix,
        suffix=suffix,
        names=files.names,
    )


def _from_model(path: Path, data: bytes, files: Files, max_ids: int) -> Vocabulary:
    """The vocabulary of a tokenizer.model, which is one of two kinds of file."""
    if looks_like_ranks(data):
        return _from_ranks(read_tiktoken(data), files, max_ids)
    return _from_spm(read_spm_model(data), files, max_ids)


def _from_tekken(path: Path, data: bytes, files: Files, max_ids: int) -> Vocabulary:
    """The vocabulary of a tekken.json."""
    return _from_ranks(read_tekken(data), files, max_ids)


def _from_ranks(model: RankModel, files: Files, max_ids: int) -> Vocabulary:
    """A vocabulary by rank."""
    check_size(len(model.tokens) + len(model.special), max_ids)
    special = rename_special(model.special, model.first_id, len(model.tokens), files)
    hf = build_rank_bpe(replace(model, special=special))
    controls = ControlTokens([ControlToken(id, name) for name, id in special.items()])
    by_id = {id: name for name, id in special.items()}
    own = {"bos_token": by_id[model.special[model.bos]], "eos_token": by_id[model.special[model.eos]]}
    return _around_text(Vocabulary(hf=hf, controls=controls), {**own, **files.names}, files)


def _from_spm(model: SpmModel, files: Files, max_ids: int) -> Vocabulary:
    """The vocabulary of a SentencePiece file, with the tokens that the configuration adds."""
    pieces = model.pieces
    added = extend_pieces(pieces, files)
    check_size(len(pieces.names), max_ids)
    check_pieces(pieces)
    wanted = files.config.get("add_prefix_space")
    text = SpmText(
        dummy_prefix=wanted if isinstance(wanted, bool) else model.dummy_prefix,
        squeeze=model.squeeze,
        charsmap=CharsMap.of(model.charsmap, pieces),
    )
    hf = build_spm(pieces, text=text, unigram=model.model_type == UNIGRAM, escape=model.escape)
    plain = AddedFile("", special=True)
    tokens = [
        ControlToken(id, pieces.names[id], flags.lstrip, flags.rstrip, flags.single_word)
        for id in pieces.of(Kind.CONTROL, Kind.UNKNOWN)
        for flags in (added.get(id, plain),)
    ]
    names = {**{name: pieces.names[id] for name, id in model.ids.items()}, **files.names}
    vocabulary = Vocabulary(
        hf=hf,
        controls=ControlTokens(tokens, unknown=next(pieces.of(Kind.UNKNOWN), None)),
        prepare=text,
        shrinks=text.shrinks,
        # Before 2024 a space went before every stretch of text between control tokens ("legacy").
        prepare_inner=replace(text, dummy_prefix=False) if files.config.get("legacy") is False else None,
    )
    return _around_text(vocabulary, names, files)


def _around_text(vocabulary: Vocabulary, names: Mapping[str, str], files: Files) -> Vocabulary:
    """The same with its special ids, put around a text as the configuration says: by default the beginning only."""
    bos = vocabulary.controls.id_of(names.get("bos_token", ""))
    eos = vocabulary.controls.id_of(names.get("eos_token", ""))
    size = vocabulary.hf.get_vocab_size(with_added_tokens=True)
    ends = {*(end for end in files.end_ids if end < size), *(() if eos is None else (eos,))}
    return replace(
        vocabulary,
        bos_token_id=bos,
        eos_token_ids=tuple(sorted(ends)),
        prefix=(bos,) if bos is not None and files.config.get("add_bos_token", True) is True else (),
        suffix=(eos,) if eos is not None and files.config.get("add_eos_token", False) is True else (),
        names=names,
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


def _read_files(folder: Path) -> Files:
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
    return Files(config, names, ids, _read_json(folder / "added_tokens.json"))


def _read_template(folder: Path, files: Files, now: Callable[[], datetime] | None) -> ChatTemplate | None:
    """The chat template: a file of its own (and one for tools), or a string or named strings in the configuration."""
    path, for_tools = folder / "chat_template.jinja", folder / "additional_chat_templates" / "tool_use.jinja"
    if path.is_file():
        tools = _read_text(for_tools) if for_tools.is_file() else None
        return ChatTemplate(_read_text(path), tool_source=tools, names=files.names, now=now, origin=str(path))
    found, origin = files.config.get("chat_template"), str(folder / "tokenizer_config.json")
    if not found:  # of models that see as well, the file of an older time
        found, origin = (
            _read_json(folder / "chat_template.json").get("chat_template"),
            str(folder / "chat_template.json"),
        )
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


def _read_text(path: Path) -> str:
    """A template's text."""
    try:
        return _read_bytes(path, 4 * limits.MAX_TEMPLATE_CHARS).decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFileError(f"{path}: not UTF-8.") from None


def _read_json(path: Path) -> dict[str, Any]:
    """A small JSON object; {} where there is no such file."""
    if not path.is_file():
        return {}
    data = _read_bytes(path, limits.MAX_CONFIG_BYTES)
    try:
        check_json_bounds(data)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from None
    try:
        value = json.loads(data)
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
