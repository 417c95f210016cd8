"""A request body as JSON bytes, in which a message that was sent before is not encoded again.

The text is what the SDK itself would send: keys in their own order, nothing escaped but what JSON demands (SDK 2.11).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Message(dict[str, Any]):
    """A message of a prompt, never changed once made: every later request sends it again, so its text is kept."""

    __slots__ = ("_encoded",)
    _encoded: bytes

    @property
    def encoded(self) -> bytes:
        """Its JSON text in UTF-8."""
        try:
            return self._encoded
        except AttributeError:
            self._encoded = _encode(self)
            return self._encoded


def encode_body(body: Mapping[str, Any]) -> bytes:
    """The JSON of a request body; costs what is new, and one copy. Raises `TypeError` or `ValueError` for no JSON."""
    pieces = [one.encoded if isinstance(one, Message) else _encode(one) for one in body["messages"]]
    rest = _encode({name: value for name, value in body.items() if name != "messages"})
    opening = rest[:-1] + (b"," if len(rest) > 2 else b"") + b'"messages":['
    if not pieces:
        return opening + b"]}"
    pieces[0] = opening + pieces[0]
    pieces[-1] += b"]}"
    return b",".join(pieces)


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
