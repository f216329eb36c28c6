"""Why the hub did not give what was asked for, in one line each.

Knows nothing about files. Invariant: the client's own messages, which span lines and hold addresses, are never shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from huggingface_hub import get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from penstock.core import ModelFileError
from penstock.model.transfer import TRANSPORT_ERROR, retry_after_s


@dataclass(frozen=True, slots=True)
class Refused:
    """What was asked for, for messages.

    Attributes:
        name: as the user wrote it.
        revision: branch, tag or commit, or None.
        token: the token in use, if it is not the client's own.
        has_cache: something of the repository is in the cache.
    """

    name: str
    revision: str | None = None
    token: str | None = None
    has_cache: bool = False

    @property
    def nowhere(self) -> str:
        """Where it was looked for in vain."""
        return "" if self.has_cache else "not on disk, not in the cache, and "


@contextlib.contextmanager
def explained(asked: Refused) -> Iterator[None]:
    """Turns the client's errors into one line; `__cause__` is a ConnectionError where the hub cannot be reached.

    Raises:
        ModelFileError: in place of anything that the client or the hub's answer made fail.
    """
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ModelFileError(
            f"{asked.name}: {asked.nowhere}HF_HUB_OFFLINE forbids asking the hub.",
            hint="unset HF_HUB_OFFLINE, or name a local folder.",
        ) from ConnectionError(str(error))
    except HfHubHTTPError as error:
        raise _refusal(asked, error) from None
    except TRANSPORT_ERROR as error:
        raise ModelFileError(
            f"{asked.name}: {asked.nowhere}the hub cannot be reached ({_brief(error)}).",
            hint="check the network, or name a local folder; what arrived is kept for the next attempt.",
        ) from ConnectionError(str(error))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{asked.name}: the hub's answer makes no sense ({_brief(error)}).") from None


def _refusal(asked: Refused, error: HfHubHTTPError) -> ModelFileError:
    name, status = asked.name, error.response.status_code
    if isinstance(error, GatedRepoError):
        has_token = asked.token or get_token()
        return ModelFileError(
            f"{name}: access is gated{' and this account has none' if has_token else ''}.",
            hint="accept its terms on the hub"
            + (" with the account of your token." if has_token else " and set HF_TOKEN to a token of that account."),
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelFileError(f"{name}: no revision {asked.revision or 'main'!r} on the hub.")
    if isinstance(error, RepositoryNotFoundError):
        return ModelFileError(
            f"{name}: not on disk and not on the hub.", hint="check the name; a private model needs HF_TOKEN."
        )
    if isinstance(error, EntryNotFoundError):
        return ModelFileError(f"{name}: the hub lists a file that it does not have.")
    if status in (401, 403):
        return ModelFileError(f"{name}: the hub refused access ({status}).", hint="check HF_TOKEN.")
    if status == 429:
        asked_s = retry_after_s(error)
        when = f"again in {asked_s:.0f} s" if asked_s is not None else "later"
        return ModelFileError(
            f"{name}: the hub limits the rate of requests (429).",
            hint=f"pull {when}; with HF_TOKEN the limit is higher.",
        )
    return ModelFileError(f"{name}: the hub answered with status {status}.", hint="try again later.")


def _brief(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:120]
