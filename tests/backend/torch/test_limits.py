import pytest

pytest.importorskip("torch")

from penstock.backend.torch.limits import QUICK_COPY_BYTES, QUICK_MATRIX, QUICK_REPEATS, measure


def test_a_device_is_measured() -> None:
    found = measure("cpu", "this one", quick=True)
    assert (found.name, found.copied_bytes, found.operations) == ("this one", 2 * QUICK_COPY_BYTES, 2 * QUICK_MATRIX**3)
    for times in (found.copy_s, found.product_s):
        assert len(times) == QUICK_REPEATS and all(0 < time < 60 for time in times)
