"""The bytes each token stands for, read from a tokenizer's decoder; and whether that is enough to decode.

Knows nothing about streams or requests. Invariant: where `read_rule` gives a rule, the text of ids is the UTF-8 of
their bytes put together, less the leading spaces that the rule drops.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as HfTokenizer
from tokenizers.models import Unigram

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class PieceRule:
    """How a decoder turns a token's name into bytes.

    Attributes:
        byte_level: names are in the byte alphabet of GPT-2.
        space: the character that stands for a space ("" for none).
        byte_fallback: names such as <0x0A> are single bytes.
        strip: leading spaces of a whole text that are dropped.
    """

    byte_level: bool = False
    space: str = ""
    byte_fallback: bool = False
    strip: int = 0


def byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level vocabularies write for each byte (Radford et al. 2019, GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table


def piece_bytes(name: str, rule: PieceRule, alphabet: dict[str, int]) -> bytes:
    """The bytes of one token under a rule."""
    if rule.byte_level:
        try:
            return bytes([alphabet[char] for char in name])
        except KeyError:  # an added token that is not in the byte alphabet stands for itself
            return name.encode("utf-8", "replace")
    if rule.byte_fallback and (match := _BYTE_TOKEN.fullmatch(name)):
        return bytes([int(match[1], 16)])
    if rule.space:
        name = name.replace(rule.space, " ")
    return name.encode("utf-8", "replace")


def read_rule(hf: HfTokenizer) -> PieceRule | None:
    """The rule that a tokenizer's decoder follows, or None when tokens can't be decoded one by one."""
    if hf.decoder is None:
        return None
    steps = _steps(json.loads(hf.decoder.__getstate__()))
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return PieceRule(byte_level=True)
    if kinds == ["Metaspace"]:
        strip = 0 if steps[0].get("prepend_scheme") == "never" else 1
        return PieceRule(space=steps[0]["replacement"], strip=strip)
    return _sequence_rule(steps)


def drops_text(hf: HfTokenizer) -> bool:
    """Whether any number of characters may end up in no token, or in one."""
    model: Any = hf.model
    fuses = bool(getattr(model, "fuse_unk", False)) and not getattr(model, "byte_fallback", False)
    if fuses or isinstance(model, Unigram):  # which doesn't say whether it falls back to bytes
        return True
    if hf.normalizer is None:
        return False
    return any(map(_drops, _steps(json.loads(hf.normalizer.__getstate__()))))


def _drops(step: dict[str, Any]) -> bool:
    """Whether a normalizer's step may drop characters."""
    match step:
        case {"type": "NFC" | "NFD" | "NFKC" | "NFKD" | "Prepend" | "Lowercase"}:
            return False
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)}:
            return len(content.encode()) < len(pattern.encode())
        case _:
            return True


def _steps(state: dict[str, Any]) -> list[dict[str, Any]]:
    """A decoder's or normalizer's steps, sequences opened."""
    if state.get("type") == "Sequence":
        return [inner for step in state.get("decoders") or state.get("normalizers") or () for inner in _steps(step)]
    return [state]


def _sequence_rule(steps: list[dict[str, Any]]) -> PieceRule | None:
    """The rule of a SentencePiece-like chain: Replace, ByteFallback, Fuse, and Strip of leading spaces."""
    space, fallback, fused, strip = "", False, False, 0
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": " "} if not space and not fused:
                space = pattern
            case {"type": "ByteFallback"} if not fused:
                fallback = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0} if fused:
                strip += start
            case _:
                return None
    return PieceRule(space=space, byte_fallback=fallback, strip=strip) if fused else None
