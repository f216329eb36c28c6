"""The tokenizer that a GGUF file carries in its metadata (keys tokenizer.ggml.*, the GGUF specification).

Knows nothing about the file format itself. Invariant: every id in the metadata is checked against the vocabulary,
and a kind that isn't known is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tokenizers import AddedToken, decoders, normalizers
from tokenizers import Tokenizer as HfTokenizer
from tokenizers.models import BPE

from penstock.core import ModelFileError, limits
from penstock.text.chat import ChatTemplate
from penstock.text.pretokenizers import composes, known_kinds, pre_tokenizer, takes_whole_words
from penstock.text.tokenizer import Tokenizer, Vocabulary
from penstock.text.vocab import ControlToken, ControlTokens

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_SPACE = "▁"
_END_NAMES = frozenset({"<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"})
_MAX_PIECE_CHARS = 512


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The vocabulary as the file lists it: names, kinds and scores by id."""

    names: list[str]
    kinds: list[int]
    scores: list[float]


def load_gguf_tokenizer(metadata: Mapping[str, object], *, now: Callable[[], datetime] | None = None) -> Tokenizer:
    """The tokenizer in a GGUF file's metadata.

    Args:
        metadata: the file's key-value pairs.
        now: the date and time for templates that ask.

    Raises:
        ModelFileError: no tokenizer, an unknown kind, or lists that don't fit each other.
    """
    kind = metadata.get("tokenizer.ggml.model")
    pieces = _read_pieces(metadata)
    if kind == "llama":
        hf = _build_spm(pieces, _flag(metadata, "add_space_prefix", True))
    elif kind == "gpt2":
        hf = _build_byte_level(pieces, metadata)
    else:
        raise _error(f"tokenizer.ggml.model is {str(kind)[:64]!r}", hint="llama and gpt2 can be read.")
    _add_special(hf, pieces)
    return _assemble(hf, pieces, metadata, now)


def _assemble(
    hf: HfTokenizer, pieces: _Pieces, metadata: Mapping[str, object], now: Callable[[], datetime] | None
) -> Tokenizer:
    """The tokenizer with its special ids and template."""
    size = len(pieces.names)
    bos, eos = _id(metadata, "bos_token_id", size), _id(metadata, "eos_token_id", size)
    unknown = _id(metadata, "unknown_token_id", size)
    controls = [
        ControlToken(id, pieces.names[id])
        for id, kind in enumerate(pieces.kinds)
        if kind in (_CONTROL, _UNKNOWN) or id in (bos, eos)
    ]
    ends = {eos, _id(metadata, "eot_token_id", size), _id(metadata, "eom_token_id", size)}
    ends |= {token.id for token in controls if token.text in _END_NAMES}
    spm = metadata.get("tokenizer.ggml.model") == "llama"
    names = {
        name: pieces.names[id]
        for name, id in (("bos_token", bos), ("eos_token", eos), ("unk_token", unknown))
        if id is not None
    }
    vocabulary = Vocabulary(
        hf=hf,
        controls=ControlTokens(controls, unknown=unknown),
        bos_token_id=bos,
        eos_token_ids=tuple(sorted(end for end in ends if end is not None)),
        prefix=(bos,) if bos is not None and _flag(metadata, "add_bos_token", spm) else (),
        suffix=(eos,) if eos is not None and _flag(metadata, "add_eos_token", False) else (),
        names=names,
    )
    source = metadata.get("tokenizer.chat_template")
    template = ChatTemplate(source, names=names, now=now) if isinstance(source, str) and source else None
    return Tokenizer(vocabulary, template)


def _build_spm(pieces: _Pieces, space_prefix: bool) -> HfTokenizer:
    """SentencePiece's BPE: the pair whose piece has the best score merges first (Kudo and Richardson 2018)."""
    vocab = {name: id for id, name in enumerate(pieces.names)}
    unknown = next((name for name, kind in zip(pieces.names, pieces.kinds, strict=True) if kind == _UNKNOWN), None)
    fallback = sum(kind == _BYTE for kind in pieces.kinds) == 256
    model = BPE(vocab, _spm_merges(pieces, vocab), unk_token=unknown, fuse_unk=True, byte_fallback=fallback)
    hf = HfTokenizer(model)
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(_SPACE)] if space_prefix else []
    hf.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    strip: list[decoders.Decoder] = [decoders.Strip(" ", 1, 0)] if space_prefix else []
    hf.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return hf


def _spm_merges(pieces: _Pieces, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every way to put an ordinary piece together from two others, best score first, lower ids first among equals."""
    ranked: list[tuple[float, int, int, str, str]] = []
    usable = {name for name, kind in zip(pieces.names, pieces.kinds, strict=True) if kind in (_NORMAL, _USER, _UNUSED)}
    for id, name in enumerate(pieces.names):
        if len(name) < 2 or pieces.kinds[id] != _NORMAL:
            continue
        for cut in range(1, len(name)):
            left, right = name[:cut], name[cut:]
            if left in usable and right in usable:
                ranked.append((-pieces.scores[id], vocab[left], vocab[right], left, right))
    ranked.sort()
    return [(left, right) for _, _, _, left, right in ranked]


def _build_byte_level(pieces: _Pieces, metadata: Mapping[str, object]) -> HfTokenizer:
    """GPT-2's byte-level BPE with the file's merges and its way of cutting words."""
    kind = metadata.get("tokenizer.ggml.pre", "default")
    cut = pre_tokenizer(kind) if isinstance(kind, str) else None
    if cut is None or not isinstance(kind, str):
        raise _error(f"tokenizer.ggml.pre is {str(kind)[:64]!r}", hint=f"known are {', '.join(known_kinds())}.")
    vocab = {name: id for id, name in enumerate(pieces.names)}
    model = BPE(vocab, _file_merges(metadata, vocab), ignore_merges=takes_whole_words(kind))
    hf = HfTokenizer(model)
    if composes(kind):
        hf.normalizer = normalizers.NFC()
    hf.pre_tokenizer = cut
    hf.decoder = decoders.ByteLevel()
    return hf


def _file_merges(metadata: Mapping[str, object], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges of the file, checked."""
    merges: list[tuple[str, str]] = []
    for line in map(str, _list(metadata, "merges", limits.MAX_VOCAB)):
        cut = line.find(" ", 1)
        left, right = line[:cut], line[cut + 1 :]
        if cut < 0 or left not in vocab or right not in vocab or left + right not in vocab:
            raise _error(f"merge {line[:64]!r} does not fit the vocabulary")
        merges.append((left, right))
    return merges


def _add_special(hf: HfTokenizer, pieces: _Pieces) -> None:
    """Tells the tokenizer which names are tokens of their own."""
    special = [
        AddedToken(name, normalized=False, special=True)
        for name, kind in zip(pieces.names, pieces.kinds, strict=True)
        if kind in (_CONTROL, _UNKNOWN) and name
    ]
    users = [
        AddedToken(name, normalized=False, special=False)
        for name, kind in zip(pieces.names, pieces.kinds, strict=True)
        if kind == _USER and name
    ]
    hf.add_special_tokens(special)
    hf.add_tokens(users)
    hf.encode_special_tokens = True


def _read_pieces(metadata: Mapping[str, object]) -> _Pieces:
    """The vocabulary's lists, the same length each."""
    names = _list(metadata, "tokens", limits.MAX_VOCAB)
    if not names:
        raise _error("tokenizer.ggml.tokens is empty or missing")
    size = len(names)
    kinds = _list(metadata, "token_type", size) or [_NORMAL] * size
    scores = _list(metadata, "scores", size) or [0.0] * size
    for what, values in (("token_type", kinds), ("scores", scores)):
        if len(values) != size:
            raise _error(f"{len(values)} entries in tokenizer.ggml.{what} for {size} tokens")
    texts = [name if isinstance(name, str) else "" for name in names]
    if max(map(len, texts)) > _MAX_PIECE_CHARS:
        raise _error(f"a token is longer than {_MAX_PIECE_CHARS} characters")
    try:
        return _Pieces(texts, [int(kind) for kind in kinds], [float(score) for score in scores])
    except (TypeError, ValueError):
        raise _error("tokenizer.ggml.token_type and scores must hold numbers") from None


def _list(metadata: Mapping[str, object], key: str, limit: int) -> list[Any]:
    """A list of the metadata, [] where it isn't."""
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        return []
    if hasattr(value, "tolist"):  # an array
        size, items = getattr(value, "size", 0), value.tolist
    elif isinstance(value, (list, tuple)):
        size, items = len(value), value.__iter__
    else:
        raise _error(f"tokenizer.ggml.{key} is not a list")
    if size > limit:
        raise _error(f"{size} entries in tokenizer.ggml.{key}, at most {limit} are taken")
    return list(items())


def _id(metadata: Mapping[str, object], key: str, size: int) -> int | None:
    """A token id of the metadata, or None."""
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__") or not 0 <= int(value.__index__()) < size:
        raise _error(f"tokenizer.ggml.{key} is {str(value)[:32]}, the vocabulary has {size} tokens")
    return int(value.__index__())


def _flag(metadata: Mapping[str, object], key: str, default: bool) -> bool:
    """A truth value of the metadata."""
    value = metadata.get(f"tokenizer.ggml.{key}")
    return default if value is None else bool(value)


def _error(reason: str, hint: str | None = None) -> ModelFileError:
    """One line about the file's tokenizer."""
    return ModelFileError(f"GGUF tokenizer: {reason}.", hint=hint)
