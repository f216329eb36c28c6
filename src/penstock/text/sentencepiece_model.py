"""A SentencePiece `.model` file: its pieces and the settings that decide how text is cut.

Knows nothing about the library that cuts. The file is a protocol buffer (sentencepiece_model.proto): a sequence of
fields, each a number, a wire type and a value. Invariant: a length is checked against the bytes that are left before
anything is taken, and only three levels are ever opened.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from penstock.core import ModelFileError, limits
from penstock.text.spm import Kind, Pieces

UNIGRAM: Final = 1
BPE: Final = 2
_MODELS = MappingProxyType({UNIGRAM: "unigram", BPE: "BPE", 3: "word", 4: "character"})
# Fields of the messages that are read: ModelProto, SentencePiece, TrainerSpec, NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_NAME, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _AS_SUFFIX = 3, 24
_IDS = MappingProxyType({40: "unk_token", 41: "bos_token", 42: "eos_token", 43: "pad_token"})
_DEFAULT_IDS = MappingProxyType({"unk_token": 0, "bos_token": 1, "eos_token": 2, "pad_token": -1})
_CHARSMAP, _DUMMY_PREFIX, _SQUEEZE, _ESCAPE = 2, 3, 4, 5

PIECE_BYTES: Final = 240  # what one takes in memory at most, until its vocabulary is refused

_Value: TypeAlias = int | memoryview
_KINDS = frozenset(map(int, Kind))


@dataclass(frozen=True, slots=True)
class SpmModel:
    """What a file says.

    Attributes:
        pieces: the vocabulary.
        model_type: UNIGRAM or BPE.
        ids: special ids by name (unk_token, bos_token, eos_token, pad_token); names without an id are absent.
        dummy_prefix: a space goes before a text.
        squeeze: runs of spaces become one, those at the ends go.
        escape: spaces are written as U+2581.
        charsmap: the precompiled map of characters, b"" for none.
    """

    pieces: Pieces
    model_type: int
    ids: Mapping[str, int]
    dummy_prefix: bool
    squeeze: bool
    escape: bool
    charsmap: bytes


def read_spm_model(data: bytes) -> SpmModel:
    """The model in a file's bytes.

    Raises:
        ModelFileError: no such file, broken, too large, or of a kind that isn't served.
    """
    pieces = Pieces([], [], [])
    trainer: dict[int, _Value] = {}
    normalizer: dict[int, _Value] = {}
    for field, value in _fields(memoryview(data)):
        if field == _PIECES:
            _add_piece(pieces, _message(value))
        elif field == _TRAINER:
            trainer |= _fields(_message(value))
        elif field == _NORMALIZER:
            normalizer |= _fields(_message(value))
    if not pieces.names:
        raise ModelFileError("no pieces.")
    model_type = _number(trainer, _MODEL_TYPE, UNIGRAM)
    if model_type not in (UNIGRAM, BPE):
        raise ModelFileError(f"the model is {_MODELS.get(model_type, model_type)}; BPE and unigram are served.")
    if _number(trainer, _AS_SUFFIX, 0):
        raise ModelFileError("spaces belong to the word before them (treat_whitespace_as_suffix), which isn't served.")
    size = len(pieces.names)
    ids = {name: _signed(_number(trainer, field, _DEFAULT_IDS[name])) for field, name in _IDS.items()}
    charsmap = normalizer.get(_CHARSMAP, memoryview(b""))
    return SpmModel(
        pieces=pieces,
        model_type=model_type,
        ids={name: id for name, id in ids.items() if 0 <= id < size},
        dummy_prefix=bool(_number(normalizer, _DUMMY_PREFIX, 1)),
        squeeze=bool(_number(normalizer, _SQUEEZE, 1)),
        escape=bool(_number(normalizer, _ESCAPE, 1)),
        charsmap=bytes(_message(charsmap)),
    )


def _add_piece(pieces: Pieces, data: memoryview) -> None:
    """Appends one piece."""
    if len(pieces.names) >= limits.MAX_OVERHEAD_BYTES // PIECE_BYTES:
        raise ModelFileError(f"more than {len(pieces.names)} pieces, which would take too much memory.")
    name, score, kind = b"", 0.0, int(Kind.NORMAL)
    for field, value in _fields(data):
        if field == _NAME:
            name = bytes(_message(value))
        elif field == _SCORE and isinstance(value, memoryview) and len(value) == 4:
            (score,) = struct.unpack("<f", value)
        elif field == _KIND:
            kind = value if isinstance(value, int) else 0
    if len(name) > 4 * limits.MAX_PIECE_CHARS:
        raise ModelFileError(f"a piece of {len(name)} bytes, at most {4 * limits.MAX_PIECE_CHARS} are taken.")
    if kind not in _KINDS:
        raise ModelFileError(f"piece {len(pieces.names)} is of kind {kind}, 1 to 6 are known.")
    try:
        pieces.names.append(name.decode("utf-8"))
    except UnicodeDecodeError:
        raise ModelFileError(f"piece {len(pieces.names)} isn't UTF-8.") from None
    pieces.scores.append(score)
    # The library looks for these after it has written spaces as U+2581, and never finds one that has a space.
    pieces.kinds.append(Kind.UNUSED if kind == Kind.USER and b" " in name else kind)


def _fields(data: memoryview) -> Iterator[tuple[int, _Value]]:
    """(number, value) of each field: integers as they are, everything else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire, -1)
        if not 0 <= size <= len(data) - at:
            raise ModelFileError(f"broken at byte {at}: wire type {wire}, {size} bytes of {len(data) - at}.")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """(number, offset after it): seven bits a byte, the lowest first, at most ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ModelFileError(f"ends inside a number at byte {at}.")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ModelFileError(f"a number of more than ten bytes at byte {at}.")


def _message(value: _Value) -> memoryview:
    """The bytes of a field."""
    if isinstance(value, int):
        raise ModelFileError("a number stands where a message or a string belongs.")
    return value


def _number(fields: Mapping[int, _Value], field: int, default: int) -> int:
    """An integer field, or its default."""
    value = fields.get(field, default)
    if not isinstance(value, int):
        raise ModelFileError("a string stands where a number belongs.")
    return value


def _signed(value: int) -> int:
    """A 64-bit two's complement number."""
    return value - (1 << 64) if value >= 1 << 63 else value
