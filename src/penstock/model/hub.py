"""Models by hub id, through the hub's own client: resumed downloads, the shared cache, a manifest of digests.

Knows nothing about file contents. Invariant: only weights without code, JSON, templates and tokenizer models are
fetched, every one checked against the hub's digest; every failure is one line. `repo_cache` finds what was pulled
without the client, which costs more to import than a model to open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_session, hf_hub_url
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]  # public, not typed so

from penstock.core import ModelFileError, PenstockError, limits
from penstock.model.hub_errors import Refused, explained
from penstock.model.manifest import FileRecord, Manifest, read_manifest, record_of, write_manifest, write_whole
from penstock.model.reference import Reference, choose, is_plain, parse_reference
from penstock.model.repo_cache import RepoCache, is_commit, is_revision, pulled_path
from penstock.model.transfer import RemoteFile, Transfer

_HEX = frozenset("0123456789abcdef")
_SPARE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit: the files that it has, odd names left out."""

    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought.

    Attributes:
        path: the folder or the (first) GGUF file.
        commit: the revision that the branch or tag was at.
        files: path → record.
        fetched_bytes: how much was not on disk before.
    """

    path: Path
    commit: str
    files: dict[str, FileRecord]
    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told how a pull goes.

    Attributes:
        begin: called once with the files and what is on disk of each, before bytes move.
        report: called with (path, bytes on disk so far).
        wait: sleeps for seconds.
    """

    begin: Callable[[tuple[RemoteFile, ...]], None] = lambda files: None
    report: Callable[[str, int], None] = lambda path, count: None
    wait: Callable[[float], object] = threading.Event().wait


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub and the cache that it is pulled into.

    Attributes:
        endpoint: address; None takes the client's own (HF_ENDPOINT).
        token: of an account; None takes the client's own (HF_TOKEN, or a login).
        cache: the cache folder.
    """

    endpoint: str | None = None
    token: str | None = None
    cache: Path = Path(constants.HF_HUB_CACHE)

    def pull(self, reference: Reference, revision: str | None = None, watcher: Watcher | None = None) -> Pulled:
        """Fetches what is missing of what the reference stands for, checks every file, and writes the manifest.

        Args:
            reference: what to pull.
            revision: branch, tag or commit; None is main. The commit that it has now is kept.
            watcher: who is told how it goes.

        Raises:
            ModelFileError: it cannot be had, or is not what the hub promised.
            PenstockError: the disk is full or cannot be written.
        """
        watcher = watcher or Watcher()
        check_revision(reference, revision)
        place = RepoCache(self.cache, reference.repo)
        with explained(Refused(str(reference), revision, self.token, place.folder.is_dir())):
            listing = self.listing(reference.repo, revision)
            chosen = choose((file.path for file in listing.files), reference)
            by_path = {file.path: file for file in listing.files}
            wanted = tuple(by_path[path] for path in chosen)
            with _disk(place.folder):
                needed = _missing_bytes(place, wanted)
                _check_room(place.folder, needed)
                watcher.begin(wanted)
                files = self._fetch(place, listing.commit, wanted, watcher)
                with WeakFileLock(self._lock(place, "manifest")):
                    manifest = _manifest(place, listing.commit).with_selection(reference.selector, files)
                    write_manifest(place.manifest(listing.commit), manifest)
                if revision is None or not is_commit(revision):
                    write_whole(place.folder / "refs" / (revision or "main"), listing.commit.encode())
        first = place.snapshot(listing.commit) / chosen[0]
        path = first if first.suffix == ".gguf" else place.snapshot(listing.commit)
        return Pulled(path, listing.commit, files, needed)

    def listing(self, repo: str, revision: str | None) -> Listing:
        """The commit of a revision, and the files of it that have plain names and digests.

        Raises:
            ModelFileError: the answer makes no sense, or there are too many files.
            HfHubHTTPError: the hub refuses.
        """
        api = HfApi(endpoint=self.endpoint, token=self.token)
        commit = api.model_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha
        if not is_commit(commit):
            raise ModelFileError(f"{repo}: the hub names no commit of it.")
        files = []
        for number, entry in enumerate(api.list_repo_tree(repo, recursive=True, revision=commit)):
            if number >= limits.MAX_HUB_FILES:
                raise ModelFileError(f"{repo}: over {limits.MAX_HUB_FILES} files; at most that many are looked at.")
            if isinstance(entry, RepoFile) and (file := _remote_file(entry)) is not None:
                files.append(file)
        return Listing(str(commit), tuple(files))

    def _fetch(
        self, place: RepoCache, commit: str, wanted: tuple[RemoteFile, ...], watcher: Watcher
    ) -> dict[str, FileRecord]:
        """Path → record, every file fetched, checked and linked into the commit's folder."""
        transfer = Transfer(self._getter(place.repo, commit), watcher.report, watcher.wait)
        found: dict[str, FileRecord] = {}
        for file in wanted:
            blob = place.folder / "blobs" / file.digest
            sha256 = transfer.fetch(file, blob, self._lock(place, file.digest))
            _link(blob, place.snapshot(commit) / file.path)
            found[file.path] = record_of(blob, sha256)
        return found

    def _lock(self, place: RepoCache, name: str) -> Path:
        """The file that the hub's client too locks while it fetches."""
        path = self.cache / ".locks" / place.folder.name / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _getter(self, repo: str, commit: str) -> Callable[[RemoteFile, int, int], AbstractContextManager[Any]]:
        @contextlib.contextmanager
        def get(file: RemoteFile, first: int, end: int) -> Iterator[Any]:
            url = hf_hub_url(repo, file.path, revision=commit, endpoint=self.endpoint)
            headers = {**build_hf_headers(token=self.token, library_name="penstock"), "Accept-Encoding": "identity"}
            if (first, end) != (0, file.size):
                headers["Range"] = f"bytes={first}-{end - 1}"
            limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
            # following redirects, the client takes its token to no other host
            with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=limit) as response:
                yield response

        return get


def resolve_model(
    name: str | Path,
    revision: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    hub: Hub | None = None,
    watcher: Watcher | None = None,
) -> Path:
    """The local path of a model: a folder or `.gguf` file as it is; what was pulled, unchanged; else pulled now.

    Args:
        name: a path, `owner/name`, `owner/name:TYPE` or `owner/name/file.gguf`.
        revision: branch, tag or commit of a hub id.
        say: takes lines for people.
        hub: where to pull from; None is the client's own.
        watcher: who is told how a pull goes; None has `say` told that it begins.

    Raises:
        ModelFileError: neither a path nor to be had from the hub, or changed since it was pulled.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    reference = hub_reference(str(name))
    check_revision(reference, revision)
    hub = hub or Hub()
    place = RepoCache(hub.cache, reference.repo)
    commit = place.commit_of(revision)
    if commit is not None and (found := pulled_path(place, commit, reference, say)) is not None:
        return found

    def begin(files: tuple[RemoteFile, ...]) -> None:
        say(f"pulling {reference}: {len(files)} files, {sum(file.size for file in files):,} bytes")

    try:
        return hub.pull(reference, revision, watcher or Watcher(begin=begin)).path
    except ModelFileError as error:
        unchecked = _unchecked(place, commit, reference) if isinstance(error.__cause__, ConnectionError) else None
        if unchecked is None:
            raise
        say(f"{reference}: in the cache without a manifest, and the hub cannot be reached: its files are unchecked.")
        return unchecked


def hub_reference(name: str) -> Reference:
    """The hub id that a name spells.

    Raises:
        ModelFileError: it spells none.
    """
    reference = parse_reference(name)
    if reference is None:
        raise ModelFileError(
            f"{name}: no such file or folder, and no hub id.",
            hint="a hub id is owner/name, owner/name:Q4_K_M or owner/name/file.gguf.",
        )
    return reference


def check_revision(reference: Reference, revision: str | None) -> None:
    """Passes a revision that can be a branch, a tag or a commit.

    Raises:
        ModelFileError: it can be none of them.
    """
    if revision is not None and not is_revision(revision):
        raise ModelFileError(f"{reference}: no revision {revision[:80]!r}: no branch, tag or commit is named so.")


def _remote_file(entry: RepoFile) -> RemoteFile | None:
    """A listed file, or None where its name, size or digest is nothing that we would fetch."""
    digest = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
    sound = (
        isinstance(entry.path, str)
        and is_plain(entry.path)
        and isinstance(digest, str)
        and len(digest) in (40, 64)
        and _HEX.issuperset(digest)
        and isinstance(entry.size, int)
        and 0 <= entry.size <= limits.MAX_HUB_FILE_BYTES
    )
    return RemoteFile(entry.path, entry.size, digest) if sound else None


def _manifest(place: RepoCache, commit: str) -> Manifest:
    try:
        return read_manifest(place.manifest(commit), place.repo, commit)
    except ModelFileError:  # broken: what is pulled now is checked now
        return Manifest(place.repo, commit, {})


def _missing_bytes(place: RepoCache, wanted: tuple[RemoteFile, ...]) -> int:
    """Bytes that are still to be fetched."""
    total = 0
    for file in {file.digest: file for file in wanted}.values():
        blob = place.folder / "blobs" / file.digest
        part = blob.with_name(f"{blob.name}.incomplete")
        if not blob.is_file():
            total += max(0, file.size - (part.stat().st_size if part.is_file() else 0))
    return total


def _check_room(folder: Path, needed: int) -> None:
    at = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(at).free
    if needed and needed + _SPARE_BYTES > free:
        raise PenstockError(
            f"{folder}: {needed:,} bytes are to be fetched, {free:,} are free.",
            hint="penstock list and penstock rm make room; HF_HOME names another place.",
        )


def _link(blob: Path, path: Path) -> None:
    """Makes `path` lead to the blob, whatever it was before; a copy where there are no links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(blob, path.parent)
    if path.is_symlink() and os.readlink(path) == target:
        return
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(target)
    except (OSError, NotImplementedError):
        shutil.copy2(blob, path)


def _unchecked(place: RepoCache, commit: str | None, reference: Reference) -> Path | None:
    """What another program left in the cache, when the hub cannot be asked."""
    folder = place.snapshot(commit) if commit else None
    if folder is None or not folder.is_dir():
        return None
    there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    try:
        first = folder / choose(there, reference)[0]
    except ModelFileError:
        return None
    return first if first.suffix == ".gguf" else folder


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Says in one line that the cache cannot be written."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "what arrived is kept: make room and pull again, or HF_HOME names another place."
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            hint = "HF_HOME names another place."
        else:
            raise
        raise PenstockError(f"{error.filename or folder}: {error.strerror}.", hint=hint) from None
