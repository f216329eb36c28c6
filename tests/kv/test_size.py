import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core import ConfigError, EngineConfig, KvGroup
from penstock.kv import KvManager
from penstock.kv.size import KvBudget, human_bytes, size_kv

GROUP = (KvGroup("full", (0, 1), 32 * 1000),)  # 1,000 bytes a token


def test_a_roomy_machine_takes_sixteen_full_sequences_and_no_more() -> None:
    size = size_kv(GROUP, 32, 4096, KvBudget(100 * 10**9))
    assert size.tokens == 16 * 4096
    assert size.cut == ""
    assert "room for 16 requests of 4,096 tokens or 128 of 512" in size.line("bf16")


def test_a_tight_machine_takes_half_of_what_is_free() -> None:
    size = size_kv(GROUP, 32, 4096, KvBudget(20 * 10**6))
    assert size.kv_bytes <= 10 * 10**6 < size.kv_bytes + 32_000
    assert size.max_model_tokens == 4096


def test_a_context_that_does_not_fit_is_cut_and_the_line_says_why() -> None:
    size = size_kv(GROUP, 32, 131_072, KvBudget(20 * 10**6))
    assert size.max_model_tokens == size.tokens < 131_072
    assert "max_model_tokens 131,072 → 9,984, since half of 20 MB free memory" in size.line("bf16")


def test_a_context_that_was_asked_for_is_refused_not_cut() -> None:
    with pytest.raises(ConfigError, match="131,072 tokens needs 131 MB of KV"):
        size_kv(GROUP, 32, 131_072, KvBudget(20 * 10**6), pinned_context=True)


def test_bytes_given_by_the_user_are_all_used() -> None:
    assert size_kv(GROUP, 32, 128, KvBudget(0, 64 * 10**6)).pages == (2000,)


def test_nothing_fits() -> None:
    with pytest.raises(ConfigError, match="holds 0 tokens"):
        size_kv(GROUP, 32, 4096, KvBudget(0))


WINDOWED = (*GROUP, KvGroup("window-64", (2,), 16 * 1000, window=64))


def test_groups_of_a_short_context_get_the_same_number_of_pages() -> None:
    size = size_kv(WINDOWED, 32, 64, KvBudget(10**6))
    assert size.line("bf16").endswith("requests of 64 tokens")
    assert len(set(size.pages)) == 1
    assert size.kv_bytes == size.pages[0] * 48_000


def test_a_window_gets_what_its_sequences_hold_and_room_for_short_ones() -> None:
    size = size_kv(WINDOWED, 32, 100_000, KvBudget(10**12), chunk_tokens=320)
    assert size.pages == (
        16 * 3125,
        2048,
    )  # 65,536 tokens in short sequences; 16 long ones hold 6 pages each, and one a chunk
    assert "kv: full 50,000 + window-64 2,048 pages × 32 tokens" in size.line("bf16")
    assert "room for 16 requests of 100,000 tokens or 340 of 512" in size.line("bf16")


def test_control_without_a_chunk_the_window_needs_less() -> None:
    assert size_kv(WINDOWED, 32, 100_000, KvBudget(10**12)).room(512) == 512
    assert size_kv(WINDOWED, 32, 100_000, KvBudget(10**12), chunk_tokens=320).room(512) == 340


LONG = (KvGroup("full", (0,), 10**6), KvGroup("window-128", (1,), 10**6, window=128))


@pytest.mark.parametrize("budget", [KvBudget(20 * 10**9), KvBudget(0, 10 * 10**9), KvBudget(60 * 10**9)])
def test_where_memory_is_short_no_group_runs_out_long_before_another(budget: KvBudget) -> None:
    size = size_kv(LONG, 32, 131_072, budget, chunk_tokens=2048)
    assert size.room(131_072) >= 1 and size.max_model_tokens == 131_072
    for usual in (512, 2048):
        alone = size.pages[0] // (usual // 32)  # as many as the layers without a window hold
        assert size.room(usual) >= min(128, alone // 4)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 60),
    st.integers(1, 200_000),
    st.integers(1, 4096),
    st.lists(st.tuples(st.integers(5_000, 10**6), st.none() | st.integers(1, 50_000)), min_size=1, max_size=3),
    st.booleans(),
)
def test_what_is_chosen_holds_a_sequence_and_stays_within_the_budget(
    megabytes: int, context: int, chunk: int, shapes: list[tuple[int, int | None]], asked: bool
) -> None:
    groups = tuple(KvGroup(str(i), (i,), size, window) for i, (size, window) in enumerate(shapes))
    budget = KvBudget(0, megabytes * 10**6) if asked else KvBudget(2 * megabytes * 10**6)
    try:
        size = size_kv(groups, 32, context, budget, chunk_tokens=chunk)
    except ConfigError:
        return
    assert size.kv_bytes == sum(n * g.bytes_per_page for n, g in zip(size.pages, groups, strict=True))
    assert size.kv_bytes <= megabytes * 10**6
    assert size.max_model_tokens <= context
    assert (size.max_model_tokens < context) == bool(size.cut)
    config = EngineConfig(size.max_model_tokens, 100, size.pages, max_step_tokens=chunk, page_tokens=32)
    assert KvManager(groups, config).fits(size.max_model_tokens)
    assert size.room(size.max_model_tokens) >= 1


@pytest.mark.parametrize(
    ("count", "text"), [(5, "5 B"), (1500, "1.5 kB"), (2_000_000, "2 MB"), (123_456_789_000, "123 GB")]
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text
