"""The agents of `examples/chat_agents.py`, as `warmline serve` takes them."""

from __future__ import annotations

import pytest

pytest.importorskip("sse_starlette", reason="install the extra chat")

from sessions.cli.serving import agents_of
from sessions.cli.starting import Settings
from tests.examples.test_examples import EXAMPLES


def test_they_can_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    assert [agent.name for agent in agents_of(Settings("sqlite://", "chat_agents:agents"))] == ["guide", "writer"]
