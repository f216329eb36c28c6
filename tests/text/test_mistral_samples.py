"""Published conversations with tools, and the prompt and ids that their makers' own library gives for them.

The templates here write what that library writes: version 3 is the published Nemo template with the system prompt
before the last question wherever that stands (the published one loses it once a tool has answered); of version 2 there
is no published template with tools, so its rules are written out. The library also joins system messages and gives the
JSON in a tool's answer its own spacing, which no template can do, so the conversations come like that. The vocabulary
is the real one of version 3, which is version 2's as well; of version 1 there are no samples.
"""

import json
import shutil
from pathlib import Path

import pytest

from penstock.core import InvalidRequest
from penstock.text import load_tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
SAMPLES = DATA / "chat_templates" / "mistral_chat_samples_a.json"
NEMO = DATA / "chat_templates" / "mistralai-Mistral-Nemo-Instruct-2407.jinja"
NAMES = ["get_weather_full", "get_weather_no_history", "get_weather_no_system_prompt"]
VERSION_2 = """
{%- set ns = namespace(system='', last=-1) -%}
{%- for m in messages -%}
    {%- if m.role == 'system' -%}{%- set ns.system = ns.system + m.content + '\n\n' -%}
    {%- elif m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{{- bos_token -}}
{%- for m in messages -%}
    {%- if m.role == 'user' and loop.index0 == ns.last -%}
        {%- if tools -%}{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' -}}{%- endif -%}
        {{- '[INST] ' + ns.system + m.content + '[/INST]' -}}
    {%- elif m.role == 'user' -%}
        {{- '[INST] ' + m.content + '[/INST]' -}}
    {%- elif m.tool_calls and loop.index0 > ns.last -%}
        {{- '[TOOL_CALLS] ' + (m.tool_calls | map(attribute='function') | tojson) + eos_token -}}
    {%- elif m.role == 'tool' and loop.index0 > ns.last -%}
        {{- '[TOOL_RESULTS] [{"name": ' + (m.name | tojson) + ', "content": ' + m.content + '}][/TOOL_RESULTS]' -}}
    {%- elif m.role == 'assistant' and not m.tool_calls -%}
        {{- ' ' + m.content + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""


def sample(name):
    if not SAMPLES.exists():
        pytest.skip("the shared samples are not here")
    return json.loads(SAMPLES.read_text())[name]


def version_3(spaced):
    """The Nemo template with the system prompt in its place; `spaced`: with the spaces that SentencePiece adds."""
    source = NEMO.read_text().replace("loop.last and system_message", "message == user_messages[-1] and system_message")
    if spaced:
        for tag in ("[AVAILABLE_TOOLS]", "[INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]"):
            source = source.replace(tag, tag + " ")
        source = source.replace('{{- message["content"] + eos_token}}', '{{- " " + message["content"] + eos_token}}')
    return source


def make_tokenizer(folder, template, legacy):
    model = DATA / "tokenizers" / "mistral_v3_sentencepiece.model"
    if not model.exists():
        pytest.skip("the shared tokenizer files are not here")
    shutil.copy(model, folder / "tokenizer.model")
    config = {"bos_token": "<s>", "eos_token": "</s>", "legacy": legacy, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


def spaced_json(messages):
    """The conversation with the JSON of tools' answers in the usual spacing."""
    return [
        {**message, "content": json.dumps(json.loads(message["content"]))} if message["role"] == "tool" else message
        for message in messages
    ]


def joined(messages):
    """The conversation with its leading system messages made one: the templates take one at most."""
    systems = [message["content"] for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(systems)}, *rest] if systems else rest


def shown(text):
    return text.replace(" ", "▁").replace("\n", "<0x0A>")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", [2, 3])
def test_text_and_ids_are_the_makers(name, version, tmp_path):
    """With the spaces in the template and none added after control tokens (`legacy` false)."""
    given = sample(name)
    template = VERSION_2 if version == 2 else version_3(spaced=True)
    tokenizer = make_tokenizer(tmp_path, template, legacy=False)
    request = given["sample.json"]
    messages = spaced_json(request["messages"] if version == 2 else joined(request["messages"]))
    marked = tokenizer.chat_template.mark(tokenizer._controls, messages, request["tools"])
    prompt = marked.restore(tokenizer.chat_template.render(marked, add_generation_prompt=False))
    assert shown(prompt) == given[f"text_v{version}.txt"]
    expected = given[f"tokens_v{version}.json"]["tokens"]
    assert list(tokenizer.encode_chat(messages, tools=request["tools"])) == expected
    fewer = tokenizer.encode_chat(messages, tools=request["tools"][:1])
    assert list(fewer) != expected  # the control


@pytest.mark.parametrize("name", NAMES)
def test_ids_without_spaces_in_the_template(name, tmp_path):
    """The older way: no spaces in the template, one added before every stretch of text."""
    given = sample(name)
    tokenizer = make_tokenizer(tmp_path, version_3(spaced=False), legacy=True)
    request = given["sample.json"]
    found = tokenizer.encode_chat(spaced_json(joined(request["messages"])), tools=request["tools"])
    assert list(found) == given["tokens_v3.json"]["tokens"]


def test_two_system_messages_are_the_templates_own_refusal(tmp_path):
    request = sample("get_weather_full")["sample.json"]
    tokenizer = make_tokenizer(tmp_path, version_3(spaced=True), legacy=False)
    with pytest.raises(InvalidRequest, match="refuses: After the optional system message"):
        tokenizer.encode_chat(request["messages"], tools=request["tools"])
