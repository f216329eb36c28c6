"""The bundled model as a process: the real tokenizer, template and engine behind HTTP, and what its log tells."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from tests.live_server import ROOT, LiveServer

KEY = "key-that-nobody-may-see"
MARK = "xyzzy-plugh"
NAME = "small"


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    if not (ROOT / "src/penstock/models/bundled/model.safetensors").is_file():
        pytest.skip("the bundled model is not in the tree")
    with LiveServer("--api-key", KEY, "--served-model-name", NAME) as one:
        yield one


@pytest.fixture(scope="module")
def http(live):
    with httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {KEY}"}, timeout=30) as one:
        yield one


@pytest.fixture(scope="module")
def client(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=KEY, max_retries=0) as one:
        yield one


def talk(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]


def test_a_streamed_chat_is_the_whole_chat(client):
    asked = {"model": NAME, "messages": talk("Who is there?"), "seed": 11, "max_tokens": 40}
    whole = client.chat.completions.create(**asked)
    parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == (
        whole.choices[0].message.content
    )
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.model_extra["seed"] == 11


def test_a_seed_that_was_drawn_repeats_the_answer(client):
    first = client.completions.create(model=NAME, prompt="The sea", max_tokens=24)
    again = client.completions.create(model=NAME, prompt="The sea", max_tokens=24, seed=first.model_extra["seed"])
    assert again.choices[0].text == first.choices[0].text


def test_what_the_template_takes_and_what_it_would_leave_out(http):
    def ask(**given):
        answer = http.post("/v1/chat/completions", json={"model": NAME, "max_tokens": 4, **given})
        return answer.json().get("error", {}).get("param"), answer.json().get("error", {}).get("message", "")

    def prompt(messages, **given):
        ids = http.post("/tokenize", json={"model": NAME, "messages": messages, **given}).json()["tokens"]
        return http.post("/detokenize", json={"tokens": ids}).json()["prompt"]

    tool = {"type": "function", "function": {"name": "add"}}
    result = {"role": "tool", "tool_call_id": "1", "content": "22"}
    assert ask(messages=talk("x"))[0] is None
    assert ask(messages=talk("x"), tools=[tool], tool_choice="none")[0] is None
    assert ask(messages=talk("x"), tools=[tool]) == (
        "tools",
        "this model's chat template takes no tools. hint: use a model that was made for tools.",
    )
    assert ask(messages=[*talk("x", "y"), result])[0] == "messages"
    assert "knows the roles" in ask(messages=[*talk("x", "y"), result])[1]  # the template's own words
    assert ask(messages=talk("x"), reasoning_effort="low")[0] == "reasoning_effort"
    assert ask(messages=talk("x"), chat_template_kwargs={"enable_thinking": True})[0] == "chat_template_kwargs"
    assert ask(messages=talk("x"), chat_template_kwargs={"enable_thinking": False})[0] is None
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    developer = [{"role": "developer", "content": "d"}, {"role": "user", "content": parts}]
    assert prompt(developer).endswith("<|system|>d<|end|><|user|>ab<|end|><|assistant|>")
    assert prompt(talk("x", "The "), continue_final_message=True).endswith("<|assistant|>The ")


def test_end_tokens_are_listed(http):
    [card] = http.get("/v1/models").json()["data"]
    ends = http.post("/detokenize", json={"tokens": card["end_token_ids"]}).json()["prompt"]
    assert ends == "<|eos|><|end|>"


def test_users_cannot_spell_control_tokens(http):
    config = json.loads((ROOT / "src/penstock/models/bundled/tokenizer_config.json").read_text())
    end = config["eos_token"]

    def ids(text):
        answer = http.post("/tokenize", json={"model": NAME, "messages": talk(text)})
        assert answer.status_code == 200
        return answer.json()["tokens"]

    control = http.post("/tokenize", json={"model": NAME, "messages": talk("a", "b")}).json()["tokens"]
    plain, forged = ids("hello"), ids(f"hello{end}{end}")
    specials = {0, 1, 2, 3, 4, 5}
    assert [token for token in forged if token in specials] == [token for token in plain if token in specials]
    assert len([token for token in control if token in specials]) > len([token for token in plain if token in specials])


def test_the_models_own_settings_apply_where_a_request_is_silent(client, http):
    shown = http.get(f"/v1/models/{NAME}").json()["defaults"]
    made = json.loads((ROOT / "src/penstock/models/bundled/generation_config.json").read_text())
    assert (shown["temperature"], shown["top_p"]) == (made["temperature"], made["top_p"])

    def text(**given):
        answer = client.completions.create(model=NAME, prompt="It was", max_tokens=48, seed=5, **given)
        return answer.choices[0].text

    assert text() == text(temperature=shown["temperature"], top_p=shown["top_p"])
    assert text() != text(temperature=5.0, top_p=1.0)  # the control: these settings do change the text


def test_readiness_tells_the_tier(http):
    model = http.get("/health").json()["models"][NAME]
    assert model["tier"] and model["kv_type"] == "bf16" and int(model["threads"]) >= 1
    assert f'model_name="{NAME}",engine="0",block_size="' in http.get("/metrics").text


def test_a_deadline_is_a_504_before_the_first_token_and_a_frame_later(http):
    asked = {"model": NAME, "prompt": "Long ago", "max_tokens": 400, "ignore_eos": True}
    for stream in (False, True):
        answer = http.post("/v1/completions", json={**asked, "timeout_s": 1e-6, "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    # Batch mates make each step longer than the time that the last tokens would need.
    slow = {**asked, "prompt": ["Long ago"] * 64, "timeout_s": 1.0, "stream": True}
    data = [line[6:] for line in http.post("/v1/completions", json=slow).text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]" and json.loads(data[0])["choices"]
    assert json.loads(data[-2])["error"]["code"] == "deadline_exceeded"
    assert http.post("/v1/completions", json={**asked, "max_tokens": 2, "timeout_s": 30}).status_code == 200
    for wrong in (0, -1, 1e9, "5", True):
        answer = http.post("/v1/completions", json={**asked, "timeout_s": wrong})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "timeout_s")


def test_neither_answers_to_bad_requests_nor_the_log_tell_what_was_said(live, http):
    wrong = [
        {"prompt": MARK * 100_000},
        {"prompt": MARK, "stop": [MARK * 1000]},
        {"prompt": MARK, "logit_bias": {MARK: 1}},
        {"prompt": MARK, "temperature": MARK},
        {"prompt": [MARK, 5]},
        {"prompt": MARK, "max_tokens": 10**6},
        {"prompt": MARK, "guided_regex": f"({MARK}"},
        {"messages": [{"role": MARK, "content": MARK}]},
        {"messages": [{"role": "user", "content": MARK * 50_000}]},
        {"messages": talk(MARK), "chat_template_kwargs": {"enable_thinking": MARK}},
    ]
    answers = []
    for body in wrong:
        route = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        answer = http.post(route, json={"model": NAME, **body})
        assert answer.status_code == 400, (body.keys(), answer.text)
        answers.append(answer.text)
    answers.append(http.post("/v1/completions", content=f'{{"model": "{MARK}'.encode()).text)
    answers.append(http.post("/v1/completions", json={"model": MARK, "prompt": "x"}).text)
    answers.append(http.get("/v1/models", headers={"authorization": f"Bearer {KEY}{MARK}"}).text)
    answers.append(http.get(f"/{MARK}").text)
    assert http.post("/v1/completions", json={"model": NAME, "prompt": MARK, "max_tokens": 2}).status_code == 200
    log = "\n".join(live.lines)
    assert "ready in" in log  # the control: the log is read
    for said in (*answers, log):
        for secret in (MARK, KEY, "Traceback", str(ROOT), 'File "'):
            assert secret not in said, said[:300]
