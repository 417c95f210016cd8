"""On-demand compaction: one request gives one signed block, which stands first in every later request of that chain.

Rules of the compaction page and the SDK's error types, September 2026 (beta `compact-2026-09-04`). The block carries
the digest of what it summarises, so that thinking behind it stays valid while system and tools are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sessions.core.profiles import Profile
from sessions.simulator.answers.script import texts
from sessions.simulator.checks.refusal import Refusal
from sessions.simulator.signing import Binding, Seal, digest, sign, unseal
from sessions.simulator.tokens import text_tokens

BETA = "compact-2026-09-04"
LINE, LINES = 300, 40


def check(body: Mapping[str, Any], profile: Profile, betas: frozenset[str]) -> None:
    """Raises `Refusal` where the request may not compact, or where it holds a block out of place."""
    _places(body, betas)
    if not body.get("compaction"):
        return
    if not profile.compaction:
        raise Refusal("compaction: Extra inputs are not permitted")
    excluded = {
        "context_management": body.get("context_management"),
        "stop_sequences": body.get("stop_sequences"),
        "output_config.format": (body.get("output_config") or {}).get("format"),
        "a forced tool_choice": (body.get("tool_choice") or {}).get("type") in ("any", "tool"),
    }
    for name, given in excluded.items():
        if given:
            raise Refusal(f"compaction: cannot be combined with {name}")
    _whole(body["messages"])


def _places(body: Mapping[str, Any], betas: frozenset[str]) -> None:
    blocks = list(_blocks(body["messages"]))
    if not blocks:
        return
    if not any(beta.startswith("compact-") for beta in betas):
        i, j, _ = blocks[0]
        raise Refusal(f"messages.{i}.content.{j}: Input tag 'compaction' requires the beta header `{BETA}`")
    signed = [(i, j) for i, j, block in blocks if block.get("signature")]
    if len(signed) > 1:
        raise Refusal("messages: more than one signed `compaction` block", code="compaction_block_ambiguous")
    if signed and signed[0] != (0, 0):
        i, j = signed[0]
        raise Refusal(
            f"messages.{i}.content.{j}: a signed `compaction` block must be the first block of the first message",
            code="compaction_block_misplaced",
        )


def _whole(messages: Sequence[Mapping[str, Any]]) -> None:
    last = messages[-1]
    content = last["content"]
    kinds = [] if isinstance(content, str) else [block["type"] for block in content]
    if "tool_use" in kinds or "tool_result" in kinds or (kinds and kinds[-1] == "server_tool_use"):
        raise Refusal("compaction: the conversation ends inside a tool round", code="compaction_incomplete_turn")
    if len(messages) == 1 and kinds == ["compaction"]:
        raise Refusal("compaction: there is nothing to summarize", code="compaction_nothing_to_summarize")


def verify(body: Mapping[str, Any], key: bytes) -> None:
    """Raises `Refusal` for a block that is not ours or not as it was."""
    for _, _, block in _blocks(body["messages"]):
        if not block.get("signature"):
            continue
        seal = unseal(block["signature"], key)
        if seal is None:
            raise Refusal("Invalid `signature` in `compaction` block", code="compaction_signature_invalid")
        if seal.text != digest(block.get("content") or ""):
            raise Refusal("The `compaction` block's content was changed", code="compaction_content_mismatch")
        if block.get("tool_changes") != []:
            raise Refusal("The `compaction` block's tool_changes were changed", code="compaction_tool_changes_mismatch")


def compacted(body: Mapping[str, Any], key: bytes, organization: str) -> dict[str, Any]:
    """The block that stands for the whole conversation of `body`."""
    binding = Binding(body)
    for message in body["messages"]:
        binding.message(message)
    text = summary(body)
    seal = Seal(
        model=body["model"],
        organization=organization,
        prefix=binding.digest(),
        before=binding.base,
        text=digest(text),
        tokens=text_tokens(text),
    )
    return {"type": "compaction", "content": text, "signature": sign(seal, key), "tool_changes": []}


def summary(body: Mapping[str, Any]) -> str:
    """What was said, line by line, the newest last; long lines and old ones are cut."""
    lines: list[str] = []
    for message in body["messages"]:
        content = message.get("content") or ""
        if isinstance(content, list) and content[0]["type"] == "compaction":
            lines += str(content[0].get("content") or "").splitlines()
        text = " ".join(texts(content).split())
        if text:
            lines.append(f"{message['role'].title()}: {text[:LINE]}")
    return "\n".join(lines[-LINES:]) or "Nothing was said."


def iterations(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The `usage` of a compacting request: nothing at the top, everything in `iterations`."""
    kept = {name: value for name, value in usage.items() if name != "service_tier"}
    zeros = json.loads(json.dumps(usage), parse_int=lambda text: 0)
    return {**zeros, "iterations": [{"type": "compaction", **kept}]}


def _blocks(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    for i, message in enumerate(messages):
        content = message.get("content")
        if message["role"] == "assistant" and isinstance(content, list):
            for j, block in enumerate(content):
                if block["type"] == "compaction":
                    yield i, j, block
