"""The chat back ends, as they are deployed: two workers on one file, behind real sockets, and a browser's requests."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.examples.test_examples import EXAMPLES

pytest.importorskip("sse_starlette", reason="install the extra examples")
APPS = ["chat_starlette", "chat_fastapi"]
STORY = ("once upon a time there was a sea between two mountains, " * 24).strip(", ")
"""What the simulated Claude is told and asked for again takes it some 15 seconds to say, a shorter one less."""


class Worker:
    """One process of the back end, as `uvicorn` runs it."""

    def __init__(self, app: str, folder: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "COVERAGE_"))}
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), f"{app}:app", "--port", "0"]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert self.process.stderr is not None
        self.said = ""
        while (port := re.search(r"running on http://[\d.]+:(\d+)", self.said)) is None:
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line
        self.url = f"http://127.0.0.1:{port[1]}"

    def user(self, name: str) -> httpx2.Client:
        """A browser of that user."""
        return httpx2.Client(base_url=self.url, headers={"x-forwarded-user": name}, timeout=60)

    def end(self) -> bool:
        """Ends it as a deployment does; whether it has cleaned up and then obeyed the signal, as uvicorn does."""
        self.process.terminate()
        _, left = self.process.communicate(timeout=60)
        self.said += left
        return "Application shutdown complete." in self.said and self.process.returncode == -signal.SIGTERM


@contextmanager
def workers(app: str, folder: Path, count: int = 2) -> Iterator[list[Worker]]:
    running: list[Worker] = []
    try:
        running.extend(Worker(app, folder) for _ in range(count))
        yield running
    finally:
        for worker in running:
            if worker.process.poll() is None:
                worker.end()


@contextmanager
def followed(user: httpx2.Client, session: str, after: str | None = None) -> Iterator[Iterator[tuple[str, Any]]]:
    """The events of the newest turn as an EventSource gives them: their ids, and what they say."""
    headers = {} if after is None else {"last-event-id": after}
    with user.stream("GET", f"/sessions/{session}/events", headers=headers) as response:
        assert response.status_code == 200
        yield parsed(response.iter_lines())


def parsed(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    id = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            id = value
        elif name == "data":
            yield id, json.loads(value)


def made(user: httpx2.Client, words: str) -> str:
    """A new session with a turn that has begun."""
    session: str = user.post("/sessions").json()["id"]
    say(user, session, words)
    return session


def say(user: httpx2.Client, session: str, words: str, **given: Any) -> None:
    assert user.post(f"/sessions/{session}/turns", json={"text": words, **given}).is_success


def telling(user: httpx2.Client, story: str) -> str:
    """A session whose model is telling that story."""
    session = made(user, f"My story is {story}.")
    with followed(user, session) as events:
        of_kind(events, "ended")
    say(user, session, "What is my story?", key="the story")
    return session


def answer(user: httpx2.Client, session: str) -> str:
    """The text of the last entry."""
    last = user.get(f"/sessions/{session}").json()["entries"][-1]
    assert last["role"] == "assistant"
    return str(last["content"][-1]["text"])


def of_kind(events: Iterator[tuple[str, Any]], kind: str) -> tuple[str, Any]:
    return next(pair for pair in events if pair[1]["type"] == kind)


@pytest.mark.parametrize("app", APPS)
def test_two_workers_serve_one_conversation(app: str, tmp_path: Path) -> None:
    with workers(app, tmp_path) as (one, other), one.user("ada") as here, other.user("ada") as there:
        reload_in_mid_answer(here, there)
        stop_from_the_other_worker(here, there)
        approve_from_the_other_worker(here, there)
        others_see_nothing(other, made(here, "Hello"))
        assert one.end() and other.end(), one.said + other.said  # noqa: PT018
        assert "Traceback" not in one.said + other.said


def reload_in_mid_answer(here: httpx2.Client, there: httpx2.Client) -> None:
    session = telling(here, STORY[:250])
    with followed(here, session) as events:
        assert next(events)[1]["type"] == "snapshot"
        seen = next(id for id, event in events if event.get("kind") == "text")
    assert here.get("/sessions").json()[0]["state"] == "running"
    with followed(here, session, after=seen) as events:  # the same page, after its connection broke
        assert next(events)[1]["type"] == "delta", "what it has is not sent again"
    with followed(there, session) as events:  # the page, loaded anew from the other worker
        text = ""
        for _, event in events:
            if event["type"] == "snapshot":
                text = "".join(block["block"].get("text", "") for block in event.get("blocks", ()))
            elif event["type"] == "block_start":
                text += event["block"].get("text", "")
            elif event["type"] == "delta" and event["kind"] == "text":
                text += event["value"]
        assert event["type"] == "ended"
        assert event["state"] == "finished"
    assert text == answer(there, session) != ""
    assert STORY[:250] in text
    say(there, session, "What is my story?", key="the story")  # sent again: one key is one turn
    assert len(here.get(f"/sessions/{session}").json()["entries"]) == 4


def stop_from_the_other_worker(here: httpx2.Client, there: httpx2.Client) -> None:
    session = telling(here, STORY[:250])
    with followed(here, session) as events:
        of_kind(events, "delta")
        assert there.post(f"/sessions/{session}/stop").status_code == 204
        assert of_kind(events, "ended")[1]["state"] == "cancelled"
    assert here.get("/sessions").json()[0]["state"] == "idle"
    assert there.post(f"/sessions/{session}/stop").status_code == 204, "there is nothing to stop any more"


def approve_from_the_other_worker(here: httpx2.Client, there: httpx2.Client) -> None:
    session = made(here, "Please pay 30 euros.")
    with followed(here, session) as events:
        asked = of_kind(events, "approval_needed")[1]["calls"][0]
        assert (asked["name"], asked["input"]) == ("pay", {"amount": 30})
        assert of_kind(events, "ended")[1]["state"] == "waiting"
    assert there.get("/sessions").json()[0]["state"] == "waiting"
    (pending,) = there.get(f"/sessions/{session}").json()["pending"]
    approval = {"call": pending["call_id"], "approve": True}
    assert there.post(f"/sessions/{session}/decisions", json=approval).status_code == 204
    late = here.post(f"/sessions/{session}/decisions", json=approval)
    assert late.status_code == 409
    assert late.json()["error"]
    with followed(here, session) as events:
        assert of_kind(events, "ended")[1]["state"] == "finished"
    assert "Paid 30 euros." in answer(here, session)

    session = made(here, "Please pay 40 euros.")
    with followed(there, session) as events:
        of_kind(events, "ended")
    (pending,) = there.get(f"/sessions/{session}").json()["pending"]
    denial = {"call": pending["call_id"], "approve": False, "reason": "too much"}
    assert there.post(f"/sessions/{session}/decisions", json=denial).status_code == 204
    with followed(there, session) as events:
        of_kind(events, "ended")
    assert "too much" in answer(there, session)


def others_see_nothing(worker: Worker, session: str) -> None:
    with worker.user("bob") as bob:
        assert bob.get("/sessions").json() == []
        for method, path in [("GET", ""), ("GET", "/events"), ("POST", "/stop")]:
            assert bob.request(method, f"/sessions/{session}{path}").status_code == 404
        assert bob.post(f"/sessions/{session}/turns", json={"text": "Hello"}).status_code == 404
    with httpx2.Client(base_url=worker.url) as nobody:
        assert nobody.get("/sessions").is_client_error


def test_a_worker_that_is_told_to_end_leaves_its_turn_to_another(tmp_path: Path) -> None:
    with workers(APPS[0], tmp_path) as (one, other), one.user("ada") as here, other.user("ada") as there:
        session = telling(here, STORY)  # it takes longer than a worker has to end
        with followed(there, session) as events:
            of_kind(events, "delta")
            assert one.end(), one.said
            of_kind(events, "restarted")
            assert of_kind(events, "ended")[1]["state"] == "finished"
        assert STORY in answer(there, session)


def test_the_back_end_takes_less_than_sixty_lines() -> None:
    source = (EXAMPLES / "chat_starlette.py").read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {token.start[0] for token in tokens if token.type in (tokenize.NAME, tokenize.NUMBER, tokenize.OP)}
    assert len(code) < 60
