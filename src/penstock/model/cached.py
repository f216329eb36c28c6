"""What the hub client's cache holds: listed, verified, removed.

Knows nothing about the network. Invariant: nothing outside the cache folder is removed, and of a repository only what
no other revision uses.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CachedRepoInfo, CachedRevisionInfo, DeleteCacheStrategy, HFCacheInfo, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from penstock.core import ModelFileError, PenstockError
from penstock.model.gguf_file import read_gguf
from penstock.model.manifest import Manifest, differs, read_manifest, write_manifest
from penstock.model.reference import Reference, choose, gguf_kinds
from penstock.model.repo_cache import RepoCache, selected
from penstock.model.safetensors_file import read_safetensors
from penstock.model.tensor_file import TensorFile


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One thing in the cache that can be served by its name.

    Attributes:
        name: to give to `serve`, `run` or `rm`.
        commit: the revision's hash.
        revisions: branches and tags that were at it, ascending.
        size_bytes: of its files.
        kind: what its tensors are stored as, or why that can't be said.
        used_s: when it was last used, in seconds since 1970.
        checked: whether a manifest has its digests.
    """

    name: str
    commit: str
    revisions: tuple[str, ...]
    size_bytes: int
    kind: str
    used_s: float
    checked: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """One pulled revision, read whole.

    Attributes:
        repo: `owner/name`.
        commit: the revision's hash.
        num_files: how many were read.
        num_bytes: how much was read.
        faults: one line a file that differs.
    """

    repo: str
    commit: str
    num_files: int
    num_bytes: int
    faults: tuple[str, ...]


def list_models(cache: Path) -> list[CachedModel]:
    """Every model in the cache, by name; none where there is no cache."""
    found: list[CachedModel] = []
    for repo in _scan(cache):
        for revision in sorted(repo.revisions, key=lambda revision: revision.commit_hash):
            found += _models(RepoCache(cache, repo.repo_id), repo, revision)
    return sorted(found, key=lambda model: (model.name, model.commit))


def interrupted(cache: Path) -> list[tuple[str, int]]:
    """(`owner/name`, bytes) of pulls that were interrupted and will be continued."""
    sizes: Counter[str] = Counter()
    for part in cache.glob("models--*--*/blobs/*.incomplete"):
        with contextlib.suppress(OSError):
            sizes[part.parents[1].name.removeprefix("models--").replace("--", "/")] += part.stat().st_size
    return sorted(sizes.items())


def verify(
    cache: Path, reference: Reference | None, revision: str | None, report: Callable[[str], None]
) -> list[Verified]:
    """Reads every pulled file whole and compares digests; what was merely copied gets its new time into the manifest.

    Args:
        cache: the cache folder.
        reference: which model; None is every one.
        revision: of the reference; None is every one.
        report: takes a path that is being read.

    Raises:
        ModelFileError: nothing of that name was pulled.
    """
    repos = [reference.repo] if reference else _pulled_repos(cache)
    found = []
    for repo in repos:
        place = RepoCache(cache, repo)
        commits = place.commits() if revision is None else (place.commit_of(revision),)
        for commit in commits:
            if commit is None or not place.manifest(commit).is_file():
                continue
            manifest = read_manifest(place.manifest(commit), repo, commit)
            paths = selected(manifest, reference) if reference and reference.selector else tuple(manifest.files)
            if paths:
                found.append(_verify(place, manifest, paths, report))
    if reference and not found:
        raise ModelFileError(f"{reference}: not pulled here.", hint=f"penstock pull {reference}.")
    return found


def remove(cache: Path, reference: Reference, revision: str | None = None) -> int:
    """Removes a model from the cache and returns the bytes that this freed; what another revision uses stays.

    Args:
        cache: the cache folder.
        reference: `owner/name` is everything of the repository, `:TYPE` or `/file.gguf` those files alone.
        revision: only this branch, tag or commit; None is every one.

    Raises:
        ModelFileError: it is not in the cache.
        PenstockError: the cache cannot be written.
    """
    place = RepoCache(cache, reference.repo)
    with _writing(place.folder):
        before = _disk_bytes(place.folder)
        repo = next((repo for repo in _scan(cache) if repo.repo_id == reference.repo), None)
        if repo is None and (not place.folder.is_dir() or reference.selector or revision):
            raise _absent(reference, revision)
        if repo is None:  # a pull that never finished, or a folder that the client cannot read
            shutil.rmtree(place.folder)
        else:
            _remove(place, repo, reference, revision)
        return before - _disk_bytes(place.folder)


def _remove(place: RepoCache, repo: CachedRepoInfo, reference: Reference, revision: str | None) -> None:
    commit = place.commit_of(revision)
    chosen = [each for each in repo.revisions if revision is None or each.commit_hash == commit]
    info = _info(place.cache)
    if not chosen or info is None:
        raise _absent(reference, revision)
    if not reference.selector:
        _execute(place, info.delete_revisions(*(each.commit_hash for each in chosen)))
        for each in chosen:
            place.manifest(each.commit_hash).unlink(missing_ok=True)
        _check_gone(each.snapshot_path for each in chosen)
        return
    paths = {each: _selected(each, reference) for each in chosen}
    if not any(paths.values()):
        raise _absent(reference, revision)
    files = [file for each in chosen for file in each.files if _path(each, file.file_path) in paths[each]]
    _execute(place, info.delete_files(*files))
    _check_gone(file.file_path for file in files)
    for each in chosen:
        _forget(place, each.commit_hash, paths[each])
        left = [path for path in each.snapshot_path.rglob("*") if not path.is_dir()]
        if not left and (again := _info(place.cache)) is not None:
            _execute(place, again.delete_revisions(each.commit_hash))


def _execute(place: RepoCache, strategy: DeleteCacheStrategy) -> None:
    """Removes what the client found, unless a link of the cache leads out of it: the client would remove its target."""
    inside = place.folder.resolve()
    for blob in strategy.blobs:
        if inside not in Path(os.path.abspath(blob)).parents:
            raise PenstockError(f"{blob}: a link of the cache leads there.", hint=f"remove the link in {place.folder}.")
    strategy.execute()


def _check_gone(paths: Iterable[Path]) -> None:
    """Passes when the client removed them: it only logs what it could not."""
    for path in paths:
        if path.is_symlink() or path.exists():
            raise PenstockError(f"{path}: could not be removed.", hint="the cache may be read-only or another user's.")


def _selected(revision: CachedRevisionInfo, reference: Reference) -> set[str]:
    """Paths of the files that a reference with a type or a file stands for; empty where it has none."""
    try:
        return set(choose(_paths(revision), reference))
    except ModelFileError:
        return set()


def _forget(place: RepoCache, commit: str, paths: set[str]) -> None:
    path = place.manifest(commit)
    if not path.is_file() or not paths:
        return
    manifest = read_manifest(path, place.repo, commit)
    for selector, named in manifest.selections.items():
        if paths.intersection(named):
            manifest = manifest.without(selector)
    write_manifest(path, manifest)


def _absent(reference: Reference, revision: str | None) -> ModelFileError:
    at = f" at {revision}" if revision else ""
    return ModelFileError(f"{reference}{at}: not in the cache.", hint="penstock list shows what is.")


def _verify(place: RepoCache, manifest: Manifest, paths: tuple[str, ...], report: Callable[[str], None]) -> Verified:
    records = {path: manifest.files[path] for path in paths}
    faults = []
    renewed = {}
    for path, record in records.items():
        at = place.snapshot(manifest.commit) / path
        report(str(at))
        if fault := differs(at, record):
            faults.append(f"{at}: {fault}")
        elif at.stat().st_mtime_ns != record.time_ns:
            renewed[path] = replace(record, time_ns=at.stat().st_mtime_ns)
    if renewed:
        with contextlib.suppress(OSError):  # a cache that is only read
            write_manifest(place.manifest(manifest.commit), replace(manifest, files={**manifest.files, **renewed}))
    total = sum(record.size for record in records.values())
    return Verified(place.repo, manifest.commit, len(records), total, tuple(faults))


def _models(place: RepoCache, repo: CachedRepoInfo, revision: CachedRevisionInfo) -> Iterable[CachedModel]:
    paths = _paths(revision)
    sizes = {_path(revision, file.file_path): file.size_on_disk for file in revision.files}
    manifest = place.manifest(revision.commit_hash)
    checked = manifest.is_file()
    used = max(manifest.stat().st_mtime, 0.0) if checked else repo.last_accessed
    common = (revision.commit_hash, tuple(sorted(revision.refs)))
    weights = sorted(path for path in paths if path.endswith(".safetensors"))
    if weights:
        kind = _kind(revision.snapshot_path / weights[0])
        size = sum(count for path, count in sizes.items() if not path.endswith(".gguf"))
        yield CachedModel(repo.repo_id, *common, size, kind, used, checked)
    for label, parts in gguf_kinds(paths).items():
        name = f"{repo.repo_id}/{parts[0]}" if label.endswith(".gguf") else f"{repo.repo_id}:{label}"
        kind = _kind(revision.snapshot_path / parts[0])
        yield CachedModel(name, *common, sum(sizes[part] for part in parts), kind, used, checked)


def _kind(path: Path) -> str:
    """The storage kind of most of a file's bytes, or why it can't be said."""
    try:
        file = read_gguf(path).tensors if path.suffix == ".gguf" else read_safetensors(path)
    except ModelFileError:
        return "unreadable"
    container = "GGUF" if path.suffix == ".gguf" else "safetensors"
    return f"{container} {_storage(file)}".rstrip()


def _storage(file: TensorFile) -> str:
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        sizes[tensor.storage.value] += len(tensor.data)
    if not sizes:
        sizes.update(file.foreign.values())
    return sizes.most_common(1)[0][0] if sizes else ""


def _paths(revision: CachedRevisionInfo) -> list[str]:
    return [_path(revision, file.file_path) for file in revision.files]


def _path(revision: CachedRevisionInfo, file: Path) -> str:
    return file.relative_to(revision.snapshot_path).as_posix()


def _pulled_repos(cache: Path) -> list[str]:
    names = (path.name.removeprefix("models--") for path in cache.glob("models--*--*") if path.is_dir())
    return sorted(name.replace("--", "/") for name in names if re.fullmatch(r"[^/]+--[^/]+", name))


def _scan(cache: Path) -> list[CachedRepoInfo]:
    info = _info(cache)
    return [] if info is None else [repo for repo in info.repos if repo.repo_type == "model"]


def _info(cache: Path) -> HFCacheInfo | None:
    try:
        return scan_cache_dir(cache)
    except CacheNotFound:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a folder"
        raise PenstockError(f"{cache}: {reason}.", hint="HF_HOME names the cache.") from None


def _disk_bytes(folder: Path) -> int:
    """Bytes of the files under a folder, links not followed."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
    return total


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PenstockError(f"{error.filename or folder}: {error.strerror}.", hint="HF_HOME names the cache.") from None
