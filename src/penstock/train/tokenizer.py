"""The byte-level BPE tokenizer a training run learns from its own text.

Knows nothing about networks or files on disk beyond what it is handed. Invariant: every byte string can be encoded and
decodes to itself, because the 256 byte symbols are always in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from penstock.core.errors import ConfigError

BOS = "<|bos|>"
EOS = "<|eos|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"
SPECIAL_TOKENS = (BOS, EOS, SYSTEM, USER, ASSISTANT, END)
MAX_VOCAB = 65_536  # ids are stored as uint16

# A turn is marked by one token before it and one after it; what stands between is continued prose, not instructions.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('this model knows the roles system, user and assistant') }}"
    "{%- endif -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def train_tokenizer(texts: Iterable[str] | Iterator[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer of exactly `vocab_size` ids (fewer if the text is too small to fill them).

    The special tokens take the first ids in the order of SPECIAL_TOKENS; encoding prepends BOS.

    Raises:
        ConfigError: the vocabulary cannot hold the bytes and specials, or does not fit uint16.
    """
    least = 256 + len(SPECIAL_TOKENS)
    if not least <= vocab_size <= MAX_VOCAB:
        raise ConfigError(f"vocab_size {vocab_size} is outside {least}..{MAX_VOCAB}", hint="4096 suits a small model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def tokenizer_config(context_tokens: int) -> dict[str, Any]:
    """Return the content of tokenizer_config.json that goes with `train_tokenizer`, chat template included."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_tokens,
        "chat_template": CHAT_TEMPLATE,
    }
