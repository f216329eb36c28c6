"""Completions and chat through the official client: shapes, streams, parameters."""

from __future__ import annotations

import asyncio

import openai
import pytest

from penstock.core import SamplingParams


@pytest.fixture
def server(shared):
    """These only ask."""
    return shared


def test_completion(server):
    answer = server.client().completions.create(model="toy", prompt="hello", max_tokens=3)
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.model == "toy"
    assert answer.choices[0].text == "oll"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == 6  # <bos> and five bytes
    assert answer.usage.completion_tokens == 3
    assert answer.usage.total_tokens == 9
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_chat(server):
    answer = server.client().chat.completions.create(model="toy", messages=[{"role": "user", "content": "hi"}])
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == ":tnatsissa\nih :resu"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None


@pytest.mark.parametrize("step", [1, 2, 7])
def test_streamed_text_is_the_whole_text(start_server, scripted, step):
    engine = scripted(script='Straße — naïve 👩‍👩‍👧 日本語\n"quoted\\"', tokens_per_event=step)
    client = start_server(engine).client()
    messages = [{"role": "user", "content": "say"}]
    whole = client.chat.completions.create(model="toy", messages=messages).choices[0].message.content
    chunks = list(client.chat.completions.create(model="toy", messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole == engine.script
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].choices[0].finish_reason == "stop"
    text = client.completions.create(model="toy", prompt="say", max_tokens=200, stream=True)
    assert "".join(chunk.choices[0].text for chunk in text) == engine.script


def test_stream_frames(server, frames):
    body = {"model": "toy", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 2}
    answer = server.post("/v1/chat/completions", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    got = frames(answer.text)
    assert got[-1] == "[DONE]"
    assert all(set(frame) >= {"id", "object", "created", "model", "choices", "seed"} for frame in got[:-1])
    assert all("usage" not in frame for frame in got[:-1])
    assert got[-2]["choices"][0]["delta"] == {}


def test_include_usage(server, frames):
    body = {
        "model": "toy",
        "prompt": "abcd",
        "stream": True,
        "max_tokens": 2,
        "stream_options": {"include_usage": True},
    }
    got = frames(server.post("/v1/completions", body).text)
    assert got[-2]["choices"] == []
    assert got[-2]["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert all(frame["usage"] is None for frame in got[:-2])


def test_async_client_streams_many(server):
    async def one(client, text):
        stream = await client.completions.create(model="toy", prompt=text, max_tokens=50, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def main():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, f"text {k}") for k in range(32)))

    assert asyncio.run(main()) == [f"text {k}"[::-1] for k in range(32)]


def test_prompts_in_every_shape(server):
    client = server.client()
    for prompt, texts in (
        (["ab", "cd"], ["ba", "dc"]),
        ([97, 98], ["ba"]),
        ([[97, 98], [99, 100]], ["ba", "dc"]),
    ):
        answer = client.completions.create(model="toy", prompt=prompt, max_tokens=10)
        assert [choice.text for choice in answer.choices] == texts
        assert [choice.index for choice in answer.choices] == list(range(len(texts)))
        streamed = [""] * len(texts)
        for chunk in client.completions.create(model="toy", prompt=prompt, max_tokens=10, stream=True):
            streamed[chunk.choices[0].index] += chunk.choices[0].text
        assert streamed == texts


def test_samples_and_prompts_have_their_own_index(server):
    answer = server.client().completions.create(model="toy", prompt=["ab", "cd"], n=2, max_tokens=1)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "b"), (1, "b"), (2, "d"), (3, "d")]
    assert answer.usage.prompt_tokens == 6
    assert answer.usage.completion_tokens == 4


def test_echo(server, frames):
    answer = server.complete(echo=True, max_tokens=2).json()
    assert answer["choices"][0]["text"] == "abccb"
    streamed = frames(server.complete(echo=True, max_tokens=2, stream=True).text)
    assert "".join(frame["choices"][0]["text"] for frame in streamed[:-1]) == "abccb"
    assert server.complete(prompt=[97, 98], echo=True, max_tokens=1).json()["choices"][0]["text"] == "abb"


def test_legacy_logprobs(server):
    choice = server.complete(logprobs=2, max_tokens=2).json()["choices"][0]
    assert choice["logprobs"] == {
        "tokens": ["c", "b"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"c": -0.5, "d": -1.5}, {"b": -0.5, "c": -1.5}],
        "text_offset": [0, 1],
    }


def test_echo_with_logprobs_scores_the_prompt(server):
    choice = server.complete(logprobs=1, max_tokens=1, echo=True).json()["choices"][0]
    assert choice["logprobs"]["tokens"] == ["", "a", "b", "c", "c"]
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -0.5, -0.5, -0.5]
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 2, 3]
    assert choice["text"] == "abcc"


def test_chat_logprobs_whole_and_streamed(server):
    client = server.client()
    given = {
        "model": "toy",
        "messages": [{"role": "user", "content": "é"}],
        "logprobs": True,
        "top_logprobs": 3,
        "max_tokens": 40,
    }
    content = client.chat.completions.create(**given).choices[0].logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in content) == "user: é\nassistant:".encode()[::-1]
    assert len(content[0].top_logprobs) == 3
    assert content[0].top_logprobs[2].logprob == -9999.0
    streamed = []
    for chunk in client.chat.completions.create(**given, stream=True):
        if chunk.choices[0].logprobs is not None:
            streamed += chunk.choices[0].logprobs.content
    assert streamed == content


def test_prompt_logprobs(server):
    body = {"model": "toy", "messages": [{"role": "user", "content": "x"}], "prompt_logprobs": 1, "max_tokens": 1}
    scored = server.post("/v1/chat/completions", body).json()["prompt_logprobs"]
    assert scored[0] is None
    assert scored[1] == {"117": {"logprob": -0.5, "rank": 1, "decoded_token": "u"}}
    assert server.complete(prompt_logprobs=0).json()["choices"][0]["prompt_logprobs"][1]["97"]["rank"] == 1


def test_seed_is_in_the_answer_and_reproduces(server):
    drawn = server.complete().json()["seed"]
    assert server.engine.requests[-1].sampling.seed == drawn
    again = server.complete(seed=drawn).json()
    assert again["seed"] == drawn
    assert server.engine.requests[-1].sampling.seed == drawn
    server.complete(seed=5, prompt=["a", "b"])
    assert [request.sampling.seed for request in server.engine.requests[-2:]] == [5, 6]
    assert server.complete().json()["seed"] != drawn


def test_every_sampling_field_arrives(server):
    given = {
        "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "typical_p": 0.8, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": -0.3, "logit_bias": {"65": 5, "66": -100}, "seed": -7,
        "min_tokens": 1, "stop": ["x", "yy"], "stop_token_ids": [9], "ignore_eos": True,
        "include_stop_str_in_output": True, "n": 2, "logprobs": 3, "skip_special_tokens": False, "priority": 0,
        "cache_salt": "s", "add_special_tokens": False,
    }  # fmt: skip
    assert server.complete(**given).status_code == 200
    request = server.engine.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 0, 0.1)
    assert (sampling.typical_p, sampling.repetition_penalty) == (0.8, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.2, -0.3)
    assert sampling.logit_bias == ((65, 5.0), (66, -100.0))
    assert (sampling.seed, sampling.min_tokens, sampling.stop, sampling.stop_token_ids) == (-7, 1, ("x", "yy"), (9,))
    assert (sampling.include_stop, sampling.ignore_eos, sampling.n, sampling.logprobs) == (True, True, 2, 3)
    assert sampling.skip_special_tokens is False
    assert (request.priority, request.cache_salt, request.eos_token_ids) == (0, "s", ())
    assert request.prompt_tokens == (97, 98, 99)


def test_defaults_come_from_the_model_and_null_means_them(start_server):
    server = start_server(defaults=SamplingParams(temperature=0.3, top_k=20))
    server.complete(temperature=None, stop=None, stream=None, n=None, user="me", metadata={"a": 1}, tools=None)
    assert server.engine.requests[-1].sampling.temperature == 0.3
    assert server.engine.requests[-1].sampling.top_k == 20
    server.complete(top_k=0)
    assert server.engine.requests[-1].sampling.top_k == 0


def test_output_length_defaults(server):
    server.post("/v1/completions", {"model": "toy", "prompt": "a"})
    assert server.engine.requests[-1].sampling.max_tokens == 16
    server.post("/v1/chat/completions", {"model": "toy", "messages": [{"role": "user", "content": "a"}]})
    assert server.engine.requests[-1].sampling.max_tokens is None
    body = {"model": "toy", "messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 5}
    assert server.post("/v1/chat/completions", body).json()["usage"]["completion_tokens"] == 5


def test_chat_template_options(server):
    def prompt(**given):
        body = {"model": "toy", "messages": [{"role": "developer", "content": "d"}], "max_tokens": 1, **given}
        assert server.post("/v1/chat/completions", body).status_code == 200
        return bytes(t for t in server.engine.requests[-1].prompt_tokens if t < 256).decode()

    assert prompt() == "developer: d\nassistant:"
    assert prompt(add_generation_prompt=False) == "developer: d\n"
    off = prompt(chat_template_kwargs={"enable_thinking": False})
    assert off == 'developer: d\n{"enable_thinking": false}assistant:'
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert prompt(messages=[{"role": "user", "content": parts}]) == "user: ab\nassistant:"
    both = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "A", "refusal": None}]
    assert prompt(messages=both, continue_final_message=True) == "user: q\nassistant: A"


def test_aliases_answer_under_the_main_name(server):
    assert server.complete(model="gpt-toy").json()["model"] == "toy"


@pytest.mark.parametrize("priority", [-1, 1, True, "0", -(2**40)])
def test_nobody_asks_to_go_first(server, priority):
    before = len(server.engine.requests)
    answer = server.complete(priority=priority)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "priority"
    assert answer.json()["error"]["code"] == "unsupported_parameter"
    assert len(server.engine.requests) == before
    assert server.complete(priority=None).status_code == 200


def test_a_timeout_shorter_than_reading_the_request_says_so(server):
    before = len(server.engine.requests)
    answer = server.complete(timeout_s=1e-9)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (504, "deadline_exceeded", "timeout_s")
    assert error["message"].startswith("timeout_s was over before the request could start: reading it took ")
    assert "took 0 s" not in error["message"] and "0.000 s" not in error["message"]
    assert len(server.engine.requests) == before
    assert server.complete(timeout_s=60).status_code == 200
