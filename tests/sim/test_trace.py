import gzip
from pathlib import Path

import pytest

from penstock.core import ConfigError
from penstock.sim import Arrival, read_azure_trace, trace_requests

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def test_rows_in_order_and_no_more_than_asked(tmp_path):
    text = HEADER + "2023-11-16 23:59:59.5000000,374,44\n2023-11-17 00:00:01.2500000,5,0\n2023-11-17 00:00:02,1,1\n"
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    wanted = (Arrival(0.0, 374, 44), Arrival(1.75, 5, 0), Arrival(2.5, 1, 1))
    assert read_azure_trace(plain, 10) == read_azure_trace(packed, 10) == wanted
    assert read_azure_trace(plain, 2) == wanted[:2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "time,a,b\n",
        HEADER + "x,1,1\n",
        HEADER + "2023-11-16 18:15:46,1\n",
        HEADER + "2023-11-16 18:15:46,0,1\n",
        HEADER + "2023-11-16 18:15:46,1,-1\n",
        HEADER + "2023-11-16 18:15:46,1,1\n2023-11-16 18:15:45,1,1\n",
        HEADER + "2023-11-16 18:15:46,1,1\n2023-11-16 18:15:46+00:00,1,1\n",
        HEADER + "1" * 100_000,
        HEADER + "2023-11-16 18:15:46,1," + "9" * 4500,
    ],
)
def test_bad_files_are_told(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_azure_trace(path, 10)


def test_files_that_are_no_text(tmp_path):
    path = tmp_path / "a.csv.gz"
    spoiled = bytearray(gzip.compress(HEADER.encode()))
    spoiled[10] ^= 0xFF  # the kind of the first block
    for content in (b"no gzip", gzip.compress(HEADER.encode())[:20], gzip.compress(b"\xff\xfe"), bytes(spoiled)):
        path.write_bytes(content)
        with pytest.raises(ConfigError):
            read_azure_trace(path, 10)
    with pytest.raises(ConfigError):
        read_azure_trace(Path(tmp_path / "nowhere"), 10)


def test_requests_have_the_traces_lengths_and_share_no_prefix():
    arrivals = [Arrival(0.5, 100, 7), Arrival(1.0, 100, 0), Arrival(1.5, 5000, 1)]
    requests = list(trace_requests(arrivals, 32_000, 4096))
    assert [len(request.prompt_tokens) for request in requests] == [100, 100]
    assert [request.sampling.max_tokens for request in requests] == [7, 1]
    assert requests[0].prompt_tokens[0] != requests[1].prompt_tokens[0]
    assert requests[0].arrival_s == 0.5 and all(token < 32_000 for token in requests[1].prompt_tokens)
