"""The tokenizer that a GGUF file carries in its metadata (keys tokenizer.ggml.*, the GGUF specification).

Knows nothing about the file format itself. Invariant: every id in the metadata is checked against the vocabulary,
and a kind that isn't known is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tokenizers import AddedToken, decoders, normalizers
from tokenizers import Tokenizer as HfTokenizer
from tokenizers.models import BPE

from penstock.core import ModelFileError, limits
from penstock.text.charsmap import CharsMap
from penstock.text.chat import ChatTemplate
from penstock.text.pretokenizers import WordCut, known_kinds, pre_tokenizer, word_cut
from penstock.text.spm import Kind, Pieces, SpmText, build_spm, check_pieces
from penstock.text.tokenizer import Tokenizer, Vocabulary
from penstock.text.vocab import ControlToken, ControlTokens, check_size, looks_like_control
from penstock.text.wordpiece import build_wordpiece

_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")
# Phi-3's turn tokens swallow the white space after them, which a file can't say; these don't.
_KEEPS_SPACE = frozenset({"<unk>", "<s>", "<|endoftext|>"})


@dataclass(frozen=True, slots=True)
class _Family:
    """What a kind of tokenizer takes for granted where the file is silent (as llama.cpp does).

    Attributes:
        ids: special ids by key.
        adds_bos: the beginning token goes before a text.
        adds_eos: the end token goes after it.
    """

    ids: Mapping[str, int]
    adds_bos: bool = False
    adds_eos: bool = False


_FAMILIES: Final[Mapping[str, _Family]] = {
    "llama": _Family({"bos": 1, "eos": 2, "unknown": 0}, adds_bos=True),
    "gpt2": _Family({}),
    "bert": _Family({"bos": 101, "unknown": 100, "seperator": 102, "eos": 102}, adds_bos=True, adds_eos=True),
    "t5": _Family({"eos": 1, "unknown": 2}, adds_eos=True),
}


def load_gguf_tokenizer(
    metadata: Mapping[str, object], *, now: Callable[[], datetime] | None = None, max_ids: int = limits.MAX_VOCAB
) -> Tokenizer:
    """The tokenizer in a GGUF file's metadata.

    Args:
        metadata: the file's key-value pairs.
        now: the date and time for templates that ask.
        max_ids: rows of the model's embedding.

    Raises:
        ModelFileError: no tokenizer, an unknown kind, lists that don't fit each other, or more ids than that.
    """
    kind = metadata.get("tokenizer.ggml.model")
    pieces = _read_pieces(metadata)
    family = _FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise _error(f"tokenizer.ggml.model is {str(kind)[:64]!r}", hint=f"{', '.join(_FAMILIES)} can be read.")
    try:
        check_size(len(pieces.names), max_ids)
        check_pieces(pieces)
        special = _Special(metadata, pieces, family)
        if kind == "gpt2":
            cut = _word_cut(metadata)
            vocabulary = special.vocabulary(_build_byte_level(pieces, metadata, cut), None, cut.adds_bos)
        elif kind == "bert":
            vocabulary = special.vocabulary(_build_wordpiece(pieces, metadata, special), None, True)
        else:
            text = _spm_text(metadata, pieces, dummy_prefix=kind == "llama")
            hf = build_spm(pieces, text=text, unigram=kind == "t5", escape=_flag(metadata, "escape_whitespaces", True))
            vocabulary = special.vocabulary(hf, text, family.adds_bos)
    except ModelFileError as error:
        raise error if error.message.startswith("GGUF") else _error(error.message.rstrip("."), error.hint) from None
    return Tokenizer(vocabulary, _template(metadata, vocabulary, now))


def _template(
    metadata: Mapping[str, object], vocabulary: Vocabulary, now: Callable[[], datetime] | None
) -> ChatTemplate | None:
    """The chat template, with the one for conversations with tools where the file has two."""
    source, for_tools = (metadata.get(f"tokenizer.chat_template{name}") for name in ("", ".tool_use"))
    if not isinstance(source, str) or not source:
        return None
    tool_source = for_tools if isinstance(for_tools, str) and for_tools else None
    return ChatTemplate(source, tool_source=tool_source, names=vocabulary.names, now=now)


class _Special:
    """The special tokens of a file: ids by name, which tokens steer the model, which end an answer.

    Args:
        metadata: the file's key-value pairs.
        pieces: its vocabulary.
        family: what holds where the file is silent.
    """

    def __init__(self, metadata: Mapping[str, object], pieces: Pieces, family: _Family) -> None:
        self._metadata = metadata
        self._pieces = pieces
        self._family = family
        self.unknown = self._id("unknown")
        self._bos, self._eos = self._id("bos"), self._id("eos")
        for id in (self.unknown, self._bos, self._eos):
            if id is not None and pieces.kinds[id] == Kind.NORMAL:
                pieces.kinds[id] = Kind.UNKNOWN if id == self.unknown else Kind.CONTROL
        for id in pieces.of(Kind.USER):
            if looks_like_control(pieces.names[id]):
                pieces.kinds[id] = Kind.CONTROL

    def vocabulary(self, hf: HfTokenizer, text: SpmText | None, adds_bos: bool) -> Vocabulary:
        """The vocabulary around a tokenizer."""
        bos, eos, pieces = self._bos, self._eos, self._pieces
        strips = self._strips()
        controls = [
            ControlToken(id, pieces.names[id], rstrip=strips and pieces.names[id] not in _KEEPS_SPACE)
            for id in pieces.of(Kind.CONTROL, Kind.UNKNOWN)
        ]
        ends = {eos, self._id("eot"), self._id("eom")}
        special = (("bos_token", bos), ("eos_token", eos), ("unk_token", self.unknown))
        last = self._id("seperator") if eos is None or "seperator" in self._family.ids else eos
        adds_eos = _flag(self._metadata, "add_eos_token", self._family.adds_eos)
        return Vocabulary(
            hf=hf,
            controls=ControlTokens(controls, unknown=self.unknown),
            prepare=text,
            shrinks=text is not None and text.shrinks,
            bos_token_id=bos,
            eos_token_ids=tuple(sorted(end for end in ends if end is not None)),
            prefix=(bos,) if bos is not None and _flag(self._metadata, "add_bos_token", adds_bos) else (),
            suffix=(last,) if last is not None and adds_eos else (),
            names={name: pieces.names[id] for name, id in special if id is not None},
        )

    def _strips(self) -> bool:
        """Whether this is Phi-3's SentencePiece vocabulary."""
        get = self._metadata.get
        name = re.sub("[-_ ]", "", str(get("general.name", "")).lower())
        return get("tokenizer.ggml.model") == "llama" and (get("general.architecture") == "phi3" or "phi3" in name)

    def _id(self, name: str) -> int | None:
        """A token id of the metadata or the family's own; None where neither has one."""
        size = len(self._pieces.names)
        key = f"tokenizer.ggml.{name}_token_id"
        value = self._metadata.get(key)
        if value is None:
            default = self._family.ids.get(name)
            return default if default is not None and default < size else None
        if isinstance(value, bool) or not hasattr(value, "__index__") or not 0 <= int(value.__index__()) < size:
            shown = ascii(value[:32] if isinstance(value, str) else value)[:40]
            raise _error(f"{key} is {shown}, the vocabulary has {size} tokens")
        return int(value.__index__())


def _spm_text(metadata: Mapping[str, object], pieces: Pieces, dummy_prefix: bool) -> SpmText:
    """What is done to a text before a SentencePiece model sees it."""
    if _flag(metadata, "treat_whitespace_as_suffix", False):
        raise _error("tokenizer.ggml.treat_whitespace_as_suffix is not served")
    charsmap = metadata.get("tokenizer.ggml.precompiled_charsmap")
    try:
        data = b"" if charsmap is None else bytes(_list(metadata, "precompiled_charsmap", limits.MAX_CONFIG_BYTES))
    except (TypeError, ValueError):
        raise _error("tokenizer.ggml.precompiled_charsmap must hold bytes") from None
    return SpmText(
        dummy_prefix=_flag(metadata, "add_space_prefix", dummy_prefix),
        squeeze=_flag(metadata, "remove_extra_whitespaces", False),
        charsmap=CharsMap.of(data, pieces),
    )


def _build_wordpiece(pieces: Pieces, metadata: Mapping[str, object], special: _Special) -> HfTokenizer:
    """BERT's WordPiece."""
    if special.unknown is None:
        raise _error("tokenizer.ggml.unknown_token_id is missing")
    lowercase = _flag(metadata, "normalizer.lowercase", True)
    accents = _flag(metadata, "normalizer.strip_accents", lowercase)
    return build_wordpiece(pieces, unknown=special.unknown, lowercase=lowercase, strip_accents=accents)


def _word_cut(metadata: Mapping[str, object]) -> WordCut:
    """How the file's words are cut."""
    kind = metadata.get("tokenizer.ggml.pre", "default")
    cut = word_cut(kind) if isinstance(kind, str) else None
    if cut is None:
        raise _error(f"tokenizer.ggml.pre is {str(kind)[:64]!r}", hint=f"known are {', '.join(known_kinds())}.")
    return cut


def _build_byte_level(pieces: Pieces, metadata: Mapping[str, object], cut: WordCut) -> HfTokenizer:
    """GPT-2's byte-level BPE with the file's merges and its way of cutting words."""
    vocab = {name: id for id, name in enumerate(pieces.names)}
    hf = HfTokenizer(BPE(vocab, _file_merges(metadata, vocab), ignore_merges=cut.whole_words))
    if cut.composed:
        hf.normalizer = normalizers.NFC()
    hf.pre_tokenizer = pre_tokenizer(cut)
    hf.decoder = decoders.ByteLevel()
    names = pieces.names
    special = [AddedToken(names[id], normalized=False) for id in pieces.of(Kind.CONTROL, Kind.UNKNOWN)]
    hf.add_special_tokens(special)
    hf.add_tokens([AddedToken(names[id], normalized=False) for id in pieces.of(Kind.USER)])
    hf.encode_special_tokens = True
    return hf


def _file_merges(metadata: Mapping[str, object], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges of the file, checked."""
    if metadata.get("tokenizer.ggml.merges") is None:
        raise _error("tokenizer.ggml.merges is missing")
    lines = list(map(str, _list(metadata, "merges", limits.MAX_MERGES)))
    cuts = [line.find(" ", 1) for line in lines]
    for line, cut in zip(lines, cuts, strict=True):  # all of them before one is kept: two hundred bytes each
        left, right = line[:cut], line[cut + 1 :]
        if cut < 0 or left not in vocab or right not in vocab or left + right not in vocab:
            raise _error(f"merge {line[:64]!r} does not fit the vocabulary")
    return [(line[:cut], line[cut + 1 :]) for line, cut in zip(lines, cuts, strict=True)]


def _read_pieces(metadata: Mapping[str, object]) -> Pieces:
    """The vocabulary's lists, the same length each; empty names are replaced, as llama.cpp does."""
    names = _list(metadata, "tokens", limits.MAX_PIECES)
    if not names:
        raise _error("tokenizer.ggml.tokens is empty or missing")
    size = len(names)
    kinds = _list(metadata, "token_type", size) or list(map(_likely_kind, names))
    scores = _list(metadata, "scores", size) or [0.0] * size
    for what, values in (("token_type", kinds), ("scores", scores)):
        if len(values) != size:
            raise _error(f"{len(values)} entries in tokenizer.ggml.{what} for {size} tokens")
    if not all(isinstance(name, str) for name in names):
        raise _error("tokenizer.ggml.tokens must hold strings")
    if max(map(len, names)) > limits.MAX_PIECE_CHARS:
        raise _error(f"a token is longer than {limits.MAX_PIECE_CHARS} characters")
    texts = [name or f"[EMPTY_{id}]" for id, name in enumerate(names)]
    try:
        return Pieces(texts, list(map(int, kinds)), list(map(float, scores)))
    except (TypeError, ValueError, OverflowError):
        raise _error("tokenizer.ggml.token_type and scores must hold numbers") from None


def _likely_kind(name: object) -> Kind:
    """What a token is in a file that does not say: what looks like a byte or like control is one."""
    if not isinstance(name, str) or not name.startswith(("<", "[")):
        return Kind.NORMAL
    return Kind.CONTROL if looks_like_control(name) else Kind.BYTE if _BYTE.fullmatch(name) else Kind.NORMAL


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


def _flag(metadata: Mapping[str, object], key: str, default: bool) -> bool:
    """A truth value of the metadata."""
    value = metadata.get(f"tokenizer.ggml.{key}")
    return default if value is None else bool(value)


def _error(reason: str, hint: str | None = None) -> ModelFileError:
    """One line about the file's tokenizer."""
    return ModelFileError(f"GGUF tokenizer: {reason}.", hint=hint)
