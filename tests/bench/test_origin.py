import subprocess

from tests.bench.samples import limits

from penstock.bench import origin


def git(folder, *arguments):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path):
    package = tmp_path / "src" / "penstock"
    package.mkdir(parents=True)
    (package / "a.py").write_text("1\n")
    assert origin.read_commit(package) is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "x")
    commit = origin.read_commit(package)
    assert commit and not commit.endswith("+")
    (package / "a.py").write_text("2\n")
    assert origin.read_commit(package) == commit + "+"
    inner = tmp_path / "venv" / "penstock"  # installed within somebody else's checkout
    inner.mkdir(parents=True)
    assert origin.read_commit(inner) is None


def test_an_origin_names_the_machine_and_carries_its_limits():
    found = origin.read_origin(limits())
    assert found.cpu and found.memory_bytes > 0 and found.date.endswith(" UTC")
    assert (found.tier, found.threads, found.machine) == ("avx2", 2, limits())
    assert origin.read_origin().machine is None
