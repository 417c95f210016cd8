"""Claude Code lines made by hand: each `line` hangs on the one before it unless told otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sessions.importers import Imported, read


class Transcript:
    """Collects lines a second apart and reads them back."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def line(self, kind: str, content: Any = None, **more: Any) -> str:
        """Adds a line and returns its uuid."""
        number = len(self.lines)
        uuid = f"u{number}"
        value: dict[str, Any] = {
            "type": kind,
            "uuid": uuid,
            "parentUuid": self.lines[-1].get("uuid") if self.lines else None,
            "sessionId": "s",
            "timestamp": f"2026-01-01T00:{number // 60:02}:{number % 60:02}.000Z",
        }
        if content is not None:
            value["message"] = {"role": kind, "content": content}
        self.lines.append({**value, **more})
        return uuid

    def user(self, content: Any, **more: Any) -> str:
        return self.line("user", content, **more)

    def result(self, tool_id: str, content: Any = "done", **more: Any) -> str:
        return self.user([{"type": "tool_result", "tool_use_id": tool_id, "content": content}], **more)

    def claude(self, *blocks: dict[str, Any], id: str = "", usage: Any = None, **more: Any) -> str:
        """One line of a reply; lines with one `id` are one message."""
        uuid = self.line("assistant", list(blocks), **more)
        message = self.lines[-1]["message"]
        message |= {"id": id or f"msg_{uuid}", "model": "claude-opus-4-6", "usage": usage}
        return uuid

    def read(self, folder: Path, *, strict: bool = False) -> Imported:
        path = folder / "transcript.jsonl"
        path.write_text("\n".join(json.dumps(line) for line in self.lines))
        return read(path, strict=strict)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def call(tool_id: str, name: str = "Bash", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": tool_id, "name": name, "input": arguments}
