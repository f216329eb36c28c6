from pathlib import Path

from penstock.backend.cpu.machine import has_gpu, read_machine

GIB = 1024**3


def _host(root: Path) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n")
    (root / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU 9000\n")
    return root


def test_the_hosts_figures(tmp_path: Path) -> None:
    machine = read_machine(_host(tmp_path))
    assert (machine.cpu, machine.total_bytes, machine.available_bytes) == ("Some CPU 9000", 16 * GIB, 8 * GIB)


def test_a_containers_limit_wins_and_its_file_cache_is_not_used_memory(tmp_path: Path) -> None:
    root = _host(tmp_path)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/memory.max").write_text(f"{4 * GIB}\n")
    (root / "sys/fs/cgroup/memory.current").write_text(f"{3 * GIB}\n")
    (root / "sys/fs/cgroup/memory.stat").write_text(f"anon 5\ninactive_file {2 * GIB}\n")
    machine = read_machine(root)
    assert (machine.total_bytes, machine.available_bytes) == (4 * GIB, 3 * GIB)


def test_a_limit_of_max_is_no_limit(tmp_path: Path) -> None:
    root = _host(tmp_path)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert read_machine(root).total_bytes == 16 * GIB


def test_this_machine_has_memory() -> None:
    machine = read_machine()
    assert 0 < machine.available_bytes <= machine.total_bytes


def test_a_gpu_is_seen_where_the_driver_lists_one(tmp_path: Path) -> None:
    assert not has_gpu(tmp_path)
    (tmp_path / "proc/driver/nvidia/gpus").mkdir(parents=True)
    assert not has_gpu(tmp_path)
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir()
    assert has_gpu(tmp_path)
    (tmp_path / "box/dev").mkdir(parents=True)
    (tmp_path / "box/dev/nvidiactl").touch()
    assert not has_gpu(tmp_path / "box")
    (tmp_path / "box/dev/nvidia0").touch()
    assert has_gpu(tmp_path / "box")
    (tmp_path / "wsl/dev").mkdir(parents=True)
    (tmp_path / "wsl/dev/dxg").touch()
    assert has_gpu(tmp_path / "wsl")
