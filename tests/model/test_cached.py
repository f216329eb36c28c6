"""The cache, listed and made smaller, in the layout of the hub's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.model.hub_stub import Repo, StubHub, serve

from penstock.core import ModelFileError, PenstockError
from penstock.model.cached import interrupted, list_models, remove, verify
from penstock.model.hub import Hub, hub_reference
from penstock.model.repo_cache import RepoCache, find_pulled

BUNDLED = Path(__file__).parents[2] / "src/penstock/models/bundled"
WEIGHTS = (BUNDLED / "model.safetensors").read_bytes()
OLD = Repo({"config.json": b"{}", "model.safetensors": WEIGHTS})
PARTS = ("m-q8_0-00001-of-00002.gguf", "m-q8_0-00002-of-00002.gguf")
NEW = Repo({"config.json": b"{} ", "model.safetensors": WEIGHTS}, commit="b" * 40)


@pytest.fixture
def stub() -> Iterator[StubHub]:
    with serve({"org/tiny": OLD}) as hub:
        yield hub


@pytest.fixture
def hub(stub: StubHub, tmp_path: Path) -> Hub:
    return Hub(stub.endpoint, "secret", tmp_path / "hub")


def pull(hub: Hub, name: str, revision: str | None = None) -> Path:
    return hub.pull(hub_reference(name), revision).path


def test_no_cache_is_an_empty_one(tmp_path: Path) -> None:
    assert list_models(tmp_path / "no") == [] and interrupted(tmp_path / "no") == []
    assert verify(tmp_path / "no", None, None, print) == []
    with pytest.raises(ModelFileError, match="a/b: not in the cache"):
        remove(tmp_path / "no", hub_reference("a/b"))


def test_a_revision_is_removed_without_what_another_uses(hub: Hub, stub: StubHub) -> None:
    old = pull(hub, "org/tiny", "v1")
    stub.repos["org/tiny"] = NEW
    new = pull(hub, "org/tiny")
    listed = list_models(hub.cache)
    assert [(model.name, model.commit[:1], model.revisions, model.checked) for model in listed] == [
        ("org/tiny", "a", ("v1",), True),
        ("org/tiny", "b", ("main",), True),
    ]
    assert {model.kind for model in listed} == {"safetensors BF16"}
    assert listed[0].size_bytes == len(WEIGHTS) + 2
    assert remove(hub.cache, hub_reference("org/tiny"), "v1") < 2000  # the weights are shared
    assert not old.exists() and (new / "model.safetensors").read_bytes() == WEIGHTS
    assert find_pulled("org/tiny", "v1", cache=hub.cache) is None
    assert find_pulled("org/tiny", None, cache=hub.cache) == new
    with pytest.raises(ModelFileError, match="org/tiny at v1: not in the cache"):
        remove(hub.cache, hub_reference("org/tiny"), "v1")
    assert remove(hub.cache, hub_reference("org/tiny")) > len(WEIGHTS)
    assert not RepoCache(hub.cache, "org/tiny").folder.exists()


def test_an_interrupted_pull_is_listed_and_removed(hub: Hub, stub: StubHub) -> None:
    blobs = RepoCache(hub.cache, "org/half").folder / "blobs"
    blobs.mkdir(parents=True)
    (blobs / ("0" * 64 + ".incomplete")).write_bytes(b"x" * 500)
    assert interrupted(hub.cache) == [("org/half", 500)] and list_models(hub.cache) == []
    assert remove(hub.cache, hub_reference("org/half")) == 500
    assert interrupted(hub.cache) == []


def test_verify_names_every_file_and_forgives_a_copy(hub: Hub) -> None:
    folder = pull(hub, "org/tiny")
    (folder / "config.json").resolve().touch()
    said: list[str] = []
    find_pulled("org/tiny", None, said.append, hub.cache)
    assert len(said) == 1
    (found,) = verify(hub.cache, None, None, lambda path: None)
    assert found.faults == () and (found.num_files, found.num_bytes) == (2, len(WEIGHTS) + 2)
    find_pulled("org/tiny", None, said.append, hub.cache)
    assert len(said) == 1  # its new time is in the manifest
    (folder / "config.json").resolve().write_bytes(b"[]")
    (folder / "model.safetensors").unlink()
    (found,) = verify(hub.cache, hub_reference("org/tiny"), "main", lambda path: None)
    assert [fault.split(":")[0].rsplit("/", 1)[-1] for fault in found.faults] == ["config.json", "model.safetensors"]
    with pytest.raises(ModelFileError, match="org/tiny: not pulled here"):
        verify(hub.cache, hub_reference("org/tiny"), "v7", lambda path: None)


def test_a_file_pulled_by_its_name_is_found_by_its_type_and_verified_by_either(hub: Hub, stub: StubHub) -> None:
    stub.repos["org/m"] = Repo({name: name.encode() for name in ("m-Q4_K_M.gguf", *PARTS)})
    path = pull(hub, "org/m/m-q8_0-00001-of-00002.gguf")
    assert find_pulled("org/m:Q8_0", None, cache=hub.cache) == path
    assert find_pulled("org/m:Q4_K_M", None, cache=hub.cache) is None
    for name in ("org/m:Q8_0", "org/m/m-q8_0-00001-of-00002.gguf", "org/m"):
        (found,) = verify(hub.cache, hub_reference(name), None, lambda path: None)
        assert (found.num_files, found.faults) == (2, ())
    for name in ("org/m:Q4_K_M", "org/m/m-Q4_K_M.gguf"):
        with pytest.raises(ModelFileError, match="not pulled here"):
            verify(hub.cache, hub_reference(name), None, lambda path: None)


def test_a_foreign_link_in_the_cache_frees_nothing_outside(hub: Hub, stub: StubHub, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    folder = pull(hub, "org/tiny")
    (folder / "out").symlink_to(precious)
    (folder / "file.safetensors").symlink_to(precious / "file")
    remove(hub.cache, hub_reference("org/tiny"))
    assert (precious / "file").read_text() == "mine"
    folder = pull(hub, "org/tiny")
    stub.repos["org/tiny"] = NEW
    pull(hub, "org/tiny")
    (folder / "file.safetensors").symlink_to(precious / "file")
    with pytest.raises(PenstockError, match="a link of the cache leads there"):
        remove(hub.cache, hub_reference("org/tiny"), OLD.commit)
    assert (precious / "file").read_text() == "mine"


def test_a_cache_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PenstockError, match="HF_HOME names the cache"):
        list_models(tmp_path / "file")
