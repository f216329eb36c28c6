"""Pulls from a hub on this machine: what is fetched, resumed, checked, refused, and found again without it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.model.hub_stub import Repo, StubHub, entry, serve

from penstock.core import ModelFileError, PenstockError
from penstock.model import open_checkpoint
from penstock.model.hub import Hub, Watcher, hub_reference, resolve_model
from penstock.model.manifest import read_manifest
from penstock.model.repo_cache import RepoCache, cache_folder, find_pulled
from penstock.text import load_tokenizer

BUNDLED = Path(__file__).parents[2] / "src/penstock/models/bundled"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
SMALL = {"config.json": b"{}", "tokenizer.json": b"{ }", "chat_template.jinja": b"x", "README.md": b"# x"}
CODE = {"modeling_x.py": b"1", "pytorch_model.bin": b"p" * 2000, "x.pkl": b"p", "tf_model.h5": b"p", "weights.pt": b"p"}
TINY = Repo({**SMALL, **CODE, "model.safetensors": WEIGHTS})


@pytest.fixture
def stub() -> Iterator[StubHub]:
    with serve({"org/tiny": TINY}) as hub:
        yield hub


@pytest.fixture
def hub(stub: StubHub, tmp_path: Path) -> Hub:
    return Hub(stub.endpoint, "secret", tmp_path / "hub")


def pull(hub: Hub, name: str = "org/tiny", revision: str | None = None, waits: list[float] | None = None):
    heard = waits if waits is not None else []
    return hub.pull(hub_reference(name), revision, Watcher(wait=heard.append))


def refusal(hub: Hub, name: str, revision: str | None = None, error: type[Exception] = ModelFileError) -> str:
    with pytest.raises(error) as refused:
        pull(hub, name, revision)
    assert "\n" not in str(refused.value) and "http" not in str(refused.value)
    return str(refused.value)


def test_only_what_holds_no_code_is_fetched_and_all_of_it_is_in_the_manifest(hub: Hub, stub: StubHub) -> None:
    found = pull(hub)
    wanted = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in found.path.iterdir()) == wanted
    assert sorted(path.rsplit("/", 1)[-1] for path, _ in stub.downloads()) == wanted
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS
    place = RepoCache(hub.cache, "org/tiny")
    manifest = read_manifest(place.manifest(TINY.commit), "org/tiny", TINY.commit)
    assert sorted(manifest.files) == wanted
    assert manifest.files["model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert manifest.files["config.json"].sha256 == hashlib.sha256(b"{}").hexdigest()
    assert place.commit_of("main") == place.commit_of(None) == TINY.commit


def test_what_is_there_is_checked_and_not_fetched_again(hub: Hub, stub: StubHub) -> None:
    first = pull(hub)
    assert first.fetched_bytes == sum(record.size for record in first.files.values())
    stub.asked.clear()
    assert pull(hub).fetched_bytes == 0 and stub.downloads() == []
    (hub.cache / "models--org--tiny/blobs" / entry("m", WEIGHTS)["lfs"]["oid"]).write_bytes(WEIGHTS[:-1] + b"!")
    pull(hub)
    assert [path for path, _ in stub.downloads()] == [f"/org/tiny/resolve/{TINY.commit}/model.safetensors"]
    assert (first.path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_revision_is_pinned_to_its_commit(hub: Hub, stub: StubHub) -> None:
    pull(hub, revision="v1")
    stub.repos["org/tiny"] = Repo({**TINY.files, "config.json": b'{"a": 1}'}, commit="b" * 40)
    try:
        assert pull(hub).commit == "b" * 40
        at_v1 = find_pulled("org/tiny", "v1", cache=hub.cache)
        assert at_v1 is not None and (at_v1 / "config.json").read_bytes() == b"{}"
        at_main = find_pulled("org/tiny", None, cache=hub.cache)
        assert at_main is not None and at_main.name == "b" * 40
        assert find_pulled("org/tiny", "a" * 40, cache=hub.cache) == at_v1
        assert find_pulled("org/tiny", "v2", cache=hub.cache) is None
    finally:
        stub.repos["org/tiny"] = TINY


def test_a_pulled_model_is_found_without_the_hub(hub: Hub) -> None:
    path = pull(hub).path
    unreachable = Hub("http://127.0.0.1:9", None, hub.cache)
    assert resolve_model("org/tiny", hub=unreachable) == path
    assert refusal(unreachable, "org/tiny").startswith("org/tiny: the hub cannot be reached (")
    with pytest.raises(ModelFileError, match=r"org/other: not on disk, not in the cache, and the hub cannot be"):
        resolve_model("org/other", hub=unreachable)


def test_what_another_program_left_is_used_when_the_hub_is_away_and_that_is_said(hub: Hub) -> None:
    path = pull(hub).path
    RepoCache(hub.cache, "org/tiny").manifest(TINY.commit).unlink()
    said: list[str] = []
    assert resolve_model("org/tiny", say=said.append, hub=Hub("http://127.0.0.1:9", None, hub.cache)) == path
    assert len(said) == 1 and "unchecked" in said[0]


def test_a_broken_connection_is_continued_where_it_broke(hub: Hub, stub: StubHub) -> None:
    stub.break_after = [1 << 30, 1 << 30, 1 << 30, 300_000, 200_000]  # small files come before the weights
    waits: list[float] = []
    found = pull(hub, waits=waits)
    ranges = [span for path, span in stub.downloads() if path.endswith("safetensors")]
    assert ranges == ["", "bytes=300000-1048575", "bytes=500000-1048575"] and len(waits) == 2
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_pull_that_was_interrupted_is_continued_by_the_next(hub: Hub, stub: StubHub) -> None:
    stub.break_after = [1 << 30, 1 << 30, 1 << 30, 300_000]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.pull(hub_reference("org/tiny"), None, Watcher(wait=interrupt))
    assert find_pulled("org/tiny", None, cache=hub.cache) is None
    stub.asked.clear()
    assert pull(hub).fetched_bytes < len(WEIGHTS) - 299_000
    assert stub.downloads()[0] == (f"/org/tiny/resolve/{TINY.commit}/model.safetensors", "bytes=300000-1048575")


@pytest.mark.parametrize("ignored", [False, True], ids=["416 or wrong bytes", "range ignored"])
@pytest.mark.parametrize(
    "left", [b"wrong" * 1000, WEIGHTS + b"more", WEIGHTS[:-1] + b"!"], ids=["other", "long", "end"]
)
def test_a_bad_beginning_is_replaced(hub: Hub, stub: StubHub, left: bytes, ignored: bool) -> None:
    stub.ignore_range = ignored
    blobs = hub.cache / "models--org--tiny/blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{entry('m', WEIGHTS)['lfs']['oid']}.incomplete").write_bytes(left)
    assert (pull(hub).path / "model.safetensors").read_bytes() == WEIGHTS
    assert not list(blobs.glob("*.incomplete"))


def test_a_file_too_large_for_one_answer_comes_in_several(
    hub: Hub, stub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.model.transfer.MAX_ANSWER_BYTES", 400_000)
    waits: list[float] = []
    assert (pull(hub, waits=waits).path / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [span for path, span in stub.downloads() if path.endswith("safetensors")]
    assert ranges == ["bytes=0-399999", "bytes=400000-799999", "bytes=800000-1048575"] and waits == []


def test_two_pulls_at_once_fetch_every_file_once(hub: Hub, stub: StubHub) -> None:
    with ThreadPoolExecutor(2) as both:
        paths = [each.result().path for each in [both.submit(pull, hub) for _ in range(2)]]
    assert paths[0] == paths[1] and len({path for path, _ in stub.downloads()}) == len(stub.downloads())


def test_a_hub_that_stays_away_is_given_up_and_what_arrived_is_kept(hub: Hub, stub: StubHub) -> None:
    stub.break_after = [1 << 30, 1 << 30, 1 << 30, 1000, *[0] * 20]
    assert "cannot be reached" in refusal(hub, "org/tiny")
    assert [part.stat().st_size for part in (hub.cache / "models--org--tiny/blobs").glob("*.incomplete")] == [1000]


def test_a_rate_limit_is_waited_out_or_said(hub: Hub, stub: StubHub) -> None:
    stub.refuse = [(429, {"Retry_After": "7"}), (503, {})]
    waits: list[float] = []
    pull(hub, waits=waits)
    assert waits[0] == 7.0 and len(waits) == 2
    shutil.rmtree(hub.cache)
    stub.refuse = [(429, {"Retry_After": "3600"})]
    assert "limits the rate of requests (429). hint: pull again in 3600 s" in refusal(hub, "org/tiny")


def test_large_files_may_lie_on_another_host_which_never_sees_the_token(hub: Hub, stub: StubHub) -> None:
    stub.redirect = True
    stub.break_after = [1 << 30, 1 << 30, 1 << 30, 1000]
    assert (pull(hub).path / "model.safetensors").read_bytes() == WEIGHTS
    sent = {(heads["host"], heads.get("authorization")) for _, path, heads in stub.asked if "/resolve/" in path}
    here, there = (url.removeprefix("http://") for url in (stub.endpoint, stub.elsewhere))
    assert sent == {(here, "Bearer secret"), (there, None)}


def test_what_is_not_what_the_hub_promised_is_refused(hub: Hub, stub: StubHub) -> None:
    for changed, said in ((WEIGHTS[:-1] + b"!", "the hub promised"), (WEIGHTS + b"!", "more than the 1048576 bytes")):
        stub.changed = {"model.safetensors": changed}
        assert said in refusal(hub, "org/tiny")
        assert find_pulled("org/tiny", None, cache=hub.cache) is None
    shutil.rmtree(hub.cache)
    stub.changed = {"config.json": b"[]"}  # small files have git's digest
    assert "config.json: what arrived has the digest" in refusal(hub, "org/tiny")


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("org/absent", None, "not on the hub"),
        ("org/tiny", "v9", "no revision 'v9'"),
        ("org/tiny", "../../x", "no revision '../../x'"),
        ("no such thing", None, "no hub id"),
        ("../../etc/passwd/x", None, "no hub id"),
        ("org/tiny:Q4_0", None, "it has no GGUF file"),
    ],
)
def test_failures_are_one_line(hub: Hub, name: str, revision: str | None, words: str) -> None:
    assert words in refusal(hub, name, revision)


def test_a_gated_model_says_what_to_set(hub: Hub, stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nonexistent")
    stub.repos["org/gated"] = Repo(TINY.files, gated=True)
    assert "access is gated. hint: accept its terms on the hub and set HF_TOKEN" in refusal(
        Hub(stub.endpoint, None, hub.cache), "org/gated"
    )
    assert pull(hub, "org/gated").path.is_dir()  # with a token
    stub.repos["org/gated"] = Repo({**TINY.files, "config.json": b"[1]"}, commit="c" * 40)
    stub.refuse = [(403, {"X_Error_Code": "GatedRepo"})]
    assert "gated and this account has none" in refusal(hub, "org/gated")


def test_pickles_alone_are_refused(hub: Hub, stub: StubHub) -> None:
    stub.repos["org/pickled"] = Repo({**SMALL, **CODE})
    assert "its weights are pickles (pytorch_model.bin), which can run code" in refusal(hub, "org/pickled")
    assert stub.downloads() == []


@pytest.mark.parametrize(
    "odd",
    [
        {"path": "../../x.safetensors"},
        {"path": "/etc/x.safetensors"},
        {"path": "a/../../x.safetensors"},
        {"path": "x\n.safetensors"},
        {"path": ".hidden.safetensors"},
        {"lfs": {"oid": "../" * 21 + "x", "size": 3, "pointerSize": 1}},
        {"oid": "../../../../x", "lfs": None},
        {"size": -1},
        {"size": 2**60},
        {"path": 7},
    ],
    ids=str,
)
def test_a_booby_trapped_listing_is_harmless(hub: Hub, stub: StubHub, tmp_path: Path, odd: dict[str, object]) -> None:
    good = entry("model-00001-of-00001.safetensors", WEIGHTS)
    stub.repos["org/trap"] = Repo(SMALL, extra=[{**good, **odd}])
    outside = set(tmp_path.rglob("*"))
    assert re.search("no safetensors|makes no sense", refusal(hub, "org/trap"))
    assert {path for path in tmp_path.rglob("*") if hub.cache not in path.parents} <= {*outside, hub.cache}


def test_an_answer_without_sense_is_one_line(hub: Hub, stub: StubHub) -> None:
    stub.repos["org/odd"] = Repo(SMALL, extra=[{"type": "file"}])
    assert "makes no sense" in refusal(hub, "org/odd")
    stub.repos["org/odd"] = Repo(SMALL, commit="../../../x")
    assert "names no commit" in refusal(hub, "org/odd")


def test_code_beside_a_model_is_neither_fetched_nor_run(hub: Hub, stub: StubHub, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in BUNDLED.iterdir() if path.suffix != ".md"}
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')"
    config = files["config.json"].rstrip().removesuffix(b"}") + b', "auto_map": {"AutoModel": "modeling_x.M"}}'
    files |= {"config.json": config, "modeling_x.py": trap.encode(), "pytorch_model.bin": trap.encode()}
    stub.repos["org/trap"] = Repo(files)
    folder = pull(hub, "org/trap").path
    assert not list(folder.glob("*.py")) and not list(folder.glob("*.bin"))
    assert open_checkpoint(folder).spec == open_checkpoint(BUNDLED).spec
    assert not (tmp_path / "ran").exists()


def test_a_changed_file_is_reported_at_load(hub: Hub) -> None:
    folder = pull(hub).path
    config, weights = folder / "config.json", folder / "model.safetensors"
    said: list[str] = []
    os.utime(weights, ns=(1, 1))
    assert find_pulled("org/tiny", None, said.append, hub.cache) == folder
    assert len(said) == 1 and "written since it was pulled" in said[0]
    config.resolve().write_bytes(b"[]")
    with pytest.raises(ModelFileError, match=r"config.json: its first bytes are not those that were pulled"):
        find_pulled("org/tiny", None, cache=hub.cache)
    config.resolve().write_bytes(b"{ }")
    with pytest.raises(ModelFileError, match=r"config.json: 3 bytes, 2 were pulled. hint: penstock verify org/tiny"):
        find_pulled("org/tiny", None, cache=hub.cache)
    config.unlink()
    with pytest.raises(ModelFileError, match=r"config.json: pulled before, and now: No such file"):
        find_pulled("org/tiny", None, cache=hub.cache)
    pull(hub)
    assert find_pulled("org/tiny", None, cache=hub.cache) == folder


def test_what_another_program_removed_is_pulled_again(hub: Hub) -> None:
    shutil.rmtree(pull(hub).path)
    assert find_pulled("org/tiny", None, cache=hub.cache) is None
    assert resolve_model("org/tiny", hub=hub).is_dir()


TRICKS = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ self._TemplateReference__context.environment.globals }}",
    "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
    "{% include '/etc/passwd' %}",
    "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}",
    "{{ 'x' * 10**12 }}",
)


@pytest.mark.parametrize("trick", TRICKS)
def test_template_tricks_are_harmless(hub: Hub, stub: StubHub, trick: str) -> None:
    files = {path.name: path.read_bytes() for path in BUNDLED.iterdir() if path.suffix != ".md"}
    stub.repos["org/trap"] = Repo({**files, "chat_template.jinja": trick.encode()})
    folder = pull(hub, "org/trap").path
    with pytest.raises(PenstockError) as refused:
        load_tokenizer(folder).encode_chat([{"role": "user", "content": "x"}])
    assert "root:" not in str(refused.value)


def test_an_index_that_points_outside_is_refused(hub: Hub, stub: StubHub) -> None:
    files = {path.name: path.read_bytes() for path in BUNDLED.iterdir() if path.suffix != ".md"}
    weights = files.pop("model.safetensors")
    index = b'{"weight_map": {"x": "../../../../../../etc/passwd"}}'
    shards = {"model-00001-of-00001.safetensors": weights, "model.safetensors.index.json": index}
    stub.repos["org/trap"] = Repo({**files, **shards})
    with pytest.raises(ModelFileError, match=r"index.json: .*etc/passwd' is no plain .safetensors file name"):
        open_checkpoint(pull(hub, "org/trap").path)


def test_a_full_disk_is_said_before_anything_is_fetched(hub: Hub, stub: StubHub) -> None:
    stub.repos["org/huge"] = Repo(SMALL, extra=[{**entry("model.safetensors", WEIGHTS), "size": 2**43}])
    assert "8,796,093,022" in refusal(hub, "org/huge", error=PenstockError)
    assert stub.downloads() == []


def test_a_cache_that_cannot_be_written_is_one_line(stub: StubHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refusal(Hub(stub.endpoint, None, tmp_path / "file" / "hub"), "org/tiny", error=PenstockError)
    assert "Not a directory" in line and "HF_HOME" in line


GGUF = Repo(
    {
        "README.md": b"#",
        "m-Q4_K_M.gguf": b"GGUF" * 1000,
        "m-q8_0-00001-of-00002.gguf": b"one" * 1000,
        "m-q8_0-00002-of-00002.gguf": b"two" * 1000,
        "mmproj-F16.gguf": b"GGUF",
        "BF16/m-00002-of-00002.gguf": b"lonely",
    }
)


def test_gguf_by_type_by_file_and_by_parts(hub: Hub, stub: StubHub) -> None:
    stub.repos["org/m"] = GGUF
    assert pull(hub, "org/m:q4_k_m").path.name == "m-Q4_K_M.gguf"
    assert [path.rsplit("/", 1)[-1] for path, _ in stub.downloads()] == ["m-Q4_K_M.gguf"]
    first = pull(hub, "org/m:Q8_0").path
    assert first.name == "m-q8_0-00001-of-00002.gguf"
    assert first.with_name("m-q8_0-00002-of-00002.gguf").read_bytes() == b"two" * 1000
    assert find_pulled("org/m/m-Q4_K_M.gguf", None, cache=hub.cache) == first.with_name("m-Q4_K_M.gguf")
    assert pull(hub, "org/m/m-q8_0-00001-of-00002.gguf").path == first
    assert find_pulled("org/m", None, cache=hub.cache) is None
    assert find_pulled("org/m:Q4_0", None, cache=hub.cache) is None
    assert "2 GGUF models" not in refusal(hub, "org/m:Q5_K_M")
    assert "no GGUF of type Q5_K_M. hint: it has BF16, Q4_K_M, Q8_0." in refusal(hub, "org/m:Q5_K_M")
    assert "3 GGUF models and no safetensors: BF16, Q4_K_M, Q8_0. hint: say which: org/m:BF16" in refusal(hub, "org/m")
    assert "this file is not: BF16/m-00001-of-00002.gguf" in refusal(hub, "org/m:BF16")
    assert "this file is not: other.gguf" in refusal(hub, "org/m/other.gguf")


@pytest.mark.parametrize(
    "settings",
    [{}, {"HF_HOME": "/x"}, {"XDG_CACHE_HOME": "/c"}, {"HF_HUB_CACHE": "~/y"}, {"HF_HOME": "$HOME/z"}],
    ids=str,
)
def test_the_cache_is_where_the_client_has_it(settings: dict[str, str]) -> None:

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "HUGGINGFACE"))}
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    ran = subprocess.run([sys.executable, "-c", code], env={**kept, **settings}, capture_output=True, text=True)
    assert str(cache_folder(settings)) == ran.stdout.strip()


def test_a_pulled_model_is_found_without_the_client(hub: Hub) -> None:
    path = pull(hub).path
    code = (
        "import sys; from penstock.assemble import find_model\n"
        "print(find_model('org/tiny'), 'huggingface_hub' in sys.modules, 'httpx' in sys.modules)"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(hub.cache), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == f"{path} False False", ran.stderr
