"""What lies in the hub client's cache, found without the client: a pulled model starts at once, with no network.

Knows nothing about the network. Invariant: a revision or repository that could lead out of the cache leads nowhere.

Cache folder of a repository (the client's layout, and one folder of ours):
    models--owner--name/refs/<revision>                the commit that a branch or tag was at
    models--owner--name/blobs/<digest>                 contents
    models--owner--name/snapshots/<commit>/<path>      links to them
    models--owner--name/penstock/<commit>.json         the manifest
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.core import ModelFileError
from penstock.model.manifest import Manifest, changed, read_manifest
from penstock.model.reference import Reference, gguf_kinds, parse_reference

_FOLDER = "penstock"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}(?:/[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}){0,7}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RepoCache:
    """The cache folder of one repository."""

    cache: Path
    repo: str

    @property
    def folder(self) -> Path:
        """models--owner--name."""
        return self.cache / f"models--{self.repo.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        """Where a commit's files lie."""
        return self.folder / "snapshots" / commit

    def manifest(self, commit: str) -> Path:
        """Where a commit's manifest lies."""
        return self.folder / _FOLDER / f"{commit}.json"

    def commit_of(self, revision: str | None) -> str | None:
        """The commit that a revision (None: main) had when it was last pulled; a commit is itself."""
        if revision is not None and _COMMIT.fullmatch(revision):
            return revision
        name = revision or "main"
        if not _REVISION.fullmatch(name) or ".." in name:
            return None
        try:
            found = (self.folder / "refs" / name).read_text("ascii")[:80].strip()
        except (OSError, ValueError):
            return None
        return found if _COMMIT.fullmatch(found) else None

    def commits(self) -> tuple[str, ...]:
        """Commits with a manifest, ascending."""
        found = (path.stem for path in (self.folder / _FOLDER).glob("*.json"))
        return tuple(sorted(name for name in found if _COMMIT.fullmatch(name)))


def is_commit(text: object) -> bool:
    """Whether it is a whole commit hash."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def is_revision(text: str) -> bool:
    """Whether it can be the name of a branch or tag, or a commit."""
    return _REVISION.fullmatch(text) is not None and ".." not in text


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The hub client's cache folder: HF_HUB_CACHE, else hub in HF_HOME, else huggingface/hub in the user's cache."""
    home = environment.get("HF_HOME") or os.path.join(
        environment.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface"
    )
    named = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    return Path(os.path.expandvars(named or os.path.join(home, "hub"))).expanduser()


def pulled_path(
    place: RepoCache, commit: str, reference: Reference, say: Callable[[str], None] = lambda line: None
) -> Path | None:
    """The local path of what the reference stands for, unchanged since it was pulled; None if it was not pulled.

    Looks at sizes, times and the first bytes alone, so that it is quick whatever the size. A time that differs, all
    else being equal, is said and is no fault: copies of a cache have new times.

    Args:
        place: the repository's cache.
        commit: the revision's hash.
        reference: what is asked for.
        say: takes a line for people.

    Raises:
        ModelFileError: a file is missing, or its size or its first bytes differ from what was pulled.
    """
    if not (
        place.manifest(commit).is_file() and place.snapshot(commit).is_dir()
    ):  # another program may have removed it
        return None
    manifest = read_manifest(place.manifest(commit), place.repo, commit)
    paths = selected(manifest, reference)
    if not paths:
        return None
    for path in paths:
        found = place.snapshot(commit) / path
        if reason := changed(found, manifest.files[path]):
            raise ModelFileError(
                f"{found}: {reason}.",
                hint=f"penstock verify {place.repo} names every changed file, penstock pull {reference} mends them.",
            )
        if found.stat().st_mtime_ns != manifest.files[path].time_ns:
            say(f"{found}: written since it was pulled; penstock verify {place.repo} reads it whole.")
    with contextlib.suppress(OSError):
        os.utime(place.manifest(commit))  # "last used" of `penstock list`
    first = place.snapshot(commit) / paths[0]
    return first if first.suffix == ".gguf" else place.snapshot(commit)


def selected(manifest: Manifest, reference: Reference) -> tuple[str, ...] | None:
    """The pulled files that the reference stands for, whatever name they were pulled by; None if they were not."""
    paths = manifest.selections.get(reference.selector)
    if paths is not None:
        return paths
    # A label in full means the same here as on the hub; part of one may mean another file there.
    file = reference.file or gguf_kinds(manifest.files).get(reference.kind or "", (None,))[0]
    return next((paths for paths in manifest.selections.values() if file in paths), None)


def find_pulled(
    name: str, revision: str | None, say: Callable[[str], None] = lambda line: None, cache: Path | None = None
) -> Path | None:
    """The local path of a hub id that was pulled, unchanged since; None where nothing was, or the name is no hub id.

    Raises:
        ModelFileError: a file of it is missing or changed.
    """
    reference = parse_reference(name)
    if reference is None:
        return None
    place = RepoCache(cache or cache_folder(), reference.repo)
    commit = place.commit_of(revision)
    return None if commit is None else pulled_path(place, commit, reference, say)
