"""The backends that every test of the protocol runs over; a test leaves torch as many threads as it found."""

import sys
from functools import partial

import pytest
from tests.backend import driver


@pytest.fixture(params=["cpu", "torch"])
def make_backend(request):
    """`driver.make_backend` of one kind."""
    return partial(driver.make_backend, kind=request.param)


@pytest.fixture(autouse=True)
def _torch_threads():
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch:
        torch.set_num_threads(before)
