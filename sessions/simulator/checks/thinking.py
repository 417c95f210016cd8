"""Thinking blocks that come back: complete, unmodified, by a model that may read them, after the same conversation.

Source: preserved-thinking page, model pages and release notes, September to November 2026. The simulated account
counts as new: models that bind thinking to the prefix enforce it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sessions.core.cache import Where
from sessions.core.profiles import Profile, Ttl
from sessions.simulator.answers.reply import Reply
from sessions.simulator.checks.refusal import Refusal
from sessions.simulator.checks.sequence import paused_digest
from sessions.simulator.signing import (
    THINKING,
    Binding,
    Seal,
    digest,
    readable,
    sign,
    signature_of,
    thoughts,
    unseal,
)
from sessions.simulator.tokens import text_tokens

BOUND = (
    "messages.{i}.content.{j}: Invalid `signature` in `thinking` block. "
    "The block is bound to a different conversation. "
    'Remove the block, or set `thinking.block_binding.prefix_mismatch_behavior` to "drop_block".'
)
MODIFIED = (
    "messages.{i}.content.{j}: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be "
    "modified. These blocks must remain as they were in the original response."
)
REMEMBERED = 100_000


def family(model: str) -> str:
    """The model without its date."""
    return re.sub(r"-\d{8}$", "", model)


class Turns:
    """What the engine answered, as far as later requests are checked against it."""

    def __init__(self) -> None:
        self.paused: set[str] = set()
        self._signatures: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def remember(self, reply: Reply) -> None:
        """Keeps the signatures that belong to each tool call, and which turns are paused."""
        signatures = tuple(signature_of(block) for block in reply.content if block["type"] in THINKING)
        for block in reply.content:
            if block["type"] == "tool_use":
                self._signatures[block["id"]] = signatures
        while len(self._signatures) > REMEMBERED:
            self._signatures.popitem(last=False)
        if reply.stop_reason == "pause_turn":
            self.paused.add(paused_digest(list(reply.content)))

    def signatures(self, tool_use_id: str) -> tuple[str, ...] | None:
        """The thinking that came with a tool call, None if the call is not ours."""
        return self._signatures.get(tool_use_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A request whose thinking is in order. `body` lacks what is dropped; `binding` is the digest that the reply's
    thinking is bound to, `last` the newest thinking block's digest."""

    body: Mapping[str, Any]
    on: bool
    omitted: bool
    binding: str = ""
    last: str = ""
    transformations: list[dict[str, str]] | None = None
    dropped: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    def moved(self, marks: Sequence[tuple[Where, Ttl]]) -> list[tuple[Where, Ttl]]:
        """Marks at their places in `body`."""
        if not self.dropped:
            return list(marks)
        return [
            (
                where._replace(
                    block=where.block - sum(i == where.message and j < where.block for i, j in self.dropped)
                ),
                ttl,
            )
            if where.tier == "messages"
            else (where, ttl)
            for where, ttl in marks
        ]


def check(
    body: Mapping[str, Any], profile: Profile, key: bytes, organization: str, turns: Turns, betas: Iterable[str], *,
    dropping: bool = False,
) -> Checked:  # fmt: skip
    """Raises `Refusal` for a tampered, misplaced or missing block; drops what the model may not read.

    `dropping`: a block of another conversation is dropped unless the request asks for the error (as in a batch).
    """
    messages = body["messages"]
    blocks = list(thoughts(messages))
    on = _on(body, profile, turns)
    _latest(body, turns)
    if not on and not blocks:
        return Checked(body=body, on=on, omitted=False)
    binding = Binding(body)
    places = _digests(messages, binding, {i for i, _, _ in blocks})
    control = (body.get("thinking") or {}).get("block_binding") or {}
    behavior = control.get("prefix_mismatch_behavior")
    dropping = behavior == "drop_block" or (dropping and behavior is None)
    dropped: dict[tuple[int, int], str] = {}
    before: str | None = None
    for i, j, block in blocks:
        seal = _opened(i, j, block, key, latest=i == _latest_assistant(messages))
        reason = _mismatch(seal, profile, organization, places[i, j], before)
        before = digest(signature_of(block))
        if reason == "prefix_binding_mismatch" and not dropping:
            raise Refusal(BOUND.format(i=i, j=j))
        if reason:
            dropped.update(_rest(i, j, messages[i]["content"], reason))
    reported = [
        {"type": "thinking_dropped", "path": f"messages.{i}.content.{j}", "reason": reason}
        for (i, j), reason in sorted(dropped.items())
    ]
    controls = any(beta.startswith("thinking-binding-controls-") for beta in betas)
    return Checked(
        body=_without(body, dropped),
        on=on,
        omitted=_omitted(body, profile),
        binding=binding.digest(),
        last=before or "",
        transformations=reported if controls else None,
        dropped=frozenset(dropped),
    )


def sign_history(body: Mapping[str, Any], key: bytes, organization: str) -> list[dict[str, Any]]:
    """A copy of the messages whose thinking is signed as if written here, by `body["model"]`."""
    binding, before, signed = Binding(body), "", []
    for message in body["messages"]:
        prefix, content = binding.digest(), message["content"]
        blocks = content if isinstance(content, str) else [dict(block) for block in content]
        for block in blocks if not isinstance(blocks, str) else ():
            if block["type"] in THINKING:
                text = block.get("thinking") or ""
                seal = Seal(
                    model=family(body["model"]),
                    organization=organization,
                    prefix=prefix,
                    before=before,
                    text=digest(text) if text else "",
                    tokens=text_tokens(text),
                )
                block["signature" if block["type"] == "thinking" else "data"] = signature = sign(seal, key)
                before = digest(signature)
        signed.append({**message, "content": blocks})
        binding.message(message)
    return signed


def _on(body: Mapping[str, Any], profile: Profile, turns: Turns) -> bool:
    mode = (body.get("thinking") or {}).get("type") or profile.thinking_default
    if mode in (None, "disabled"):
        return False
    calls = _open_calls(body["messages"])
    if mode == "between_tools":
        return bool(calls)
    known = [found for call in calls if (found := turns.signatures(call)) is not None]
    return not (mode == "enabled" and known and not any(known))  # switched on inside a tool round: silently off


def _open_calls(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The calls that the newest user message answers."""
    last = messages[-1]
    if last["role"] != "user" or isinstance(last["content"], str):
        return []
    return [block["tool_use_id"] for block in last["content"] if block["type"] == "tool_result"]


def _latest_assistant(messages: Sequence[Mapping[str, Any]]) -> int:
    return next((i for i in range(len(messages) - 1, -1, -1) if messages[i]["role"] == "assistant"), -1)


def _latest(body: Mapping[str, Any], turns: Turns) -> None:
    """The thinking of a tool round comes back whole, or (where it is not required) not at all."""
    messages = body["messages"]
    i = _latest_assistant(messages)
    if i < 0 or isinstance(messages[i]["content"], str):
        return
    content = messages[i]["content"]
    expected = next((s for b in content if b["type"] == "tool_use" and (s := turns.signatures(b["id"]))), ())
    if not expected:
        return
    sent = [(j, signature_of(block)) for j, block in enumerate(content) if block["type"] in THINKING]
    ours = [signature for _, signature in sent if signature in expected]
    if not sent:
        if (body.get("thinking") or {}).get("type") == "enabled":
            raise Refusal(
                f"messages.{i}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                f"`{content[0]['type']}`. When `thinking` is enabled, a final `assistant` message must start with a "
                "thinking block (preceding the lastmost set of `tool_use` and `tool_result` blocks)."
            )
        return
    if ours and tuple(ours) != expected:
        raise Refusal(MODIFIED.format(i=i, j=sent[0][0]))


def _digests(
    messages: Sequence[Mapping[str, Any]], binding: Binding, wanted: set[int]
) -> dict[tuple[int, int], tuple[str, str]]:
    """For each thinking block the digest before its message, and the one right before it (merged turns)."""
    places: dict[tuple[int, int], tuple[str, str]] = {}
    for i, message in enumerate(messages):
        if i not in wanted:
            binding.message(message)
            continue
        before = binding.digest()
        binding.role(message["role"])
        for j, block in enumerate(message["content"]):
            if block["type"] in THINKING:
                places[i, j] = (before, binding.digest())
            binding.block(block)
    return places


def _opened(i: int, j: int, block: Mapping[str, Any], key: bytes, *, latest: bool) -> Seal:
    seal = unseal(signature_of(block), key)
    kind, holder = block["type"], "signature" if block["type"] == "thinking" else "data"
    if seal is None:
        raise Refusal(f"messages.{i}.content.{j}: Invalid `{holder}` in `{kind}` block")
    if seal.text and kind == "thinking" and seal.text != digest(block["thinking"]):
        raise Refusal(
            MODIFIED.format(i=i, j=j) if latest else f"messages.{i}.content.{j}: Invalid `{holder}` in `{kind}` block"
        )
    return seal


def _mismatch(
    seal: Seal, profile: Profile, organization: str, places: tuple[str, str], before: str | None
) -> str | None:
    """Which binding a block fails, None if none. Precedence as in the SDK's docstring."""
    if seal.model == "claude-haiku-5-5" and seal.organization != organization:
        return "organization_binding_mismatch"
    if not readable(family(profile.name), seal.model):
        return "model_binding_mismatch"
    if not profile.binds_thinking:
        return None
    moved = seal.prefix not in places or (before is not None and seal.before != before)
    return "prefix_binding_mismatch" if moved else None


def _rest(i: int, j: int, content: Sequence[Mapping[str, Any]], reason: str) -> dict[tuple[int, int], str]:
    """A failing block takes the consecutive thinking blocks behind it along."""
    rest = {(i, j): reason}
    for at in range(j + 1, len(content)):
        if content[at]["type"] not in THINKING:
            break
        rest[i, at] = reason
    return rest


def _without(body: Mapping[str, Any], dropped: Mapping[tuple[int, int], str]) -> Mapping[str, Any]:
    if not dropped:
        return body
    messages = list(body["messages"])
    for i in {i for i, _ in dropped}:
        kept = [block for j, block in enumerate(messages[i]["content"]) if (i, j) not in dropped]
        messages[i] = {**messages[i], "content": kept}
    return {**body, "messages": messages}


def _omitted(body: Mapping[str, Any], profile: Profile) -> bool:
    display = (body.get("thinking") or {}).get("display")
    return display == "omitted" if display else not re.search(r"-4-[56]$", family(profile.name))


def spoil(reply: Reply, kind: str) -> Reply:
    """The reply with what a content fault breaks in it."""
    if kind == "unoffered":
        call = {"type": "tool_use", "id": "toolu_01unoffered", "name": "never_offered", "input": {"x": 1}}
        call["caller"] = {"type": "direct"}
        return replace(reply, content=[*reply.content, call], sizes=[*reply.sizes, 20], stop_reason="tool_use")
    content = [dict(block) for block in reply.content]
    for block in content:
        if block["type"] == "tool_use" and kind == "repeated_id":
            block["id"] = "toolu_01repeated"
        if block["type"] == "tool_use" and kind == "not_object":
            block["input"] = ["not", "an", "object"]
    return replace(reply, content=content)
