"""The one place where the errors of lower layers become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

import storage
from sessions import errors
from sessions.core.transcript import Malformed


class _StorageErrors:
    """A scope without a state of its own: one serves all."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, storage.StorageError):
            raise _ours(error) from error


_STORAGE_ERRORS = _StorageErrors()


def storage_errors() -> AbstractContextManager[None]:
    """Whatever the store raises comes out as one of `sessions.errors`, with the store's own error as its cause."""
    return _STORAGE_ERRORS


def _ours(error: storage.StorageError) -> errors.SessionsError:
    match error:
        case storage.SessionMissing():
            return errors.SessionNotFound(str(error))
        case storage.LeaseTaken():
            holder = f"{error.holder.host.partition('/')[0]}, process {error.holder.pid}"
            return errors.SessionBusy(f"the session is held by {holder}: try again later", holder=holder)
        # Both say the same to a turn: the session has gone on without it.
        case storage.LeaseGone() | storage.HeadMoved():
            return errors.LeaseLost(f"{error} Open the session again and call resume().")
        case storage.EntryMissing() | storage.DecisionTaken() | storage.TurnMissing():
            return errors.Conflict(str(error))
        case storage.SchemaTooOld() | storage.SchemaTooNew():
            return errors.SchemaOutOfDate(str(error))
        case storage.ServerAway():  # nobody's setting is wrong: the same call works when the server is back
            return errors.SessionsError(str(error))
        case storage.StoreNotOpen():
            return errors.ConfigurationError(
                "this manager is not open: use it and its sessions inside `async with SessionManager(...) as manager:`"
            )
    return errors.ConfigurationError(str(error))


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """What the store holds is decoded inside: text that is not what was written is named, not quoted."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise errors.ConfigurationError(
            f"what is stored of {what} cannot be read: restore a copy of the store"
        ) from error


@contextmanager
def caller_errors(kind: type[errors.SessionsError] = errors.ConfigurationError) -> Iterator[None]:
    """What the caller gave is checked inside: `Malformed` comes out as this error."""
    try:
        yield
    except Malformed as error:
        raise kind(str(error)) from error
