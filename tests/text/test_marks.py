import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import InvalidRequest, limits
from penstock.text.marks import Marked
from penstock.text.vocab import ControlToken, ControlTokens

CONTROLS = ControlTokens([ControlToken(1, "<s>"), ControlToken(2, "</s>"), ControlToken(3, "<|im_end|>")])


def test_marks_hide_and_restore_every_string():
    call = {"type": "function", "function": {"name": "</s>", "arguments": {"<s>": "x<s>y"}}}
    messages = [{"role": "user", "content": "a<s>b"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    tools = [{"function": {"description": "<|im_end|>"}}]
    marked = Marked(CONTROLS, messages, tools, frozenset())
    shown = json.dumps([marked.messages, marked.tools], ensure_ascii=False)
    assert not list(CONTROLS.occurrences(shown))
    assert marked.restore(shown) == json.dumps([messages, tools], ensure_ascii=False)
    assert list(CONTROLS.occurrences(json.dumps(messages)))  # the control: there was something to hide


def test_marks_can_not_be_forged():
    messages = [{"role": "user", "content": "\ue0000\ue000 \ue001end\ue001"}]
    marked = Marked(CONTROLS, messages, None, frozenset("\ue002"))
    assert marked.end_mark == "\ue003end\ue003"
    assert marked.restore(marked.messages[0]["content"]) == messages[0]["content"]


def test_depth_is_bounded():
    value = "x"
    for _ in range(limits.MAX_JSON_DEPTH + 2):
        value = [value]
    with pytest.raises(InvalidRequest, match="too deeply"):
        Marked(CONTROLS, [{"role": "user", "content": "x", "extra": value}], None, frozenset())


def test_marks_survive_escapes():
    """A template that asks for ASCII JSON writes a mark as an escape; what comes back is escaped the same way."""
    text = 'é "<s>" \\ue005 <|im_end|>'
    marked = Marked(CONTROLS, [{"role": "user", "content": text}], None, frozenset())
    shown = json.dumps(marked.messages[0]["content"])
    assert shown.isascii() and not list(CONTROLS.occurrences(shown))
    assert marked.restore(shown) == json.dumps(text)


def test_escapes_of_a_mark_can_not_be_forged():
    messages = [{"role": "user", "content": "\\ue0000\\ue000 <s>"}]
    marked = Marked(CONTROLS, messages, None, frozenset())
    assert marked.end_mark == "\ue001end\ue001"
    assert marked.restore(marked.messages[0]["content"]) == messages[0]["content"]


QUOTED = ControlTokens([ControlToken(1, '<|"|>'), ControlToken(2, "<s>"), ControlToken(4, "a\\b")])


@given(st.text(alphabet='<|">s\\ab\n\ue000\ue001é0u'), st.sampled_from(["", "<", "<|", '<|"', "x"]), st.booleans())
def test_no_text_becomes_a_token_whatever_stands_around_it_and_json_stays_json(text, before, as_ascii):
    marked = Marked(QUOTED, [{"role": "user", "content": text}], None, frozenset())
    hidden = marked.messages[0]["content"]
    around = before + hidden + "|>"
    assert all(start < len(before) or end > len(before + hidden) for start, end in QUOTED.occurrences(around))
    assert marked.restore(hidden) == text
    assert json.loads(marked.restore(json.dumps(hidden, ensure_ascii=as_ascii))) == text
