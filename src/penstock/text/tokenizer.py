"""Text to token ids and back for one model.

Knows nothing about files, requests or HTTP. Invariant: text never becomes a control token unless the caller says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer as HfTokenizer

from penstock.core import ContextLengthExceeded, InvalidRequest, StreamDecoder, limits
from penstock.text.chat import ChatTemplate
from penstock.text.encoders import encode_ids, start_encoders
from penstock.text.ends import end_tokens
from penstock.text.marks import Marked
from penstock.text.pieces import PieceRule, byte_alphabet, drops_text, piece_bytes, read_rule
from penstock.text.stream import ByteStream, WindowStream
from penstock.text.vocab import ControlTokens

_LITERAL = PieceRule()
_NORMALIZER_SHRINKS = 4  # at most: NFC makes one code point out of three


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a model's files say about its tokens.

    Attributes:
        hf: the tokenizer; reads control tokens in text as ordinary text.
        inner: the same for text that does not begin the prompt, or None where that makes no difference.
        controls: tokens that steer the model.
        prepare: what is done to a text before `hf` sees it, or None.
        prepare_inner: the same for text that does not begin the prompt, or None where that makes no difference.
        size: every id is below it, where it is more than the number of tokens.
        shrinks: `prepare` may drop any number of characters.
        bos_token_id: beginning of text, or None.
        eos_token_ids: ends of an answer.
        prefix: ids put before a prompt.
        suffix: ids put after a prompt.
        names: special names for templates (bos_token, eos_token, …).
    """

    hf: HfTokenizer
    controls: ControlTokens
    inner: HfTokenizer | None = None
    prepare: Callable[[str], str] | None = None
    prepare_inner: Callable[[str], str] | None = None
    size: int = 0
    shrinks: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


class Tokenizer:
    """A model's tokenizer, its chat template and its stream decoders; safe to use from many threads.

    Args:
        vocabulary: the tokens.
        chat_template: the template, or None for a model without one.
    """

    def __init__(self, vocabulary: Vocabulary, chat_template: ChatTemplate | None = None) -> None:
        self._vocabulary = vocabulary
        self._hf = vocabulary.hf
        self._controls = vocabulary.controls
        self._rule: PieceRule | None = read_rule(vocabulary.hf)
        self._alphabet = byte_alphabet() if self._rule is not None and self._rule.byte_level else {}
        self._pieces: dict[int, bytes] = {
            id: text.encode("utf-8", "replace") for id, text in vocabulary.controls.texts()
        }
        self._shown: dict[int, bytes] = dict.fromkeys(vocabulary.controls.ids, b"")  # without special tokens
        self.chat_template = chat_template
        self.bos_token_id = vocabulary.bos_token_id
        self.eos_token_ids = end_tokens(vocabulary.controls, vocabulary.eos_token_ids, chat_template)
        self._added = frozenset(vocabulary.hf.get_added_tokens_decoder())
        size = max(vocabulary.hf.get_vocab_size(with_added_tokens=True), max(self._added, default=-1) + 1)
        self.vocab_size = max(size, vocabulary.size)

    def start_encoders(self) -> None:
        """Makes the threads that cut long texts, at a low priority (else at the first caller's)."""
        start_encoders(self._hf)

    def encode(self, text: str, *, add_special_tokens: bool = True, allow_special: bool = False) -> tuple[int, ...]:
        """Token ids of a text.

        Args:
            text: any text that is valid Unicode.
            add_special_tokens: put the model's own beginning (and end) around it.
            allow_special: read the spelling of a control token as that token; only for text that we wrote.

        Raises:
            InvalidRequest: lone surrogates, or characters that only a control token could spell.
        """
        ids = self._encode_marked(text, (), allow_special)
        if not add_special_tokens:
            return tuple(ids)
        return (*self._vocabulary.prefix, *ids, *self._vocabulary.suffix)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
    ) -> tuple[int, ...]:
        """Token ids of a conversation under the model's chat template.

        Args:
            messages: objects with role, content and, where they apply, name, tool_calls, tool_call_id and reasoning.
            tools: functions that the template is told of.
            add_generation_prompt: open the assistant's turn.
            continue_final_message: leave the last message open, so that the answer goes on with it.
            kwargs: options of the template, by the list in `penstock.text.chat`.
            max_tokens: a prompt that cannot be so short is refused before it is tokenized.

        Raises:
            InvalidRequest: no template, messages the template refuses, or an option that isn't offered.
            ContextLengthExceeded: more characters than `max_tokens` tokens can stand for.
        """
        template = self.chat_template
        if template is None:
            raise InvalidRequest(
                "This model has no chat template.",
                param="messages",
                hint="use /v1/completions, or serve a model that was made for chat.",
            )
        marked = template.mark(self._controls, messages, tools)
        text = template.render(
            marked,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            kwargs=kwargs or {},
        )
        longest = None if max_tokens is None else max_tokens * self.max_token_bytes
        if longest is not None and len(text) > longest and (size := len(marked.restore(text))) > longest:
            raise ContextLengthExceeded(
                f"the prompt's {size} characters cannot fit in {max_tokens} tokens.",
                param="messages",
                hint="shorten the messages or the tools.",
            )
        return tuple(self._encode_marked(text, marked, True))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; the same as a stream of them.

        Raises:
            InvalidRequest: an id outside the vocabulary.
        """
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise InvalidRequest(f"Token id {token} is outside 0..{self.vocab_size - 1}.", param="tokens")
        stream = self.stream(skip_special_tokens)
        return stream.push(ids) + stream.flush()

    def stream(self, skip_special_tokens: bool = True, after: int | None = None) -> StreamDecoder:
        """A fresh decoder for one sample.

        Args:
            skip_special_tokens: control tokens don't appear in the text.
            after: the token before the first one. SentencePiece models write a space before the first word of a text
                and drop it when they decode; text that continues ordinary text keeps it.
        """
        if self._rule is None:
            skipped = self._controls.ids if skip_special_tokens else frozenset[int]()
            return WindowStream(self._decode_window, lambda token: token not in skipped)
        continues = after is not None and after not in self._controls.ids
        strip = 0 if continues else self._rule.strip
        return ByteStream(self._shown_bytes if skip_special_tokens else self.token_bytes, strip)

    def token_bytes(self, id: int) -> bytes:
        """The bytes a token adds to the text; b"" for an id that names nothing."""
        data = self._pieces.get(id)
        return data if data is not None else self._fill(id)

    def token_text(self, id: int) -> str:
        """The same as text, with U+FFFD for what isn't UTF-8 by itself."""
        return self.token_bytes(id).decode("utf-8", "replace")

    @cached_property
    def max_token_bytes(self) -> int:
        """Bytes of text that one token can stand for at most; a text longer than n of these is over n tokens.

        A tokenizer that drops characters before it looks (BERT's), or makes one token of any number of unknown ones,
        has no such bound: then the largest body's size.
        """
        if self._rule is None or self._vocabulary.shrinks or drops_text(self._hf):
            return limits.MAX_BODY_BYTES
        names = self._hf.get_vocab(with_added_tokens=True)
        longest = max((len(name.encode("utf-8", "replace")) for name in names), default=1)
        return longest if self._hf.normalizer is None else longest * _NORMALIZER_SHRINKS

    def _shown_bytes(self, id: int) -> bytes:
        """Bytes of a token in a text without control tokens."""
        data = self._shown.get(id)
        if data is None:
            data = self._shown[id] = self.token_bytes(id)
        return data

    def _fill(self, id: int) -> bytes:
        """Looks a token up and remembers it; ids that the vocabulary doesn't have are not remembered."""
        name = self._hf.id_to_token(id) if 0 <= id < self.vocab_size else None
        if name is None:
            return b""
        # An added token is matched in raw text, so its name is its text, whatever alphabet the others are written in.
        rule = self._rule
        if rule is None or (id in self._added and rule.byte_level):
            rule = _LITERAL
        data = piece_bytes(name, rule, self._alphabet)
        self._pieces[id] = data
        return data

    def _decode_window(self, ids: list[int]) -> str:
        """The text of ids by the tokenizer's own decoder."""
        return str(self._hf.decode(ids, skip_special_tokens=False))

    def _encode_marked(self, text: str, marked: Marked | tuple[()], allow_special: bool) -> list[int]:
        """Ids of a text in which a stranger's spellings of control tokens may be marked."""
        if not allow_special:
            return self._encode_plain(text, True)
        ids: list[int] = []
        for offset, chunk, control in self._controls.split(text):
            if chunk:
                ids.extend(self._encode_plain(marked.restore(chunk) if marked else chunk, offset == 0))
            if control is not None:
                ids.append(control)
        return ids

    def _encode_plain(self, text: str, first: bool) -> list[int]:
        """Ids of ordinary text; `first`: nothing stands before it."""
        vocabulary = self._vocabulary
        hf = self._hf if first or vocabulary.inner is None else vocabulary.inner
        prepare = vocabulary.prepare if first or vocabulary.prepare_inner is None else vocabulary.prepare_inner
        try:
            text = text if prepare is None else prepare(text)
            ids = encode_ids(hf, text)
        except (TypeError, UnicodeEncodeError):  # the library calls a text it can't read "not a str"
            raise InvalidRequest("The text has lone surrogates; it must be valid Unicode.", param="prompt") from None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # the library's bare Exception, or its panic, which is none
            raise InvalidRequest("The model's tokenizer can't write this text.", param="prompt") from None
        if self._controls.forbidden.isdisjoint(ids):
            return ids
        return self._encode_broken(text, first)

    def _encode_broken(self, text: str, first: bool) -> list[int]:
        """Ids of a text whose model would spell control tokens from ordinary characters: cut inside each of them."""
        cuts = [0, *(start + 1 for start, _ in self._controls.occurrences(text)), len(text)]
        ids: list[int] = []
        for start, end in pairwise(cuts):
            hf = self._hf if (first and start == 0) or self._vocabulary.inner is None else self._vocabulary.inner
            ids.extend(encode_ids(hf, text[start:end]))
        if not self._controls.forbidden.isdisjoint(ids):
            raise InvalidRequest("The text can't be written without control tokens of this model.", param="prompt")
        return ids
