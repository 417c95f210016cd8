"""Cache diagnostics: where a request first differs from the one that `previous_message_id` names (page of
September 2026).

What is compared is the structure of the request, never whether the cache was hit: equal structure and nothing read
means the entry had expired or was evicted, and the answer is null.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sessions.simulator.signing import unmarked
from sessions.simulator.tokens import count

WIDTH = 8
CAPACITY = 2_000_000
"""Message digests kept over all fingerprints: the API keeps them "for a short time", length undocumented."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The parts of a request that shape its prompt. `messages`: one digest of `WIDTH` bytes per message."""

    model: bytes
    tools: bytes
    system: bytes
    other: bytes
    messages: bytes
    sizes: tuple[int, int]
    """Tokens of tools and system; tokens of the messages."""


def fingerprint(body: Mapping[str, Any], betas: Iterable[str], sizes: tuple[int, int]) -> Fingerprint:
    """The fingerprint of a request body; `sizes` as in `Fingerprint.sizes`."""
    system = body.get("system") or []
    return Fingerprint(
        model=_digest([body["model"], body.get("speed")]),
        tools=_digest([unmarked(tool) for tool in body.get("tools") or ()]),
        system=_digest(
            [{"type": "text", "text": system}] if isinstance(system, str) else [unmarked(b) for b in system]
        ),
        other=_digest([_settings(body), sorted(betas)]),
        messages=b"".join(_message(message) for message in body["messages"]),
        sizes=sizes,
    )


def _settings(body: Mapping[str, Any]) -> dict[str, Any]:
    names = ("thinking", "tool_choice", "output_config", "context_management")
    settings = {name: body[name] for name in names if body.get(name) is not None}
    if isinstance(settings.get("thinking"), Mapping):
        settings["thinking"] = {k: v for k, v in settings["thinking"].items() if k not in ("display", "block_binding")}
    return settings


def _message(message: Mapping[str, Any]) -> bytes:
    content = message["content"]
    if not isinstance(content, str) and len(content) == 1 and content[0].get("type") == "text":
        content = content[0]["text"]
    if isinstance(content, str):
        plain = f"{message['role']} {content}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(plain, digest_size=WIDTH).digest()
    return _digest([message["role"], [unmarked(block) for block in content]])


def _digest(value: object) -> bytes:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=WIDTH).digest()


class Fingerprints:
    """The fingerprints of past requests by workspace and message id, the oldest forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Fingerprint] = OrderedDict()
        self._held = 0

    def remember(self, workspace: str, message_id: str, print_: Fingerprint) -> None:
        """Keeps the fingerprint of the request that `message_id` answered."""
        self._known[workspace, message_id] = print_
        self._held += 1 + len(print_.messages) // WIDTH
        while self._held > CAPACITY and len(self._known) > 1:
            _, old = self._known.popitem(last=False)
            self._held -= 1 + len(old.messages) // WIDTH

    def diagnose(self, workspace: str, previous: str | None, now: Fingerprint) -> dict[str, Any] | None:
        """`Message.diagnostics` for a request with `diagnostics.previous_message_id == previous`."""
        if previous is None:
            return None
        before = self._known.get((workspace, previous))
        reason = _compare(before, now) if before else {"type": "previous_message_not_found"}
        return {"cache_miss_reason": reason} if reason else None


def _compare(before: Fingerprint, now: Fingerprint) -> dict[str, Any] | None:
    whole = sum(before.sizes)
    if before.model != now.model:
        return {"type": "model_changed", "cache_missed_input_tokens": whole}
    if before.tools != now.tools:
        return {"type": "tools_changed", "cache_missed_input_tokens": whole}
    if before.system != now.system:
        return {"type": "system_changed", "cache_missed_input_tokens": whole}
    if before.other != now.other:
        return {"type": "unavailable"}
    if not now.messages.startswith(before.messages):
        return {"type": "messages_changed", "cache_missed_input_tokens": _missed(before, now)}
    return None


def _missed(before: Fingerprint, now: Fingerprint) -> int:
    """The share of the old messages behind the first one that differs: an estimate, as the API's is."""
    total = len(before.messages) // WIDTH
    pairs = range(0, min(len(before.messages), len(now.messages)), WIDTH)
    same = next(
        (at // WIDTH for at in pairs if before.messages[at : at + WIDTH] != now.messages[at : at + WIDTH]), len(pairs)
    )
    return before.sizes[1] * (total - same) // total


def tier_sizes(body: Mapping[str, Any], total: int) -> tuple[int, int]:
    """Tokens of tools and system, and of the messages, of a prompt of `total` tokens."""
    system = body.get("system") or ()
    fixed = sum(count(tool) for tool in body.get("tools") or ())
    fixed += count(system) if isinstance(system, str) else sum(count(block) for block in system)
    return fixed, max(0, total - fixed)
