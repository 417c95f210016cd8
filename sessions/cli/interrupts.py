"""Ctrl-C before a command begins and after it has ended: the process ends at once and says nothing. SIGTERM while it
runs, where what it has done so far is worth keeping: as Ctrl-C."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """While modules load: within, SIGINT ends the process as the system does. No work may be under way.

    A `KeyboardInterrupt` will not do: raised in a callback of the import system it is printed and forgotten, and some
    libraries take it for a module that is missing. Whoever has set a handler, or ignores the signal, keeps that.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:  # only the main thread may set it, and only the main thread is interrupted
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within, SIGTERM is what Ctrl-C is: what was done so far can be kept."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def quiet_at_exit() -> None:
    """The same from the moment that the interpreter begins to shut down."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
