"""Models by hub id, through the hub's own client: progress, resumed downloads, the shared cache, offline when cached.

Knows nothing about file contents. Invariant: only weights without code, JSON, templates and tokenizer models are
fetched; every failure is one line. Imported by `assemble` alone: the client costs more to import than a model to open.
"""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from penstock.core import ModelFileError

_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model")
_IGNORED = ("*/*", "adapter_*", "consolidated*")  # adapters and second copies of the weights
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_ID = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:/(?P<file>(?:{_PART}/){{0,4}}{_PART}\.gguf))?", re.ASCII)
_SHARD = re.compile(r"(?P<stem>.+)-00001-of-(?P<count>\d{5})\.gguf", re.ASCII)


def resolve_model(name: str | Path, revision: str | None = None) -> Path:
    """The local path of a model: a folder or `.gguf` file as it is, else fetched by hub id.

    Args:
        name: a path, `owner/name`, or `owner/name/file.gguf`.
        revision: branch, tag or commit of a hub id.

    Raises:
        ModelFileError: neither a path nor to be had from the hub.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    match = _ID.fullmatch(str(name))
    if match is None:
        raise ModelFileError(
            f"{name}: no such file or folder, and no hub id.", hint="a hub id is owner/name or owner/name/file.gguf."
        )
    try:
        return _fetch(match["repo"], match["file"], revision)
    except (HfHubHTTPError, HFValidationError, OSError, httpx.HTTPError) as error:
        raise _explained(str(name), revision, error) from None


def _fetch(repo: str, file: str | None, revision: str | None) -> Path:
    if file is None:
        found = snapshot_download(repo, revision=revision, allow_patterns=[*_PATTERNS], ignore_patterns=[*_IGNORED])
        return Path(found)
    first = Path(hf_hub_download(repo, file, revision=revision))
    if match := _SHARD.fullmatch(file):
        for number in range(2, int(match["count"]) + 1):
            hf_hub_download(repo, f"{match['stem']}-{number:05d}-of-{match['count']}.gguf", revision=revision)
    return first


def _explained(name: str, revision: str | None, error: Exception) -> ModelFileError:
    """The failure as one line; the client's own message may span several and hold addresses."""
    if isinstance(error, GatedRepoError):
        return ModelFileError(
            f"{name}: access is gated.", hint="accept its terms on the hub and set HF_TOKEN to a token of that account."
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelFileError(f"{name}: no revision {revision!r} on the hub.")
    if isinstance(error, RepositoryNotFoundError):
        return ModelFileError(
            f"{name}: not on disk and not on the hub.", hint="check the name; a private model needs HF_TOKEN."
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return ModelFileError(f"{name}: the model is on the hub, this file is not.")
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", "unknown")
        if status in (401, 403):
            return ModelFileError(f"{name}: the hub refused access ({status}).", hint="check HF_TOKEN.")
        return ModelFileError(f"{name}: the hub answered with status {status}.", hint="try again later.")
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError, ConnectionError)):
        return ModelFileError(
            f"{name}: not on disk, not in the cache, and the hub cannot be reached.",
            hint="check the network or HF_HUB_OFFLINE, or name a local folder.",
        )
    return ModelFileError(f"{name}: the download failed: {(str(error) or type(error).__name__).splitlines()[0][:200]}")
