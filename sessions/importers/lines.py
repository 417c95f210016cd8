"""From a file to JSON values: gzip by content, one Problem for each line that cannot be read, never a traceback."""

from __future__ import annotations

import io
import json
import math
import re
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from sessions.core.transcript import is_too_deep
from sessions.errors import InvalidImport
from sessions.importers.records import Problem

MAX_BYTES = 128 << 20
"""The largest file taken, unpacked, unless the caller allows more: a gzip file of a few kB can unpack to terabytes."""
BYTES_PER_VALUE = 16
"""A file of `MAX_BYTES` may hold one JSON value for this many of them: `[],` is 3 bytes, and 64 in memory."""

RAISE = "raise max_bytes (--max-mib) if you trust it"

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CHUNK = 1 << 20


class Unreadable(ValueError):
    """A line, or a part of it, cannot be taken; the message says why in a few words."""


def load(path: str | PathLike[str], max_bytes: int = MAX_BYTES) -> tuple[bytes, list[Problem]]:
    """The bytes of a file, unpacked where it is gzip. A gzip file that ends early gives what it held, and a Problem.

    No more than `max_bytes` are read or unpacked, and no more values taken than `BYTES_PER_VALUE` allows.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidImport(f"{path}: cannot be read ({reason}). Check the path and its permissions.") from error
    whole = True
    try:
        if len(data) > max_bytes:
            raise Unreadable(f"is larger than {_size(max_bytes)}: {RAISE}")
        if data.startswith(b"\x1f\x8b"):
            data, whole = _unpack(data, max_bytes)
        if sum(data.count(sign) for sign in (b",", b"[", b"{")) > max_bytes // BYTES_PER_VALUE:
            values = f"{max_bytes // BYTES_PER_VALUE:,} values"
            raise Unreadable(f"holds more than {values}: {RAISE}")
    except Unreadable as error:
        raise InvalidImport(f"{path}: {error}.") from error
    cut = [] if whole else [Problem(data.count(b"\n") + 1, "the gzip data ends early or is damaged from here on")]
    return data.removeprefix(b"\xef\xbb\xbf"), cut


def parse(raw: bytes) -> Any:
    """One JSON value, strictly: no NaN, no infinite number, not too deep, every string encodable.

    Half a surrogate pair (a text that was cut in the middle of an emoji) becomes U+FFFD: no request could carry it.

    Raises:
        Unreadable: with the reason.
    """
    try:
        text = raw.decode()
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 (byte {error.start + 1})") from error
    except json.JSONDecodeError as error:
        raise Unreadable(f"is not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"is not JSON ({error})") from error
    if is_too_deep(value):
        raise Unreadable("is nested too deeply")
    return _mended(value) if _SURROGATE.search(text) else value


def parsed(data: bytes, problems: list[Problem]) -> Iterator[tuple[int, Any]]:
    """Line number and value of every line that can be read; the others go to `problems`. Empty lines are nothing."""
    for number, raw in enumerate(io.BytesIO(data), 1):  # a line at a time: no second copy of the whole
        if not raw.strip():
            continue
        try:
            yield number, parse(raw)
        except Unreadable as error:
            problems.append(Problem(number, str(error)))


def _unpack(data: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """What a gzip file holds (one member after the other), and whether it was whole."""
    out: list[bytes] = []
    size = 0
    while data.startswith(b"\x1f\x8b"):
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            try:
                piece = member.decompress(data, _CHUNK)
            except zlib.error:
                return b"".join(out), False
            data = member.unconsumed_tail
            size += len(piece)
            if size > max_bytes:
                raise Unreadable(f"unpacks to more than {_size(max_bytes)}: {RAISE}")
            out.append(piece)
            if not piece and not data and not member.eof:
                return b"".join(out), False
        data = member.unused_data
    return b"".join(out), not data.strip(b"\0")


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value
    if isinstance(value, list):
        return [_mended(inner) for inner in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(inner) for key, inner in value.items()}
    return value
