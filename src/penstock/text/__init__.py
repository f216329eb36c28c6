"""Text and token ids: tokenizers, chat templates, streams of text and stop strings."""

from penstock.text.chat import ChatTemplate
from penstock.text.folder import load_tokenizer
from penstock.text.gguf_vocab import load_gguf_tokenizer
from penstock.text.stops import StopMatcher
from penstock.text.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "StopMatcher",
    "Tokenizer",
    "load_gguf_tokenizer",
    "load_tokenizer",
]
