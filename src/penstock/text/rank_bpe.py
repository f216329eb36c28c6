"""Byte-pair vocabularies that list tokens by rank, without merges: tiktoken files (Llama 3) and Mistral's tekken.json.

Knows nothing about chat or folders. Invariant: the neighbours whose bytes together have the lowest rank merge first,
the leftmost first among equals; a word that is a token is taken whole.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import AddedToken, decoders
from tokenizers import Tokenizer as HfTokenizer
from tokenizers.models import BPE

from penstock.core import ModelFileError, check_json_bounds, limits
from penstock.text.json_sections import FLAT, Sections
from penstock.text.patterns import check_pattern
from penstock.text.pieces import byte_alphabet
from penstock.text.pretokenizers import WordCut, pre_tokenizer, word_cut
from penstock.text.spm import score_merges

_MAX_RANKS: Final = limits.MAX_PIECES // 2  # published files list 150,000
_LLAMA3_RANKS: Final = 128_000
_LLAMA3_SPECIAL: Final = 256
_LLAMA3_NAMED: Final = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
    "<|eot_id|>", "<|python_tag|>", "<|image|>",
)  # fmt: skip
_TEKKEN_NAMED: Final = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RankModel:
    """A vocabulary by rank.

    Attributes:
        tokens: the bytes of the ordinary tokens, lowest rank first.
        cut: how words are cut.
        special: control tokens by name.
        first_id: the id of rank 0.
        bos: the beginning token's name.
        eos: the end token's name.
    """

    tokens: Sequence[bytes]
    cut: WordCut
    special: Mapping[str, int]
    first_id: int
    bos: str
    eos: str


def looks_like_ranks(data: bytes) -> bool:
    """Whether a `tokenizer.model` is a tiktoken file: lines of base64 and a rank."""
    line = data[: 4 * limits.MAX_PIECE_CHARS].partition(b"\n")[0].split()
    return len(line) == 2 and line[1].isdigit() and len(line[0]) % 4 == 0 and line[0].isascii()


def read_tiktoken(data: bytes) -> RankModel:
    """Llama 3's vocabulary, the only one whose special tokens and word cut are known by convention.

    Raises:
        ModelFileError: broken lines, or another vocabulary.
    """
    lines = data.split(None, 2 * _LLAMA3_RANKS)
    if len(lines) != 2 * _LLAMA3_RANKS:
        num_lines = data.count(b"\n") + (not data.endswith(b"\n"))
        raise ModelFileError(
            f"{num_lines} ranks, Llama 3 has {_LLAMA3_RANKS}.",
            hint="the special tokens of another tiktoken file aren't in it; add tokenizer.json.",
        )
    tokens = _decode(lines[::2])
    if any(int(rank) != at if rank.isdigit() else True for at, rank in enumerate(lines[1::2])):
        raise ModelFileError("ranks don't ascend from 0.")
    reserved = (f"<|reserved_special_token_{at}|>" for at in range(2, _LLAMA3_SPECIAL))
    names = [*_LLAMA3_NAMED, *reserved][:_LLAMA3_SPECIAL]
    special = {name: _LLAMA3_RANKS + at for at, name in enumerate(names)}
    cut = word_cut("llama3")
    assert cut is not None
    return RankModel(tokens, cut, special, 0, "<|begin_of_text|>", "<|end_of_text|>")


def read_tekken(data: bytes) -> RankModel:
    """Mistral's vocabulary of 2024 and later.

    Raises:
        ModelFileError: not such a file, or sizes that don't fit each other.
    """
    parts = _TekkenParts(data)
    try:
        config = parts.small["config"]
        size, num_special = int(config["default_vocab_size"]), int(config["default_num_special_tokens"])
        pattern, tokens = config["pattern"], parts.tokens[: max(size - num_special, 0)]
        named = [(int(each["rank"]), each["token_str"]) for each in parts.small.get("special_tokens") or ()]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise ModelFileError("not a tekken vocabulary.") from None
    if not 0 < num_special < size <= limits.MAX_VOCAB or parts.num_ranked < len(tokens):
        raise ModelFileError(f"{size} tokens, {num_special} of them special: sizes and ranks don't fit.")
    if not isinstance(pattern, str) or not all(isinstance(name, str) and 0 <= id < num_special for id, name in named):
        raise ModelFileError("the pattern or a special token is of the wrong type or outside its range.")
    check_pattern(pattern)
    names = {at: f"<SPECIAL_{at}>" for at in range(num_special)} | dict(named or enumerate(_TEKKEN_NAMED))
    special = {names[at]: at for at in range(num_special)}
    if len(special) != num_special:
        raise ModelFileError("two special tokens have the same name.")
    return RankModel(tokens, WordCut((pattern,), whole_words=True), special, num_special, "<s>", "</s>")


class _TekkenParts:
    """A tekken.json, gone through in chunks.

    Attributes:
        tokens: the bytes of all tokens listed.
        num_ranked: how many of them, from the first, have the rank of their place.
        small: the configuration and the special tokens.
    """

    def __init__(self, data: bytes) -> None:
        self.tokens: list[bytes] = []
        self.num_ranked = 0
        self.small: dict[str, Any] = {}
        self._data = data
        self._sections = Sections(data, limits.MAX_TOKENIZER_REST_BYTES)
        end = self._sections.members(self._sections.after_gap(0), self._take)
        if self._sections.after_gap(end) != len(data):
            raise ModelFileError(f"not a tekken vocabulary: more follows byte {end}.")

    def _take(self, key: str, at: int) -> int:
        """A member of the whole."""
        if key == "vocab" and self._data[at : at + 1] == b"[":
            return self._take_tokens(at)
        end = self._sections.skip(at)
        if key in ("config", "special_tokens"):
            part = self._data[at:end]
            try:
                check_json_bounds(part)
                self.small[key] = json.loads(part)
            except (ValueError, RecursionError) as error:
                raise ModelFileError(f"not a tekken vocabulary: {error}") from None
        return end

    def _take_tokens(self, at: int) -> int:
        """The list of tokens; returns the offset after it."""
        for end, chunk in self._sections.items(at, FLAT):
            if chunk is None:
                return end
            try:
                encoded = [entry["token_bytes"].encode() for entry in chunk]
                ranks = [entry["rank"] for entry in chunk]
            except (KeyError, AttributeError, ValueError):
                raise ModelFileError("not a tekken vocabulary.") from None
            if self.num_ranked == len(self.tokens):
                self.num_ranked += _num_ascending(ranks, self.num_ranked)
            self.tokens += _decode(encoded)
            if len(self.tokens) > _MAX_RANKS:
                raise ModelFileError(f"more than {_MAX_RANKS} tokens.")
        raise AssertionError("items end with their end")


def _num_ascending(ranks: Sequence[Any], first: int) -> int:
    """How many ranks, from the beginning, count up from `first`."""
    return next((at for at, rank in enumerate(ranks) if rank != first + at), len(ranks))


def build_rank_bpe(model: RankModel) -> HfTokenizer:
    """The tokenizer of a vocabulary by rank.

    Raises:
        ModelFileError: tokens repeat, are too long, or don't cover all bytes.
    """
    letters = {byte: char for char, byte in byte_alphabet().items()}
    names = [token.decode("latin-1").translate(letters) for token in model.tokens]
    parts = set(names)
    if len(parts) != len(names) or not parts >= set(letters.values()):
        raise ModelFileError("tokens repeat, or not every byte is a token.")
    if max(map(len, (*names, *model.special))) > limits.MAX_PIECE_CHARS:
        raise ModelFileError(f"a token is longer than {limits.MAX_PIECE_CHARS} bytes.")
    if clash := sorted(parts & model.special.keys()):
        raise ModelFileError(f"{clash[0]!r} is both an ordinary and a special token.")
    merges = score_merges(names, [-float(rank) for rank in range(len(names))], parts)
    vocab = dict(model.special) | {name: id for id, name in enumerate(names, model.first_id)}
    hf = HfTokenizer(BPE(vocab, merges, ignore_merges=model.cut.whole_words))
    hf.pre_tokenizer = pre_tokenizer(model.cut)
    hf.decoder = decoders.ByteLevel()
    hf.add_special_tokens([AddedToken(name, normalized=False) for name in model.special])
    hf.encode_special_tokens = True
    return hf


def _decode(encoded: Sequence[Any]) -> list[bytes]:
    """Base64 to bytes; empty tokens are refused."""
    try:
        tokens = [base64.b64decode(each, validate=True) for each in encoded]
    except (binascii.Error, ValueError, TypeError):
        raise ModelFileError("a token isn't valid base64.") from None
    if not all(tokens):
        raise ModelFileError("a token is empty.")
    return tokens
