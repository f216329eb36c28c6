import threading

from penstock.core import Request, SamplingParams
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
