"""One Message Batch: what it holds, when it ends, and how the API shows it.

The engine keeps them; `batches.py` is what happens to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

ROOT = "/v1/messages/batches"
ITEM = f"{ROOT}/request"
"""The path under which the journal keeps each request of a batch."""
EXPIRES, ARCHIVED = 24 * 3600.0, 29 * 24 * 3600.0
"""Seconds after which a batch ends whatever is left of it, and after which its results are gone."""


@dataclass(slots=True, eq=False)
class Batch:
    """One batch. `due`: when its requests are processed. Times are seconds since the epoch."""

    id: str
    scope: tuple[str, str]
    headers: Mapping[str, str]
    requests: Sequence[Mapping[str, Any]]
    created: float
    due: float
    canceled: float | None = None
    ended: float | None = None
    is_running: bool = False
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def next_event(self) -> float:
        """When it ends if nothing else happens to it."""
        ends = min(self.due, self.created + EXPIRES)
        return ends if self.canceled is None else min(ends, self.canceled)

    def shown(self, now: float, base_url: str) -> dict[str, Any]:
        """The batch as the API shows it."""
        archived = self.created + ARCHIVED
        ended, gone = self.ended is not None, now >= archived
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts["processing"] = 0 if ended else len(self.requests)
        for line in self.results:
            counts[line["result"]["type"]] += 1
        waiting = "in_progress" if self.canceled is None else "canceling"
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else waiting,
            "request_counts": counts,
            "created_at": _moment(self.created),
            "expires_at": _moment(self.created + EXPIRES),
            "ended_at": _moment(self.ended),
            "cancel_initiated_at": _moment(self.canceled),
            "archived_at": _moment(archived) if gone else None,
            "results_url": f"{base_url}{ROOT}/{self.id}/results" if ended and not gone else None,
        }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
