"""The exchanges that an engine keeps: the oldest bodies and then the oldest exchanges are forgotten."""

from __future__ import annotations

from collections import deque

from sessions.simulator.exchange import Exchange


class Exchanges:
    """`kept`: the exchanges, oldest first, `keep` at most. `keep_messages`: how many messages their bodies may hold."""

    def __init__(self, keep: int, keep_messages: int) -> None:
        self.kept: deque[Exchange] = deque()
        self._keep, self._keep_messages = keep, keep_messages
        self._bodies: deque[tuple[Exchange, int]] = deque()
        self._held = 0

    def add(self, exchange: Exchange) -> None:
        """Keeps one more, and forgets what is then too much; the body of one that is still open stays."""
        self.kept.append(exchange)
        if len(self.kept) > self._keep:
            self.kept.popleft()
        messages = exchange.body.get("messages") if exchange.body else None
        size = len(messages) if isinstance(messages, list) else 0
        self._bodies.append((exchange, size))
        self._held += size
        while self._held > self._keep_messages and len(self._bodies) > 1 and self._bodies[0][0].state != "open":
            old, size = self._bodies.popleft()
            self._held -= size
            old.forget()
