"""`penstock rm REF`: remove a model from the cache.

Knows nothing about the cache's layout. Invariant: asks nothing, and says what was freed.
"""

from __future__ import annotations

from penstock.cli import options
from penstock.cli.pull import Name


def rm(model: Name, revision: options.Revision = None) -> None:
    """Remove a model from the cache; what another revision uses stays."""
    from penstock.kv import human_bytes
    from penstock.model import cache_folder
    from penstock.model.cached import remove
    from penstock.model.hub import check_revision, hub_reference

    reference = hub_reference(model)
    check_revision(reference, revision)
    freed = remove(cache_folder(), reference, revision)
    print(f"{reference}: removed, {human_bytes(freed)} freed")
