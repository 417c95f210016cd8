"""A reply as server-sent events, in the order the real API sends them (recorded in November 2026)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sessions.simulator.answers.reply import Reply
from sessions.simulator.faults import Fault

CHUNK = 48
"""Characters of text or JSON per delta."""

_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Event:
    """One event and the output tokens that were generated for it."""

    data: Mapping[str, Any]
    tokens: int = 0
    raw: bytes | None = None

    @property
    def name(self) -> str:
        return str(self.data["type"])

    def encode(self) -> bytes:
        """The event on the wire."""
        if self.raw is not None:
            return self.raw
        return f"event: {self.data['type']}\ndata: {_ENCODE(self.data)}\n\n".encode("utf-8", "surrogatepass")


def events(head: Mapping[str, Any], reply: Reply, fault: Fault | None = None) -> list[Event]:
    """All events of `reply`; `head` is the message without content and stop reason."""
    bodies = [_block(i, block, reply) for i, block in enumerate(reply.content)]
    if bodies:
        bodies[0].insert(1, Event({"type": "ping"}))
    interleaved = fault is not None and fault.kind == "interleaved"
    middle = _interleaved(bodies) if interleaved else [event for body in bodies for event in body]
    whole = [_start(head), *middle, _delta(head, reply), Event({"type": "message_stop"})]
    if fault is not None and fault.kind == "headless":
        whole = whole[1:]
    if fault is not None and fault.kind == "garbled":
        at = min(fault.after, len(whole) - 1)
        whole[at] = replace(
            whole[at], raw=f'event: {whole[at].name}\ndata: {{"type": "{whole[at].name}", \n\n'.encode()
        )
    return whole


def message(head: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """The same reply as one JSON message."""
    return {
        **head,
        "content": list(reply.content),
        "stop_reason": reply.stop_reason,
        "stop_sequence": reply.stop_sequence,
        **({"stop_details": dict(reply.stop_details)} if reply.stop_details else {}),
        "usage": {**head["usage"], **_output(head, reply)},
    }


def error_event(fault: Fault, request_id: str) -> Event:
    """The `error` event of a stream that fails after HTTP 200."""
    error = {"type": fault.type or "overloaded_error", "message": fault.message}
    return Event({"type": "error", "error": error, "request_id": request_id})


def _start(head: Mapping[str, Any]) -> Event:
    usage = {**head["usage"], "output_tokens": min(1, head["usage"]["output_tokens"])}
    # What was cleared is told at the end.
    edits = {"context_management": None} if "context_management" in head else {}
    return Event({"type": "message_start", "message": {**head, "usage": usage, **edits}})


def _delta(head: Mapping[str, Any], reply: Reply) -> Event:
    repeated = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    usage = {key: head["usage"][key] for key in repeated if key in head["usage"]}
    delta: dict[str, Any] = {"stop_reason": reply.stop_reason, "stop_sequence": reply.stop_sequence}
    if reply.stop_details:
        delta["stop_details"] = dict(reply.stop_details)
    edits = {"context_management": head["context_management"]} if "context_management" in head else {}
    return Event({"type": "message_delta", "delta": delta, "usage": {**usage, **_output(head, reply)}, **edits})


def _output(head: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """The output's part of the final `usage`."""
    iterations = head["usage"].get("iterations")
    if iterations:
        return {"output_tokens": 0, "iterations": [{**iterations[0], "output_tokens": reply.output_tokens}]}
    details = {"output_tokens_details": {"thinking_tokens": reply.thinking_tokens}} if reply.thinking_tokens else {}
    return {"output_tokens": reply.output_tokens, **details}


def _block(index: int, block: Mapping[str, Any], reply: Reply) -> list[Event]:
    """Start, deltas and stop of one block; its tokens are spread over the deltas."""
    start, deltas = _parts(block, reply.partial if index == len(reply.content) - 1 else None)
    share, rest = divmod(reply.sizes[index], max(1, len(deltas)))
    spread = [
        Event({"type": "content_block_delta", "index": index, "delta": delta}, share + (rest if last else 0))
        for delta, last in zip(deltas, [False] * (len(deltas) - 1) + [True], strict=False)
    ]
    begin = Event({"type": "content_block_start", "index": index, "content_block": start}, 0 if deltas else share)
    return [begin, *spread, Event({"type": "content_block_stop", "index": index})]


def _parts(block: Mapping[str, Any], partial: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    kind = block["type"]
    if kind == "text":
        deltas = [{"type": "text_delta", "text": chunk} for chunk in _chunks(block["text"])]
        cited = [{"type": "citations_delta", "citation": citation} for citation in block.get("citations") or ()]
        return {**block, "text": "", **({"citations": []} if cited else {})}, deltas + cited
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": chunk} for chunk in _chunks(block["thinking"])]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {"type": kind, "thinking": "", "signature": ""}, deltas
    if kind in ("tool_use", "server_tool_use"):
        text = partial if partial is not None else json.dumps(block["input"], ensure_ascii=False)
        chunks = ["", *(_chunks(text) if block["input"] or partial else ())]
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": chunk} for chunk in chunks]
    if kind == "compaction":
        return {**block, "content": None}, [{"type": "compaction_delta", "content": block["content"]}]
    return dict(block), []


def _chunks(text: str) -> Iterator[str]:
    return (text[at : at + CHUNK] for at in range(0, len(text), CHUNK))


def _interleaved(bodies: list[list[Event]]) -> list[Event]:
    """Start 0, deltas 0, start 1, deltas 1, …, stop 0, stop 1 (llama.cpp's server)."""
    return [event for body in bodies for event in body[:-1]] + [body[-1] for body in bodies]
