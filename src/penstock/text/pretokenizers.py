"""How byte-level vocabularies in GGUF files cut text into words before merging, by the name the file gives.

Knows nothing about vocabularies. Invariant: a name that isn't known is refused, never guessed: another cut gives
other tokens than the model was trained with. Names are those that llama.cpp gives (`tokenizer.ggml.pre`); where it
bends a published expression to its own matcher, the published one stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
LLAMA3: Final = _SHORT + _WORD + r"|\p{N}{1,3}" + _MARKS + _SPACES
_QWEN2 = _SHORT + _WORD + r"|\p{N}" + _MARKS + _SPACES
_QWEN35 = _SHORT + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACES
_MINICPM5 = _SHORT + _WORD + r"|\p{N}+" + _MARKS + _SPACES
_SEED_CODER = _SHORT + _WORD + r"|\p{N}| ?[^\s\p{L}\p{N}\r\n]+" + _SPACES
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_JAIS2 = LLAMA3.removesuffix(r"|\s+(?!\S)|\s+") + "".join(
    rf"|\s{{{count}}}(?!\S)" for count in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2")
) + r"|\s{1}"  # fmt: skip

_BEGIN = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_MARKS_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"


def _cased(ending: str, digits: str) -> str:
    """Words cut where small letters turn into capitals (the o200k family)."""
    words = f"{_BEGIN}{_UPPER}*{_LOWER}+{ending}|{_BEGIN}{_UPPER}+{_LOWER}*{ending}"
    return f"{words}|{digits}{_MARKS_SLASH}{_SPACES}"


_TEKKEN = _cased("", r"\p{N}")
_GPT4O = _cased(_SHORT + "?", r"\p{N}{1,3}")
_YOUTU = _cased(_SHORT + "?", r"\p{N}")
_YOUTU_SCRIPTS = r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
_HAN = "[一-龥ࠀ-一가-퟿]+"
_CASED = (  # letters that have case, as of Unicode 11; escaped, since some of them change when text is composed
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_CASED}]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    _HAN,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}")
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    + _SPACES,
)
_BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
_THREES = "[0-9][0-9][0-9]"


@dataclass(frozen=True, slots=True)
class WordCut:
    """One way to cut text into words.

    Attributes:
        patterns: expressions, each of which cuts what the one before it left; what they match stands alone.
        whole_words: a word that is a token is taken without merging.
        composed: text is brought to NFC first.
        adds_bos: a file that doesn't say so wants its beginning token.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    composed: bool = False
    adds_bos: bool = False


_LLAMA3_CUT = WordCut((LLAMA3,), whole_words=True, adds_bos=True)
_ONE_DIGIT = WordCut((r"\p{N}", _GPT2))
_FALCON = WordCut((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, _THREES))


def _table() -> dict[str, WordCut]:
    """The cuts by name."""
    groups: tuple[tuple[str, WordCut], ...] = (
        ("default", WordCut((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", _THREES))),
        ("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2", _LLAMA3_CUT),
        ("dbrx smaug-bpe glm4 chatglm-bpe", WordCut((LLAMA3,))),
        ("jais-2", WordCut((_JAIS2,))),
        ("gpt-2 phi-2 gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion granite-docling", WordCut((_GPT2,))),
        ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", _ONE_DIGIT),
        ("falcon", _FALCON),
        ("qwen2 deepseek-r1-qwen", WordCut((_QWEN2,), composed=True)),
        ("qwen35", WordCut((_QWEN35,), composed=True)),
        ("stablelm2 megrez hunyuan solar-open grok-2 kormo f2llmv2", WordCut((_QWEN2,))),
        ("deepseek-llm", WordCut(_DEEPSEEK_LLM)),
        ("deepseek-coder", WordCut(_DEEPSEEK_CODER)),
        ("deepseek-v3 hunyuan-dense joyai-llm", WordCut(_DEEPSEEK_V3)),
        ("youtu", WordCut((_YOUTU_SCRIPTS, _YOUTU), whole_words=True)),
        ("tekken", WordCut((_TEKKEN,), whole_words=True, adds_bos=True)),
        ("gpt-4o llama4 kanana2 talkie minimax-m2", WordCut((_GPT4O,))),
        ("tiny_aya cohere2moe", WordCut((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O))),
        ("superbpe", WordCut((r"\p{N}+", r"(?=(\d{3})+(?!\d))"))),
        ("bailingmoe bailingmoe2 llada-moe", WordCut((_BAILING,))),
        ("seed-coder", WordCut((_SEED_CODER,))),
        ("minicpm5", WordCut((r"\p{N}{1,3}", _MINICPM5), whole_words=True)),
        ("poro-chat bloom gpt3-finnish", WordCut((_BLOOM,))),
        ("viking", WordCut((_BLOOM, r"\p{N}"))),
    )
    return {name: cut for names, cut in groups for name in names.split()}


_CUTS = MappingProxyType(_table())


def known_kinds() -> tuple[str, ...]:
    """The names that can be served."""
    return tuple(sorted(_CUTS))


def word_cut(kind: str) -> WordCut | None:
    """The cut of that name, or None for an unknown one."""
    return _CUTS.get(kind)


def pre_tokenizer(cut: WordCut) -> PreTokenizer:
    """The library's form of a cut: words in the byte alphabet."""
    splits = [Split(Regex(pattern), behavior="isolated") for pattern in cut.patterns]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])
