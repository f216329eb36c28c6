import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from penstock import LLM, LoadOptions, SamplingParams, _native
from penstock.core import ConfigError, ContextLengthExceeded, EngineUnavailable, InvalidRequest, PenstockError

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(options=LoadOptions(kv_bytes=64 * 2**20, max_running=64)) as found:
        yield found


def test_a_text_and_its_ids_give_the_same_completion(llm: LLM) -> None:
    by_text = llm.generate("The old house", GREEDY)[0]
    by_ids = llm.generate(by_text.prompt_tokens, GREEDY)[0]
    assert by_text.tokens == by_ids.tokens
    assert by_text.usage.completion_tokens == 12
    assert by_text.finish_reason == "length"


def test_a_seed_repeats_and_the_seed_used_is_told(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=12)
    first = llm.generate("The sea", params)[0]
    again = llm.generate("The sea", SamplingParams(temperature=1.0, max_tokens=12, seed=first.seed))[0]
    other = llm.generate("The sea", SamplingParams(temperature=1.0, max_tokens=12, seed=first.seed ^ 1))[0]
    assert first.tokens == again.tokens
    assert first.tokens != other.tokens  # the control: another seed shows


def test_many_prompts_come_back_in_order_and_as_if_alone(llm: LLM) -> None:
    prompts = [f"Chapter {i}" for i in range(300)]
    params = SamplingParams(max_tokens=4, seed=3, ignore_eos=True)
    many = llm.generate(prompts, params)
    for i in (0, 137, 299):
        assert many[i].tokens == llm.generate(prompts[i], params)[0].tokens


def test_samples_of_one_prompt_differ_and_repeat(llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, n=4, seed=5, ignore_eos=True)
    first, again = llm.generate("It was", params)[0], llm.generate("It was", params)[0]
    assert [s.tokens for s in first.samples] == [s.tokens for s in again.samples]
    assert len({tuple(s.tokens) for s in first.samples}) > 1


def test_streaming_is_the_same_text_blocking_and_async(llm: LLM) -> None:
    whole = llm.generate("A ship", GREEDY)[0].text
    assert "".join(llm.stream("A ship", GREEDY)) == whole

    async def collect() -> str:
        return "".join([piece async for piece in llm.astream("A ship", GREEDY)])

    assert asyncio.run(collect()) == whole


def test_blocking_calls_work_inside_a_running_loop(llm: LLM) -> None:
    async def notebook() -> str:
        return llm.generate("A ship", GREEDY)[0].text

    assert asyncio.run(notebook()) == llm.generate("A ship", GREEDY)[0].text


def test_leaving_a_stream_cancels_it(llm: LLM) -> None:
    before = llm.loaded.client.snapshot().num_cancelled
    stream = llm.stream("A ship", SamplingParams(max_tokens=400, ignore_eos=True))
    next(stream)
    stream.close()
    llm.generate("x", SamplingParams(max_tokens=4))
    assert llm.loaded.client.snapshot().num_cancelled == before + 1


def test_chat_answers(llm: LLM) -> None:
    answer = llm.chat([{"role": "user", "content": "Tell me of the sea."}], GREEDY)
    assert answer.usage.completion_tokens == 12


def test_a_chat_goes_on_with_its_last_message(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Tell me of the sea."}, {"role": "assistant", "content": "The sea was"}]
    answer = llm.chat(messages, GREEDY, continue_final_message=True)
    start = llm.loaded.tokenizer.decode(answer.prompt_tokens, skip_special_tokens=False)
    assert start.endswith("<|assistant|>The sea was")
    assert answer.prompt_tokens != llm.chat(messages, GREEDY).prompt_tokens  # the control


def test_a_chat_refuses_what_its_template_would_leave_out(llm: LLM) -> None:
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(InvalidRequest, match="takes no tools"):
        llm.chat(messages, GREEDY, tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(InvalidRequest, match="enable_thinking is not read"):
        llm.chat(messages, GREEDY, enable_thinking=True)
    with pytest.raises(InvalidRequest, match="knows the roles system, user and assistant"):
        llm.chat([*messages, {"role": "tool", "content": "22", "tool_call_id": "1"}], GREEDY)


@pytest.mark.parametrize(
    ("prompts", "params", "param"),
    [
        ("x", SamplingParams(temperature=-1), "temperature"),
        (["a", "b"], [GREEDY], "params"),
        ([[10**9]], GREEDY, "prompt"),
        ("x", SamplingParams(n=0), "n"),
    ],
)
def test_what_cannot_be_served_raises_by_name(llm: LLM, prompts: object, params: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.generate(prompts, params)  # type: ignore[arg-type]
    assert caught.value.param == param


@pytest.mark.parametrize("prompt", [[1, "a", 2], ["a", {"role": "user", "content": "b"}], [1.5], [None]])
def test_a_prompt_of_several_kinds_is_refused_whole(llm: LLM, prompt: object) -> None:
    with pytest.raises(InvalidRequest, match="no token id"):
        list(llm.stream(prompt))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="no token id"):
        llm.generate([[1, 2], prompt], GREEDY)  # type: ignore[list-item]


def test_thousands_of_prompts_with_a_progress_bar(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    found = llm.generate(
        [f"No. {i}" for i in range(2000)], SamplingParams(max_tokens=4, ignore_eos=True), progress=True
    )
    assert [len(one.tokens) for one in found] == [4] * 2000
    assert capsys.readouterr().out == ""


def test_a_queue_shorter_than_the_batch_is_waited_for() -> None:
    with LLM(options=LoadOptions(kv_bytes=16 * 2**20, max_waiting=3, max_running=2)) as small:
        assert len(small.generate(["x"] * 40, SamplingParams(max_tokens=2))) == 40


def test_one_prompt_that_cannot_be_served_ends_the_batch(llm: LLM) -> None:
    before = llm.loaded.client.snapshot()
    long = SamplingParams(max_tokens=400, ignore_eos=True)
    with pytest.raises(ContextLengthExceeded):
        llm.generate(["a", "b", "word " * 600], long)
    llm.generate("x", GREEDY)
    after = llm.loaded.client.snapshot()
    assert after.num_cancelled == before.num_cancelled + 2
    assert after.num_running == after.num_waiting == 0


def test_a_stream_has_its_completion(llm: LLM) -> None:
    with llm.stream("A ship", GREEDY) as stream:
        text = "".join(stream)
    assert stream.completion.text == text
    assert stream.completion.finish_reason == "length"
    assert stream.completion.usage.completion_tokens == 12
    stream.close()  # a second time changes nothing


def test_close_frees_weights_and_kv_although_the_object_lives() -> None:
    before = _native.alive()
    closed = LLM(options=LoadOptions(kv_bytes=16 * 2**20, max_running=2))
    assert _native.alive()[0] == before[0] + 1 and _native.alive()[2] > before[2]
    closed.generate("x", GREEDY)
    closed.close()
    gc.collect()
    assert (_native.alive()[0], _native.alive()[2]) == (before[0], before[2])


def test_use_after_close_is_said() -> None:
    llm = LLM(kv_bytes=16 * 2**20)
    stream = llm.stream("x", SamplingParams(max_tokens=400, ignore_eos=True))
    next(stream)
    llm.close()
    llm.close()
    with pytest.raises(PenstockError):
        list(stream)
    for use in (lambda: llm.generate("x"), lambda: llm.chat([]), lambda: llm.stream("x"), lambda: llm.loaded):
        with pytest.raises(EngineUnavailable, match="this LLM was closed"):
            use()


def test_async_with_and_an_abandoned_async_stream() -> None:
    async def run() -> tuple[int, int]:
        async with LLM(kv_bytes=16 * 2**20) as llm:
            stream = llm.astream("x", SamplingParams(max_tokens=400, ignore_eos=True))
            await anext(stream)
            await stream.aclose()
            found = await llm.agenerate(["a", "b"], GREEDY)
            return len(found), llm.loaded.client.snapshot().num_cancelled

    assert asyncio.run(run()) == (2, 1)


def test_a_context_that_the_model_was_not_made_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_model_tokens is 1,000; the model was made for 512"):
        LLM(max_model_tokens=1000)


def test_a_script_that_closes_nothing_ends_cleanly() -> None:
    code = (
        "from penstock import LLM, SamplingParams\n"
        "llm = LLM()\n"
        "stream = llm.stream('The', SamplingParams(max_tokens=400, ignore_eos=True))\n"
        "next(stream)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
