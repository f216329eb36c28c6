from penstock.sim import VirtualClock


def test_it_moves_only_forward_and_only_when_told():
    clock = VirtualClock(1.0)
    assert clock.now() == 1.0 == clock.now()
    clock.advance_to(3.0)
    clock.advance_to(2.0)
    assert clock.now() == 3.0
