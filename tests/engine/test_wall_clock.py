from penstock.engine import WallClock


def test_it_goes_forward():
    clock = WallClock()
    readings = [clock.now() for _ in range(100)]
    assert readings == sorted(readings)
