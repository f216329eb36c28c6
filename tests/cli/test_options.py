import pytest

from penstock.cli.options import check_existing, parse_bytes
from penstock.core import ConfigError


@pytest.mark.parametrize(
    ("text", "count"),
    [("1000000", 10**6), ("2GB", 2 * 10**9), ("512MiB", 512 * 2**20), ("1.5 g", 1_500_000_000), ("64ki", 65536)],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text, "--kv-bytes") == count


def test_no_size_is_no_size() -> None:
    assert parse_bytes(None, "--kv-bytes") is None


@pytest.mark.parametrize("text", ["", "0", "-1", "2 apples", "1e9", "nan", "9" * 400, "1.2.3GB", "2PB"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--kv-bytes is"):
        parse_bytes(text, "--kv-bytes")


@pytest.mark.parametrize("model", ["./nothing", "/no/such/folder", "a.gguf", "~/nothing", "one/two/three", "plain"])
def test_a_path_that_does_not_exist_is_said_so(model: str) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        check_existing(model)


def test_a_hub_id_and_no_model_pass() -> None:
    check_existing("owner/name")
    check_existing(None)
