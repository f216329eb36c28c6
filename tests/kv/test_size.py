import pytest

from penstock.core import ConfigError, KvGroup
from penstock.kv.size import human_bytes, size_kv

GROUP = (KvGroup("full", (0, 1), 32 * 1000),)  # 1,000 bytes a token


def test_a_roomy_machine_takes_sixteen_full_sequences_and_no_more() -> None:
    size = size_kv(GROUP, 32, 4096, 100 * 10**9)
    assert size.tokens == 16 * 4096
    assert size.cut == ""
    assert "room for 16 requests of 4,096 tokens or 128 of 512" in size.line("bf16")


def test_a_tight_machine_takes_half_of_what_is_free() -> None:
    size = size_kv(GROUP, 32, 4096, 20 * 10**6)
    assert size.kv_bytes <= 10 * 10**6 < size.kv_bytes + 32_000
    assert size.max_model_tokens == 4096


def test_a_context_that_does_not_fit_is_cut_and_the_line_says_why() -> None:
    size = size_kv(GROUP, 32, 131_072, 20 * 10**6)
    assert size.max_model_tokens == size.tokens < 131_072
    assert "max_model_tokens 131,072 → 9,984, since half of 20 MB free memory" in size.line("bf16")


def test_a_context_that_was_asked_for_is_refused_not_cut() -> None:
    with pytest.raises(ConfigError, match="131,072 tokens needs 131 MB of KV"):
        size_kv(GROUP, 32, 131_072, 20 * 10**6, pinned_context=True)


def test_bytes_given_by_the_user_are_all_used() -> None:
    assert size_kv(GROUP, 32, 128, 0, kv_bytes=64 * 10**6).pages == (2000,)


def test_nothing_fits() -> None:
    with pytest.raises(ConfigError, match="holds 0 tokens"):
        size_kv(GROUP, 32, 4096, 0)


def test_all_groups_get_the_same_number_of_pages() -> None:
    groups = (*GROUP, KvGroup("window", (2,), 16 * 1000, window=64))
    size = size_kv(groups, 32, 64, 10**6)
    assert size.line("bf16").endswith("requests of 64 tokens")
    assert len(set(size.pages)) == 1
    assert size.kv_bytes == size.pages[0] * 48_000


@pytest.mark.parametrize(
    ("count", "text"), [(5, "5 B"), (1500, "1.5 kB"), (2_000_000, "2 MB"), (123_456_789_000, "123 GB")]
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text
