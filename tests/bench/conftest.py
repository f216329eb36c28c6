"""One scripted server for all tests of a file."""

from collections.abc import Iterator

import pytest
from tests.bench.stub_server import Stub


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with Stub() as server:
        yield server
