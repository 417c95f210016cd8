"""Signatures of thinking blocks: a sealed record of who wrote a block, after which conversation, and with which text.

From Fable 5.1 on the API binds a block to the model that wrote it and to everything before it: the system prompt, the
*set* of tools and every earlier message (preserved-thinking page, September 2026). What it lists as
"not an edit" is not hashed: markers, the order of tools and of JSON keys, settings, and the thinking blocks themselves,
whose order is held by `before` (removed from the start or the end: fine; from the middle, or put back: refused).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

THINKING = ("thinking", "redacted_thinking")


@dataclass(frozen=True, slots=True)
class Seal:
    """What a signature says. `text` is empty where the text is not checked (display omitted); `before` names the
    thinking block sent before this one; `tokens` is what the block costs as input, whatever it shows."""

    model: str
    organization: str
    prefix: str
    before: str
    text: str
    tokens: int


def sign(seal: Seal, key: bytes) -> str:
    """The opaque text of a `signature` (or of a redacted block's `data`)."""
    payload = json.dumps(
        [seal.model, seal.organization, seal.prefix, seal.before, seal.text, seal.tokens], separators=(",", ":")
    ).encode()
    return b64encode(_mac(payload, key) + payload).decode()


@lru_cache(maxsize=65_536)
def unseal(signature: str, key: bytes) -> Seal | None:
    """The record in `signature`, or None if it was not signed with `key`."""
    payload = _payload(signature)
    if payload is None or not hmac.compare_digest(payload[0], _mac(payload[1], key)):
        return None
    return Seal(*json.loads(payload[1]))


@lru_cache(maxsize=65_536)
def sealed_tokens(signature: str) -> int:
    """Input tokens that a signed block stands for, 0 if the signature is foreign."""
    payload = _payload(signature)
    try:
        return int(json.loads(payload[1])[5]) if payload else 0
    except (ValueError, LookupError, TypeError):
        return 0


def digest(text: str) -> str:
    """A short digest of a block's text or signature."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=9).hexdigest()


def readable(reader: str, writer: str) -> bool:
    """Whether `reader` may read thinking that `writer` wrote (model pages and release notes, 2026).

    The order among models that the documentation does not mention is an inference: later models read earlier ones.
    """
    if reader == writer:
        return True
    if writer in _PRIVATE:
        return reader in _PRIVATE[writer]
    if reader in ("claude-fable-5-1", "claude-mythos-5-1") and writer in _PRIVATE_TO_51:
        return True
    if ("fable" in writer or "mythos" in writer) and not ("fable" in reader or "mythos" in reader):
        return False
    return _age(writer) <= _age(reader)


_PRIVATE = {
    "claude-fable-5-2": ("claude-mythos-5-2",),
    "claude-mythos-5-2": ("claude-fable-5-2",),
    "claude-sonnet-5-5": (),
}
_PRIVATE_TO_51 = ("claude-fable-5-1", "claude-mythos-5-1", "claude-opus-5-5")


def _age(model: str) -> tuple[int, ...]:
    numbers = [int(part) for part in model.split("-") if part.isdigit() and len(part) < 3]
    return tuple(numbers) or (4,)


class Binding:
    """The rolling digest of a conversation as thinking blocks are bound to it."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._state = b""
        system = body.get("system") or ()
        texts = [system] if isinstance(system, str) else [block.get("text", "") for block in system]
        self._add("system", "".join(texts).encode("utf-8", "surrogatepass"))
        for tool in sorted(canonical(tool) for tool in body.get("tools") or ()):
            self._add("tool", tool)
        self._role = ""
        self.base = self.digest()
        """The digest of system and tools alone."""

    def digest(self) -> str:
        """The digest of everything added so far."""
        return self._state.hex()

    def role(self, role: str) -> None:
        """A message begins; consecutive messages of one role are one."""
        if role != self._role:
            self._role = role
            self._add("role", role.encode())

    def block(self, block: Mapping[str, Any]) -> None:
        """A block follows; thinking is not part of the digest."""
        kind = block.get("type")
        if kind == "text" and not block.get("citations"):
            self.text(block["text"])
        elif kind == "compaction" and block.get("signature"):
            self._summarised(block)
        elif kind not in THINKING:
            self._add("block", canonical(block))

    def _summarised(self, block: Mapping[str, Any]) -> None:
        """A signed summary stands for the messages it was made of, if system and tools are still the same."""
        payload = _payload(block["signature"])
        record = Seal(*json.loads(payload[1])) if payload else None
        if record is not None and record.before == self.base:
            self._state = bytes.fromhex(record.prefix)
        else:
            self._add("block", canonical(block))

    def text(self, text: str) -> None:
        """A message's string content: one text block."""
        self._add("text", text.encode("utf-8", "surrogatepass"))

    def message(self, message: Mapping[str, Any]) -> None:
        """A whole message."""
        self.role(message["role"])
        content = message["content"]
        if isinstance(content, str):
            self.text(content)
        else:
            for block in content:
                self.block(block)

    def _add(self, kind: str, data: bytes) -> None:
        self._state = hashlib.blake2b(b"%s %s " % (self._state, kind.encode()) + data, digest_size=12).digest()


def canonical(block: Mapping[str, Any]) -> bytes:
    """A block as signatures see it: no markers, no nulls, keys sorted."""
    return json.dumps(unmarked(block), sort_keys=True, separators=(",", ":")).encode()


def unmarked(block: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without markers, the inner ones of a tool result included, and without nulls."""
    plain = {k: v for k, v in block.items() if k != "cache_control" and v is not None}
    if plain.get("type") == "tool_result" and isinstance(plain.get("content"), list):
        plain["content"] = [unmarked(inner) if isinstance(inner, Mapping) else inner for inner in plain["content"]]
    return plain


def thoughts(messages: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Every thinking block with its message and block index, in order."""
    for i, message in enumerate(messages):
        if message["role"] == "assistant" and not isinstance(message["content"], str):
            for j, block in enumerate(message["content"]):
                if block.get("type") in THINKING:
                    yield i, j, block


def signature_of(block: Mapping[str, Any]) -> str:
    """Where a thinking block keeps its seal."""
    return str(block["signature" if block["type"] == "thinking" else "data"])


def _payload(signature: str) -> tuple[bytes, bytes] | None:
    try:
        raw = b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return None
    return (raw[:12], raw[12:]) if len(raw) > 12 else None


def _mac(payload: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(payload, key=key, digest_size=12).digest()
