from tests.engine.conftest import Letters

from penstock.engine.live import Live
from penstock.engine.stream import EventStream


def test_every_sample_has_its_own_text_side(make_request):
    stream = EventStream(make_request(n=3))
    live = Live(stream, Letters())
    assert live.stream is stream and live.remaining == 3
    assert [one.sample for one in live.samples] == [0, 1, 2]
    assert len({id(one) for one in live.samples}) == 3 and not any(one.finished for one in live.samples)
