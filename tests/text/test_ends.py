"""Stop tokens: every family's, from whichever file names them, and none that only ends a thought."""

import json

import pytest
from tokenizers import Tokenizer, models

from penstock.text import ChatTemplate, load_tokenizer
from penstock.text.ends import end_tokens
from penstock.text.vocab import ControlToken, ControlTokens

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content|trim }}<|eot_id|>{% endfor %}"
)
GEMMA = "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
PHI = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}<|endoftext|>"
MISTRAL = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"  # noqa: E501
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}"
    "{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
)
# family: control tokens, declared, template → ends
FAMILIES = {
    "llama3": (
        [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|eom_id|>",
        ],
        ["<|end_of_text|>"],
        LLAMA3,
        ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"],
    ),
    "qwen": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        ["<|im_end|>"],
        CHATML,
        ["<|endoftext|>", "<|im_end|>"],
    ),
    "gemma": (["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], ["<eos>"], GEMMA, ["<eos>", "<end_of_turn>"]),
    "phi": (
        ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        ["<|endoftext|>"],
        PHI,
        ["<|endoftext|>", "<|end|>"],
    ),
    "gpt_oss": (
        ["<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"],
        ["<|return|>"],
        HARMONY,
        ["<|return|>", "<|call|>", "<|endoftext|>"],
    ),
    "mistral": (["<s>", "</s>", "[INST]", "[/INST]"], [], MISTRAL, ["</s>"]),
    "an unknown one": (
        ["<go>", "<turn_over>"],
        [],
        "{% for m in messages %}{{ m.content }} <turn_over>{% endfor %}",
        ["<turn_over>"],
    ),
}


def controls_of(names):
    return ControlTokens([ControlToken(id, name) for id, name in enumerate(names)])


@pytest.mark.parametrize("family", FAMILIES)
def test_ends_of_every_family(family):
    names, declared, source, expected = FAMILIES[family]
    template = ChatTemplate(source, names={"eos_token": "</s>"})
    found = end_tokens(controls_of(names), [names.index(name) for name in declared], template)
    assert [names[id] for id in found] == sorted(expected, key=names.index)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_token_after_an_answer_is_found(family):
    names, _, source, expected = FAMILIES[family]
    end = ChatTemplate(source, names={"eos_token": "</s>"}).turn_end(controls_of(names))
    assert names[end] in expected


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",  # nothing after the answer
        "{% for m in messages %}{{ m.content }} and so on <turn_over>{% endfor %}",  # text before the token
        "{{ raise_exception('no') }}",
        "<turn_over>",
    ],
)
def test_no_end_is_made_up(source):
    names = ["<go>", "<turn_over>"]
    assert ChatTemplate(source).turn_end(controls_of(names)) is None
    assert end_tokens(controls_of(names), [0], ChatTemplate(source)) == (0,)


def test_a_name_in_ordinary_tokens_ends_nothing():
    assert end_tokens(controls_of(["<go>"]), [], None) == ()


def test_every_file_of_a_folder_counts(tmp_path):
    """generation_config names one, the tokenizer's configuration another, the template a third."""
    hf = Tokenizer(models.BPE({letter: id for id, letter in enumerate("abc")}, []))
    hf.add_special_tokens(["<eos>", "<pause>", "<start_of_turn>", "<turn_over>"])
    hf.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [4]}))
    source = "{% for m in messages %}{{ m.content }}<turn_over>{% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "chat_template": source}))
    assert load_tokenizer(tmp_path).eos_token_ids == (3, 4, 6)
