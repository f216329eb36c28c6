"""Nodes of made-up machines, and the threads dealt to them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.backend.cpu import make_pool, numa_layout
from penstock.backend.cpu.placement import Node, NodeThreads, deal_threads, parse_list, read_nodes, shown_layout
from penstock.core import ConfigError

NODES = "sys/devices/system/node"
CPUS = "sys/devices/system/cpu"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def two_sockets(**changes: str) -> dict[str, str]:
    """Two nodes of eight cores with two processors each: 0-7 and 16-23, 8-15 and 24-31."""
    files = {
        f"{NODES}/online": "0-1\n",
        f"{NODES}/has_memory": "0-1\n",
        f"{NODES}/node0/cpulist": "0-7,16-23\n",
        f"{NODES}/node1/cpulist": "8-15,24-31\n",
        f"{NODES}/node0/distance": "10 21\n",
        f"{NODES}/node1/distance": "21 10\n",
        f"{CPUS}/online": "0-31\n",
        "proc/self/status": "Name:\tpython\nMems_allowed_list:\t0-1\n",
    }
    for cpu in range(32):
        files[f"{CPUS}/cpu{cpu}/topology/thread_siblings_list"] = f"{cpu % 16},{cpu % 16 + 16}\n"
    return files | changes


FIRST, SECOND = (*range(8), *range(16, 24)), (*range(8, 16), *range(24, 32))


def test_two_sockets(tmp_path):
    nodes = read_nodes(write(tmp_path, two_sockets()), range(32))
    assert nodes == (Node(0, FIRST, 8), Node(1, SECOND, 8))
    layout = deal_threads(nodes, 16)
    assert layout == (NodeThreads(0, 8, FIRST), NodeThreads(1, 8, SECOND))
    assert shown_layout(layout) == "node 0: 8 on processors 0-7,16-23; node 1: 8 on processors 8-15,24-31"


def test_one_node_is_no_layout(tmp_path):
    files = {f"{NODES}/online": "0\n", f"{NODES}/has_memory": "0\n", f"{NODES}/node0/cpulist": "0-3\n"}
    nodes = read_nodes(write(tmp_path, files), range(4))
    assert nodes == (Node(0, (0, 1, 2, 3), 4),)
    assert deal_threads(nodes, 4) == ()
    assert shown_layout(()) == "one node, nothing bound"


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 16, 40])
def test_threads_are_dealt_by_cores(tmp_path, threads):
    nodes = read_nodes(write(tmp_path, two_sockets()), range(32))
    counts = [node.threads for node in deal_threads(nodes, threads)]
    assert counts == ([] if threads == 1 else [-(-threads // 2), threads // 2])


def test_nodes_outside_of_the_affinity_are_none(tmp_path):
    nodes = read_nodes(write(tmp_path, two_sockets()), range(8, 12))
    assert nodes == (Node(1, (8, 9, 10, 11), 4),)
    assert deal_threads(nodes, 4) == ()


def test_an_affinity_across_nodes_counts_cores_once(tmp_path):
    nodes = read_nodes(write(tmp_path, two_sockets()), [0, 16, 1, 8, 9, 10, 26])
    assert nodes == (Node(0, (0, 1, 16), 2), Node(1, (8, 9, 10, 26), 3))
    assert [node.threads for node in deal_threads(nodes, 5)] == [2, 3]


def test_processors_that_are_offline_are_none(tmp_path):
    files = two_sockets(**{f"{CPUS}/online": "0-3,8-31\n"})
    nodes = read_nodes(write(tmp_path, files), range(32))
    assert [(node.cpus[:5], node.num_cores) for node in nodes] == [((0, 1, 2, 3, 16), 8), ((8, 9, 10, 11, 12), 8)]


@pytest.mark.parametrize("without", ["has_memory", "Mems_allowed_list"])
def test_processors_of_a_node_without_memory_go_to_the_nearest(tmp_path, without):
    files = two_sockets(
        **{
            f"{NODES}/online": "0-2\n",
            f"{NODES}/has_memory": "0-1\n" if without == "has_memory" else "0-2\n",
            "proc/self/status": "Mems_allowed_list:\t" + ("0-2\n" if without == "has_memory" else "0-1\n"),
            f"{NODES}/node1/cpulist": "8-15\n",
            f"{NODES}/node2/cpulist": "24-31\n",
            f"{NODES}/node2/distance": "31 21 10\n",
        }
    )
    nodes = read_nodes(write(tmp_path, files), range(32))
    assert [(node.id, node.cpus) for node in nodes] == [(0, FIRST), (1, SECOND)]


def test_memory_without_processors_is_no_node(tmp_path):
    files = two_sockets(**{f"{NODES}/online": "0-2\n", f"{NODES}/has_memory": "0-2\n", f"{NODES}/node2/cpulist": "\n"})
    assert [node.id for node in read_nodes(write(tmp_path, files), range(32))] == [0, 1]


def test_a_system_that_says_nothing_has_no_nodes(tmp_path):
    assert read_nodes(tmp_path, range(4)) == ()
    assert deal_threads((), 4) == ()


@pytest.mark.parametrize("text", ["", "x", "0-", "-1", "1-0", "0-99999999999", "0,,1", "0-1-2", "٣", "0" * 70_000])
def test_nonsense_is_no_list(tmp_path, text):
    assert parse_list(text) == ()
    files = two_sockets(**{f"{NODES}/node0/cpulist": text, f"{NODES}/node0/distance": text})
    assert [node.id for node in read_nodes(write(tmp_path, files), range(32))] == [1]


@given(st.text(alphabet="0123456789,- x\n", max_size=40))
def test_any_text_is_read_without_harm(text):
    found = parse_list(text)
    assert list(found) == sorted(set(found))
    assert all(0 <= number < 4096 for number in found)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=8), st.integers(1, 1024))
def test_every_thread_has_a_node_and_none_has_more_than_its_share(cores, threads):
    nodes = tuple(Node(i, (i,), count) for i, count in enumerate(cores))
    layout = deal_threads(nodes, threads)
    if not layout:
        assert len(cores) == 1 or threads * max(cores) > threads * sum(cores) - sum(cores)  # all on one
        return
    assert sum(node.threads for node in layout) == threads
    for node in layout:
        assert abs(node.threads - threads * cores[node.id] / sum(cores)) < 1


def test_off_binds_nothing_and_nonsense_is_refused():
    assert numa_layout(4, "off") == ()
    assert make_pool(2, "off").nodes == 1
    with pytest.raises(ConfigError, match="numa is 'maybe'; auto and off exist"):
        make_pool(2, "maybe")
