import threading

import pytest

from penstock.core import QueueFull, Request, SamplingParams
from penstock.engine import Arrive, Cancel, EventStream
from penstock.engine.inbox import Inbox


def arrival(id: str, tokens: int, n: int = 1) -> Arrive:
    request = Request(id, (1,) * tokens, SamplingParams(n=n))
    return Arrive(request, EventStream(request), None)


def test_order_weight_and_emptiness():
    inbox = Inbox()
    commands = [arrival("a", 3), Cancel("a"), arrival("b", 4, n=2)]
    for command in commands:
        inbox.push(command)
    assert (inbox.num_requests, inbox.num_tokens, len(inbox)) == (3, 11, 3)
    assert inbox.take() == commands
    assert (inbox.num_requests, inbox.num_tokens, len(inbox)) == (3, 11, 0), "until they are counted elsewhere"
    inbox.admitted(commands[2])
    assert (inbox.num_requests, inbox.num_tokens) == (1, 3)
    assert inbox.take() == []


def test_nothing_is_lost_between_threads():
    inbox, taken, pushes = Inbox(), [], []
    inbox.on_push(lambda: pushes.append(1))
    threads = [
        threading.Thread(target=lambda base=base: [inbox.push(Cancel(f"{base}-{i}")) for i in range(500)])
        for base in range(4)
    ]
    for thread in threads:
        thread.start()
    while len(taken) < 2000:
        taken.extend(inbox.take())
    for thread in threads:
        thread.join()
    assert len({command.request_id for command in taken}) == 2000 == len(pushes)
    for base in range(4):
        mine = [command.request_id for command in taken if command.request_id.startswith(f"{base}-")]
        assert mine == [f"{base}-{i}" for i in range(500)]


def test_the_door_counts_prompt_tokens_and_says_when_to_come_again(make_rig, make_request):
    rig = make_rig(max_waiting_tokens=30)
    rig.engine.submit(make_request(prompt=[1] * 20), 0.0)
    with pytest.raises(QueueFull, match="at most 30") as full:
        rig.engine.submit(make_request(prompt=[1] * 20), 0.0)
    first = full.value.retry_after_s
    assert first > 0
    rig.engine.submit(make_request(prompt=[1] * 10, id="second"), 0.0)
    with pytest.raises(QueueFull) as full:
        rig.engine.submit(make_request(prompt=[1] * 20), 0.0)
    assert full.value.retry_after_s > first, "more waits, it takes longer"
    rig.run()
