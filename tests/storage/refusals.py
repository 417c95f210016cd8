"""A store that cannot be opened."""

from __future__ import annotations

import pytest

from storage import StoreUnavailable, open_store


async def refused(url: str, kind: type[Exception], words: str) -> None:
    """Opening it raises that error with these words, and leaves it closed."""
    store = open_store(url)
    with pytest.raises(kind, match=words):
        await store.open()
    with pytest.raises(StoreUnavailable, match=r"await open\(\) first"):
        await store.load("s")
    await store.close()
