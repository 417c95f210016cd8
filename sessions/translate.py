"""The one place where the errors of lower layers become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import storage
from sessions import errors
from sessions.core.transcript import Malformed


@contextmanager
def storage_errors() -> Iterator[None]:
    """Whatever the store raises comes out as one of `sessions.errors`, with the store's own error as its cause."""
    try:
        yield
    except storage.SessionMissing as error:
        raise errors.SessionNotFound(str(error)) from error
    except storage.LeaseTaken as error:
        holder = f"{error.holder.host.partition('/')[0]}, process {error.holder.pid}"
        raise errors.SessionBusy(f"the session is held by {holder}: try again later", holder=holder) from error
    except (storage.LeaseGone, storage.HeadMoved) as error:
        raise errors.LeaseLost(f"{error} Open the session again and call resume().") from error
    except storage.EntryMissing as error:
        raise errors.Conflict(str(error)) from error
    except (storage.SchemaTooOld, storage.SchemaTooNew) as error:
        raise errors.SchemaOutOfDate(str(error)) from error
    except storage.ServerAway as error:  # nobody's setting is wrong: the same call works when the server is back
        raise errors.SessionsError(str(error)) from error
    except storage.StoreNotOpen as error:
        raise errors.ConfigurationError(
            "this manager is not open: use it and its sessions inside `async with SessionManager(...) as manager:`"
        ) from error
    except storage.StorageError as error:
        raise errors.ConfigurationError(str(error)) from error


@contextmanager
def given(kind: type[errors.SessionsError] = errors.ConfigurationError) -> Iterator[None]:
    """What the caller gave is checked inside: `Malformed` comes out as this error."""
    try:
        yield
    except Malformed as error:
        raise kind(str(error)) from error
