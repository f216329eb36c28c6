"""BERT's WordPiece built from a GGUF vocabulary, which marks beginnings of words where BERT marks continuations.

Knows nothing about GGUF metadata. Invariant: a piece that GGUF writes with U+2581 begins a word, any other ordinary one
continues it.
"""

from __future__ import annotations

from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer
from tokenizers.models import WordPiece

from penstock.core import ModelFileError
from penstock.text.spm import SPACE, Kind, Pieces

_INSIDE = "##"
_MAX_WORD_CHARS = 100  # BERT's own bound: a longer word is unknown


def build_wordpiece(pieces: Pieces, *, unknown: int, lowercase: bool, strip_accents: bool) -> HfTokenizer:
    """The tokenizer: the longest known piece first (Wu et al. 2016, as BERT uses it).

    Args:
        pieces: the vocabulary in GGUF's spelling.
        unknown: the id for words that can't be spelled.
        lowercase: letters become small ones.
        strip_accents: marks above and below letters go.

    Raises:
        ModelFileError: two pieces are the same in BERT's spelling.
    """
    special = [pieces.names[id] for id in pieces.of(Kind.CONTROL, Kind.UNKNOWN, Kind.USER)]
    marked = set(special)
    names = [name if name in marked else _spell(name) for name in pieces.names]
    vocab = {name: id for id, name in enumerate(names)}
    if len(vocab) != len(names):
        raise ModelFileError("two pieces are the same piece.")
    hf = HfTokenizer(WordPiece(vocab, unk_token=names[unknown], max_input_chars_per_word=_MAX_WORD_CHARS))
    hf.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    hf.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    hf.decoder = decoders.WordPiece(prefix=_INSIDE)
    hf.add_special_tokens([AddedToken(name, normalized=False) for name in special if name])
    hf.encode_special_tokens = True
    return hf


def _spell(name: str) -> str:
    """A piece as BERT writes it."""
    return name[1:] if name.startswith(SPACE) else _INSIDE + name
