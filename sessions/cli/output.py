"""The files that commands write: beside their place first, then renamed; nothing that exists is overwritten unasked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sessions.errors import ConfigurationError
from storage import StoreUnavailable
from storage.urls import parse

ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]


@contextmanager
def writing(path: Path, *, force: bool, never: Sequence[Path] = ()) -> Iterator[Path]:
    """Yields an empty file in the folder of `path`, which takes its place at the end; after an error nothing is left.

    Only its owner may read the new file. Raises `ConfigurationError` where `path` exists and `force` is not given,
    where it is one of `never` (see `files_of`) or no ordinary file, and where it cannot be written.
    """
    try:
        place = path.resolve()  # a link stays a link
        _check(path, place, force, never)
        with _beside(place) as draft:
            yield draft
            _synchronize(draft)
            _check(path, place, force, never)  # writing may have taken a while
            draft.replace(place)
        _synchronize(place.parent)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path} ({error.strerror or error}): choose another file") from error


def check(path: Path, *, force: bool, never: Sequence[Path] = ()) -> None:
    """Raises what `writing` would raise now, and leaves nothing: for what costs time or money before it is written."""
    try:
        place = path.resolve()
        _check(path, place, force, never)
        with _beside(place):
            pass
    except OSError as error:
        raise ConfigurationError(f"cannot write {path} ({error.strerror or error}): choose another file") from error


def files_of(store: str) -> list[Path]:
    """The files of an SQLite store, there or not; none of a store that is no file."""
    try:
        url = parse(store)
    except StoreUnavailable:
        return []
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
        return []
    return [Path(f"{url.database}{end}") for end in ("", "-wal", "-shm", "-journal")]


def _check(path: Path, place: Path, force: bool, never: Sequence[Path]) -> None:
    if any(_is_same(place, other) for other in never):
        raise ConfigurationError(f"{path} belongs to the store itself: choose another file")
    if not os.path.lexists(place):
        return
    if not place.is_file():
        raise ConfigurationError(f"{path} is no ordinary file: choose another one")
    if not force:
        raise ConfigurationError(f"{path} exists: choose another file, or replace it with --force")


def _is_same(place: Path, other: Path) -> bool:
    return place == other.resolve() or (place.exists() and other.exists() and place.samefile(other))


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    number, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:100]}.")
    os.close(number)
    draft = Path(name)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _synchronize(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
