"""Hostile and wrong requests: each gets the contract's 400 naming its field, and a good request works right after."""

from __future__ import annotations

import json
import time

import pytest

TOOL = {"type": "function", "function": {"name": "add"}}
MESSAGES = [{"role": "user", "content": "x"}]


def check(answer, status, param, code=None):
    """The contract: four keys, the type, the field; no traceback, no path."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    if status in (400, 404, 413, 415):
        assert error["type"] == "invalid_request_error"
    assert code is None or error["code"] == code
    for leak in ("Traceback", "/work", "site-packages", ".py", "object at 0x", "pydantic"):
        assert leak not in answer.text


def send(shared, path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    return shared.http.post(f"{shared.url}{path}", content=data, headers=headers)


@pytest.fixture(autouse=True)
def good_afterwards(shared):
    yield
    began = time.monotonic()
    assert shared.complete().status_code == 200
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize(
    "body",
    [b"null", b"42", b'"x"', b"[]", b"", b'{"a":', b'{"model":"toy"', b"\xff\xfe", b'{"model":"to\xff"}', b"{} {}",
     b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' * 65 + b"1" + b"}" * 65,
     b'{"model":"toy","model":"toy","prompt":"x"}', b'{"a":{"b":1,"b":2}}', b"{'a':1}", b'{"a":01}',
     b'{"a":[' + b"[]," * 200_000 + b"1]}", b'{"a":[' + b'"",' * 300_000 + b"1]}",
     b'{"\\ud800":1,"model":"toy","prompt":"x"}'],
    ids=range(20),
)  # fmt: skip
def test_bodies_that_are_no_json_object(shared, body):
    check(send(shared, "/v1/completions", body), 400, None, "invalid_json")


INTEGERS = ["n", "max_tokens", "seed", "top_k", "min_tokens", "prompt_logprobs", "priority", "logprobs"]
BAD_INTEGERS = [b"1" * 5000, b"1.5", b"true", b'"5"', b"[]", b"{}", b"1e3", b"NaN", b"9223372036854775808"]


@pytest.mark.parametrize("field", INTEGERS)
def test_integers(shared, field):
    for value in BAD_INTEGERS:
        body = b'{"model":"toy","prompt":"x","%s":%s}' % (field.encode(), value)
        check(send(shared, "/v1/completions", body), 400, field)


@pytest.mark.parametrize(
    "field",
    ["temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty"],
)
def test_floats(shared, field):
    for value in [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1e300", b"true", b'"1"', b"[1]", b"-3"]:
        body = b'{"model":"toy","prompt":"x","%s":%s}' % (field.encode(), value)
        check(send(shared, "/v1/completions", body), 400, field)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("n", [0, -1, 129, 10**9]),
        ("best_of", [10**9, 2, "1", True]),
        ("logprobs", [21, -1]),
        ("prompt_logprobs", [-1, 21]),
        ("stop", [["a"] * 17, ["a"] * 100_000, "", "x" * 1_000_000, 5, [1], [""], {"a": 1}, True]),
        ("stop_token_ids", [[-1], [258], ["a"], [True], list(range(200)), [10**30], "x"]),
        (
            "logit_bias",
            [{"-1": 1}, {"258": 1}, {"x": 1}, {"1": 101}, {"1": "a"}, {"1": None}, {"1": True}, [1], {"²": 1},
             {"1": 1, "01": 2}, {str(k): 1 for k in range(2000)}],
        ),
        ("prompt", [[], "", [[]], [-1], [258], [1e12], [10**30], ["a", 1], [1, "a"], ["x"] * 10_000, 5, True, {"a": 1},
                    [[1], "a"], [None], [True], [""], [[1.0]]]),
        ("stream", ["yes", 1]),
        ("stream_options", [{"include_usage": True}, {"other": 1}, 5]),
        ("cache_salt", ["", "x" * 1_000_000, 5]),
        ("echo", ["yes"]),
        ("tools", [[{"type": "function"}]]),
        ("reasoning_effort", ["low"]),
        ("suffix", ["end"]),
        ("response_format", [{"type": "json_object"}, {"type": "sound"}]),
        ("logits_processors", [["x"]]),
        ("use_beam_search", [True, 0]),
        ("chat_template", ["{{ 1 }}"]),
        ("no_such_field", [None, 1]),
        ("ignore_eos", [1]),
    ],
)  # fmt: skip
def test_fields_of_completions(shared, field, values):
    for value in values:
        body = {"model": "toy", "prompt": "x", field: value}
        check(send(shared, "/v1/completions", body), 400, field)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("messages", [[], [123], [{}], [{"role": 123, "content": "x"}], [{"role": "boss", "content": "x"}], None, "x",
                      [{"role": "user", "content": 123}], [{"role": "user"}], [{"role": "user", "content": None}],
                      [{"role": "tool", "content": "x"}], [{"role": "user", "content": "x", "tool_calls": [{}]}],
                      [{"role": "user", "content": "x", "colour": "red"}],
                      [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
                      [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
                      [{"role": "user", "content": "template says no"}], MESSAGES * 5000, {"role": "user"}]),
        ("top_logprobs", [21, -1, 1, True]),
        ("logprobs", [5, "x"]),
        ("tools", [[{"type": "function"}], [TOOL] * 129, [TOOL, TOOL], "x", [5], {}]),
        ("tool_choice", ["required", "", 5, {"type": "function"}, {"type": "function", "function": {"name": "add"}}]),
        ("functions", [[{"name": "f"}]]),
        ("response_format", [{"type": "json_schema", "json_schema": {}}]),
        ("modalities", [["audio"]]),
        ("audio", [{}]),
        ("reasoning_effort", ["extreme", 5, True]),
        ("structured_outputs", [{"regex": "(a+)+$"}]),
        ("chat_template", ["{{ 1 }}"]),
        ("chat_template_kwargs", [{"tokenize": True}, {"add_generation_prompt": {}}, {"enable_thinking": 1}, 5]),
        ("continue_final_message", [True]),
        ("max_completion_tokens", [0, -1, True]),
        ("echo", [True]),
        ("prompt", ["x"]),
    ],
)  # fmt: skip
def test_fields_of_chat(shared, field, values):
    for value in values:
        body = {"model": "toy", "messages": MESSAGES, field: value}
        check(send(shared, "/v1/chat/completions", body), 400, field)


def test_half_surrogates_name_their_field(shared):
    check(send(shared, "/v1/completions", b'{"model":"toy","prompt":"\\ud800x"}'), 400, "prompt")
    check(send(shared, "/v1/completions", b'{"model":"toy","prompt":"x","stop":["a\\uDC00"]}'), 400, "stop")
    body = b'{"model":"toy","messages":[{"role":"user","content":"\\udfff"}]}'
    check(send(shared, "/v1/chat/completions", body), 400, "messages")
    whole = send(shared, "/v1/completions", b'{"model":"toy","prompt":"\\ud83d\\ude00","max_tokens":4}')
    assert whole.status_code == 200


def test_missing_fields(shared):
    check(send(shared, "/v1/completions", {"prompt": "x"}), 400, "model")
    check(send(shared, "/v1/completions", {"model": "toy"}), 400, "prompt")
    check(send(shared, "/v1/chat/completions", {"model": "toy"}), 400, "messages")
    check(send(shared, "/v1/completions", {"model": 5, "prompt": "x"}), 400, "model")


def test_unknown_models_all_look_the_same(shared):
    names = ["../../x", "a\0b", "x" * 1_000_000, "unknown", "", "Toy", "toy "]
    answers = [send(shared, "/v1/completions", {"model": name, "prompt": "x"}) for name in names]
    for answer in answers:
        check(answer, 404, "model", "model_not_found")
    assert len({answer.text for answer in answers}) == 1


def test_too_long_for_the_context(shared):
    for body in (
        {"prompt": "x" * 400, "max_tokens": 1},
        {"prompt": [1] * 401, "max_tokens": 1},
        {"prompt": "x", "max_tokens": 399},
        {"prompt": "x" * 1_000_000},
        {"prompt": " " * 1_000_000},
        {"prompt": "👩‍👩‍👧" * 100_000},
        {"prompt": ["ok", "y" * 400]},
    ):
        answer = send(shared, "/v1/completions", {"model": "toy", **body})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
    both = send(shared, "/v1/completions", {"model": "toy", "prompt": "x" * 399, "max_tokens": 5})
    assert "400" in both.json()["error"]["message"] and "5" in both.json()["error"]["message"]
    exact = send(shared, "/v1/completions", {"model": "toy", "prompt": "x" * 399, "max_tokens": None})
    assert exact.status_code == 400
    assert send(shared, "/v1/completions", {"model": "toy", "prompt": "x" * 398, "max_tokens": 1}).status_code == 200


def test_streams_refuse_what_they_cannot_carry(shared):
    check(shared.complete(stream=True, prompt_logprobs=1), 400, "prompt_logprobs")
    check(shared.complete(stream=True, echo=True, logprobs=1), 400, "echo")
    check(shared.complete(n=128, prompt=["x"] * 9), 400, "n")


def test_a_wrong_body_is_not_retried(shared):
    assert "retry-after" not in shared.complete(n=0).headers


def test_tokenize_and_detokenize(shared):
    whole = shared.post("/tokenize", {"model": "toy", "prompt": "ab", "return_token_strs": True}).json()
    assert whole == {"count": 3, "max_model_len": 400, "tokens": [256, 97, 98], "token_strs": ["", "a", "b"]}
    bare = shared.post("/tokenize", {"prompt": "ab", "add_special_tokens": False}).json()
    assert bare["tokens"] == [97, 98] and bare["token_strs"] is None
    chat = shared.post("/tokenize", {"messages": MESSAGES, "add_generation_prompt": False}).json()
    assert shared.post("/detokenize", {"tokens": chat["tokens"]}).json() == {"prompt": "<bos>user: x\n"}


def test_tokenize_and_detokenize_refuse(shared):
    check(send(shared, "/tokenize", {}), 400, "prompt")
    check(send(shared, "/tokenize", {"prompt": "x", "messages": MESSAGES}), 400, "prompt")
    check(send(shared, "/tokenize", {"prompt": "x" * 1_000_000}), 400, "prompt", "context_length_exceeded")
    check(send(shared, "/tokenize", {"prompt": "x", "model": "other"}), 404, "model")
    for tokens in ([-1], [258], [1.5], ["a"], [True], "x", [1] * 401, [10**30]):
        check(send(shared, "/detokenize", {"tokens": tokens}), 400, "tokens")


def test_text_that_spells_control_tokens_stays_text(shared):
    assert shared.complete(prompt="<eos><bos>").status_code == 200
    assert shared.engine.requests[-1].prompt_tokens == (256, *b"<eos><bos>")


def test_a_timeout_becomes_a_deadline_on_the_engines_clock(shared):
    for given, expected in (({}, None), ({"timeout_s": 2}, 2.0), ({"timeout_s": 86_400}, 86_400.0)):
        assert shared.complete(prompt=["a", "b"], **given).status_code == 200
        for request in shared.engine.requests[-2:]:
            left = None if request.deadline_s is None else request.deadline_s - request.arrival_s
            assert left == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("value", [0, -1, 86_401, "5", True, [1]])
def test_a_timeout_out_of_range_is_refused(shared, value):
    body = {"model": "toy", "prompt": "x", "timeout_s": value}
    check(send(shared, "/v1/completions", body), 400, "timeout_s")
