"""A request body as JSON bytes, in which a message that was sent before is not encoded again.

The text is what the SDK itself would send: fields and keys in its order, nothing escaped but what JSON demands (2.11).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_FIRST, _SECOND = ("max_tokens",), ("model",)
"""What the SDK puts before the messages, and right behind them; all else follows by name (SDK 2.11 to 2.14)."""


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
    """The JSON of a request body; costs what is new, and one copy. Raises `TypeError` or `ValueError` for no JSON.

    Fields stand in the SDK's order, so that a request has the same bytes whichever way it goes.
    """
    pieces = [one.encoded if isinstance(one, Message) else _encode(one) for one in body["messages"]]
    first = [name for name in _FIRST if name in body]
    others = sorted(set(body) - {*_FIRST, "messages", *_SECOND})
    before = _fields(body, first)
    after = _fields(body, [*(name for name in _SECOND if name in body), *others])
    opening = b"{" + before + (b"," if before else b"") + b'"messages":['
    closing = b"]" + (b"," if after else b"") + after + b"}"
    if not pieces:
        return opening + closing
    pieces[0] = opening + pieces[0]
    pieces[-1] += closing
    return b",".join(pieces)


def _fields(body: Mapping[str, Any], names: list[str]) -> bytes:
    return _encode({name: body[name] for name in names})[1:-1]


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
