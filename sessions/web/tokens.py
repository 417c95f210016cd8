"""Bearer tokens and their owners in a file: a line each, with the token's hash, never the token.

A token has 256 bits of chance, so that one round of SHA-256 is enough: there is no list of likely ones to be tried, as
there is of passwords. For the same reason it is looked up in a plain dict: how long that takes could tell something
about the digest of what was sent, which nobody can choose so that it comes near a digest of the file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from starlette.requests import Request

from sessions import ConfigurationError

log = logging.getLogger("sessions")

PREFIX = "wl_"
"""What tokens begin with: whoever finds one lying about, a scanner of secrets too, sees what it is."""
LOOK = 1.0
"""Seconds after which the file is looked at again."""
_LONGEST = 512
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OWNER = re.compile(r"[^\s#]\S{0,199}")
_HEADER = (
    "# warmline tokens: SHA-256 of the token, its owner, the day it was made. `warmline token` adds and revokes.\n"
)
_State = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Token:
    """A line of the file. `digest`: SHA-256 of the token, in hexadecimal digits."""

    digest: str
    owner: str
    made: date


class TokenFile:
    """An `authenticate` for `chat_app`: who sends `Authorization: Bearer TOKEN` is the owner that the file names.

    The file is read again when it has changed, which is looked for once a second: a new token works and a revoked one
    ends without a restart. A file that has become wrong, or is gone, lets nobody in, and the log says what is wrong.
    Raises `ConfigurationError` where it is so at the beginning, with the number of the line.
    """

    def __init__(self, path: str | os.PathLike[str], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path, self._monotonic = Path(path), monotonic
        self._looked, self._state = monotonic(), _state(self._path)
        self._owners = {token.digest: token.owner for token in read(self._path)}

    def __call__(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or len(token) > _LONGEST:
            return None
        self._look()
        return self._owners.get(digest_of(token.strip()))

    def _look(self) -> None:
        now = self._monotonic()
        if now < self._looked + LOOK:
            return
        self._looked = now
        state = _state(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._owners = {token.digest: token.owner for token in read(self._path)}
        except ConfigurationError as error:
            self._owners = {}
            log.error("nobody is let in until the token file is right again: %s", error)


def digest_of(token: str) -> str:
    """What the file holds of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def read(path: Path) -> list[Token]:
    """The tokens of a file. Raises `ConfigurationError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no token file {path}: make one with `warmline token new OWNER --file {path}`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the token file {path} cannot be read: {error}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [_token(path, number, line) for number, line in lines if line and not line.startswith("#")]


def add(path: Path, owner: str) -> str:
    """A new token of that owner, which is told here only. Raises `ConfigurationError`."""
    if not _OWNER.fullmatch(owner):
        raise ConfigurationError("an owner must be 1 to 200 characters without spaces, and must not begin with #")
    start = _HEADER
    if path.exists():
        read(path)  # what is wrong with it is said before a line is added
        start = "" if path.read_bytes().endswith(b"\n") else "\n"
    token = PREFIX + secrets.token_urlsafe(32)
    line = _line(Token(digest_of(token), owner, datetime.now(UTC).date()))
    _append(path, f"{start}{line}\n")
    return token


def revoke(path: Path, named: str) -> list[Token]:
    """Takes out the tokens of that owner, or the one whose digest begins so, and gives them.

    Raises `ConfigurationError` where there is none, and where a beginning fits several.
    """
    tokens = read(path)
    gone = [token for token in tokens if token.owner == named]
    if not gone:
        gone = [token for token in tokens if len(named) >= 4 and token.digest.startswith(named)]
        if len(gone) > 1:
            raise ConfigurationError(f"several tokens begin with {named}: give more of it")
    if not gone:
        raise ConfigurationError(f"the token file {path} has no token of {named!r:.80}: see `warmline token list`")
    digests = {token.digest for token in gone}
    lines = path.read_text(encoding="utf-8").splitlines()
    _replace(path, "".join(f"{line}\n" for line in lines if line.strip().partition(" ")[0] not in digests))
    return gone


def _token(path: Path, number: int, line: str) -> Token:
    fields = line.split()
    if len(fields) != 3 or not _DIGEST.fullmatch(fields[0]) or not _OWNER.fullmatch(fields[1]):
        raise ConfigurationError(
            f"line {number} of the token file {path} is wrong: it must have the SHA-256 of a token (64 digits), "
            "its owner and a date"
        )
    try:
        made = date.fromisoformat(fields[2])
    except ValueError:
        raise ConfigurationError(
            f"line {number} of the token file {path} is wrong: its date must be YYYY-MM-DD"
        ) from None
    return Token(fields[0], fields[1], made)


def _line(token: Token) -> str:
    return f"{token.digest} {token.owner} {token.made.isoformat()}"


def _append(path: Path, text: str) -> None:
    """Adds to the file, in one write: two commands at the same time lose nothing."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)
    except OSError as error:
        raise _unwritten(path, error) from None


def _replace(path: Path, text: str) -> None:
    """Puts a whole new file in its place: whoever reads meanwhile sees one or the other."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        beside.touch(mode=0o600)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"the token file {path} cannot be written: {error.strerror or error}")


def _state(path: Path) -> _State | None:
    """What changes when the file does; `None` where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
