"""Which tokens end an answer: what the files declare, what the chat template writes, and names that always mean it.

Knows nothing about files or sampling. Invariant: every source counts; a token that any of them calls the end of an
answer ends it, so that a file that forgets one cannot make a model talk on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from penstock.text.chat import ChatTemplate
from penstock.text.vocab import ControlTokens

# Control tokens that end an answer in every vocabulary that has them: turns, messages to tools, whole texts.
END_NAMES: Final = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
)
# Where a vocabulary has these, <|end|> only ends one message of an answer (a thought, before the answer proper).
_CHANNEL_ENDS: Final = ("<|return|>", "<|call|>")
_MESSAGE_END: Final = "<|end|>"


def end_tokens(controls: ControlTokens, declared: Iterable[int], template: ChatTemplate | None) -> tuple[int, ...]:
    """Ids that end an answer, ascending.

    Args:
        controls: the vocabulary's control tokens.
        declared: ids that the model's files name.
        template: the model's chat template, or None.
    """
    ends = {*declared, *(id for name in END_NAMES if (id := controls.id_of(name)) is not None)}
    if template is not None and (turn := template.turn_end(controls)) is not None:
        ends.add(turn)
    if all(controls.id_of(name) is not None for name in _CHANNEL_ENDS):
        ends.discard(controls.id_of(_MESSAGE_END) or -1)
    return tuple(sorted(ends))
