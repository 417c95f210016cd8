"""`warmline serve` as it is deployed: real processes, a port, one file, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

pytest.importorskip("sse_starlette", reason="install the extra chat")

WITHIN = 120.0
"""Seconds in which anything must have happened, on the busiest machine."""
WORDS = "Tell me all there is to know about harbours and lighthouses. " * 3
BARE = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "WARMLINE_"))} | {"COLUMNS": "120"}


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and its address. What is left of it is killed with the block."""
    command = [sys.executable, "-W", "error", "-m", "sessions", "serve", "--port", "0", *options]
    with subprocess.Popen(
        command, cwd=folder, env=BARE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "Ctrl-C" not in said:
                line = process.stdout.readline()
                assert line, process.communicate()
                said += line
            assert "a simulated Claude answers" in said
            address = re.search(r"http://\S+", said)
            assert address is not None
            until(lambda: is_ready(address[0]))
            yield process, address[0]
        finally:
            for child in psutil.Process(process.pid).children() if process.poll() is None else []:
                child.kill()
            process.kill()


def is_ready(address: str) -> bool:
    try:
        return httpx2.get(f"{address}ready", timeout=10).status_code == 200
    except httpx2.TransportError:
        return False


def until(happened: Callable[[], Any]) -> Any:
    ends = time.monotonic() + WITHIN
    while not (value := happened()):
        assert time.monotonic() < ends, "it does not happen"
        time.sleep(0.1)
    return value


def user(address: str, **headers: str) -> httpx2.Client:
    return httpx2.Client(base_url=address, headers=headers, timeout=WITHIN)


def said(browser: httpx2.Client, words: str = WORDS, agent: str = "demo") -> tuple[str, str]:
    """A new session, and where the events of its first turn are."""
    session = browser.post("api/sessions", json={"agent": agent}).json()["id"]
    begun = browser.post(
        f"api/sessions/{session}/turns", json={"id": "first", "content": [{"type": "text", "text": words}]}
    )
    assert begun.status_code == 202, begun.text
    return session, begun.json()["events"]


def events_of(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def ended(browser: httpx2.Client, events: str) -> str | None:
    """The state that a turn ended in, as a follower hears it; `None` where the stream was cut."""
    with browser.stream("GET", events) as response:
        for event in events_of(response.iter_lines()):
            if event["type"] == "ended":
                return str(event["state"])
    return None


def answer(browser: httpx2.Client, session: str) -> str:
    """What is stored as the answer to the first words, and nothing is behind it."""
    entries = browser.get(f"api/sessions/{session}").json()["entries"]
    assert [entry["role"] for entry in entries] == ["user", "assistant"]
    return "".join(block.get("text", "") for block in entries[1]["blocks"])


def test_a_page_a_turn_and_an_end_in_which_answers_reach_their_readers(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, address), user(address) as browser:
        page = browser.get("")
        assert "<html" in page.text.lower()
        assert browser.get("health").status_code == 200
        assert browser.get("api/config").json()["simulated"] is True
        session, events = said(browser)
        with browser.stream("GET", events) as response:
            told = events_of(response.iter_lines())
            next(event for event in told if event["type"] == "delta")
            process.terminate()
            with user(address) as other:
                until(lambda: other.get("ready").status_code == 503)
                refused = other.post(f"api/sessions/{session}/turns", json={"id": "n", "content": [text("More")]})
                assert refused.status_code == 503
            assert [event["state"] for event in told if event["type"] == "ended"] == ["finished"]
        out, err = process.communicate(timeout=WITHIN)
        assert (process.returncode, err) == (0, ""), out
    assert (tmp_path / "sessions.db").exists()


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_what_a_worker_leaves_is_finished_by_another(tmp_path: Path) -> None:
    drain = 0.2
    with ExitStack() as stack:
        one, here = stack.enter_context(serving(tmp_path, "--drain", str(drain)))
        _, there = stack.enter_context(serving(tmp_path))
        first, second = stack.enter_context(user(here)), stack.enter_context(user(there))
        begun = [said(first) for _ in range(6)]
        streams = [stack.enter_context(first.stream("GET", events)).iter_lines() for _, events in begun]
        for stream in streams:
            next(event for event in events_of(stream) if event["type"] in ("snapshot", "delta"))
        told = time.monotonic()
        one.send_signal(signal.SIGTERM)
        one.communicate(timeout=WITHIN)
        assert one.returncode == 0
        assert time.monotonic() - told < drain + 20
        for stream in streams:
            for _ in stream:
                pass  # it is closed, whether the answer has come to its end or not
        for session, events in begun:
            assert ended(second, events) == "finished"
            assert WORDS.split(". ")[0] in answer(second, session)


def test_a_worker_that_was_killed_is_replaced_and_its_turn_finished(tmp_path: Path) -> None:
    (tmp_path / "who.py").write_text("def who(request):\n    return request.headers.get('x-user')\n")
    with serving(tmp_path, "--workers", "2", "--auth", "who:who", "--drain", "1") as (process, address):
        workers = until(lambda: len(spawned(process)) == 2 and spawned(process))
        with user(address, **{"x-user": "ada"}) as browser:
            assert httpx2.get(f"{address}api/config").status_code == 401
            begun = [said(browser) for _ in range(2)]
            (busy,) = (worker for worker in workers if is_connected(worker))  # the one connection: its turns run here
            busy.kill()
            until(lambda: len(spawned(process)) == 2 and busy.pid not in [w.pid for w in spawned(process)])
        with user(address, **{"x-user": "ada"}) as browser:
            for session, events in begun:
                until(lambda events=events: ended(browser, events) == "finished")
                assert answer(browser, session)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WITHIN)
        assert process.returncode == 0


def test_workers_end_when_their_supervisor_was_killed(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2", "--drain", "0") as (process, address):
        workers = until(lambda: len(spawned(process)) == 2 and spawned(process))
        process.kill()
        process.wait()
        gone, alive = psutil.wait_procs(workers, timeout=WITHIN)
        for worker in alive:
            worker.kill()
        assert (len(gone), alive) == (2, [])
        assert not is_ready(address)


def test_ctrl_c_twice_leaves_out_the_rest_of_the_end(tmp_path: Path) -> None:
    with ExitStack() as stack:
        process, address = stack.enter_context(serving(tmp_path, "--drain", "3000"))
        browser = stack.enter_context(user(address))
        session, events = said(browser, WORDS * 30)
        told = events_of(stack.enter_context(browser.stream("GET", events)).iter_lines())
        next(event for event in told if event["type"] == "delta")
        process.send_signal(signal.SIGINT)
        with user(address) as other:
            until(lambda: other.get("ready").status_code == 503)
        assert process.poll() is None, "the answer has its time"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WITHIN)
        assert (process.returncode, err) == (0, "")
        with suppress(httpx2.RemoteProtocolError):  # cut, not closed: a page knows that it has not seen the end
            assert "ended" not in [event["type"] for event in told]
    with serving(tmp_path) as (_, address), user(address) as browser:
        until(lambda: ended(browser, events) == "finished")
        assert answer(browser, session)


MADE = """
from chat_agents import agents

def counted():
    with open("made.txt", "a") as file:
        file.write("made\\n")
    return agents
"""


def test_tokens_operators_and_the_agents_of_the_example(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "chat_agents.py"
    (tmp_path / "chat_agents.py").write_text(example.read_text())
    (tmp_path / "counting.py").write_text(MADE)
    tokens = {owner: token_of(tmp_path, owner) for owner in ("ada", "bob")}
    options = ["--agents", "counting:counted", "--tokens", "tokens.txt", "--operator", "ada"]
    with serving(tmp_path, *options) as (_, address), ExitStack() as stack:
        assert (tmp_path / "made.txt").read_text() == "made\n"
        ada, bob = (
            stack.enter_context(user(address, authorization=f"Bearer {tokens[owner]}")) for owner in ("ada", "bob")
        )
        assert httpx2.get(f"{address}api/config").status_code == 401
        assert httpx2.get(f"{address}api/config", headers={"authorization": "Bearer wl_no"}).status_code == 401
        config = ada.get("api/config").json()
        assert (config["owner"], config["operator"]) == ("ada", True)
        assert [agent["name"] for agent in config["agents"]] == ["guide", "writer"]
        assert bob.get("api/config").json()["operator"] is False
        session, events = said(bob, "What are the hours of the museum?", "guide")
        assert ended(bob, events) == "finished"
        assert "Tuesday to Sunday" in bob.get(f"api/sessions/{session}").text
        assert ada.get(f"api/sessions/{session}").status_code == 404
        assert [row["key"] for row in ada.get("api/spend?by=owner").json()["rows"]] == ["bob"]
        assert bob.get("api/spend?owner=ada").status_code == 403
        digits = command(tmp_path, "token", "list").splitlines()[-1].split()[0]
        command(tmp_path, "token", "revoke", digits)
        until(lambda: 401 in (ada.get("api/config").status_code, bob.get("api/config").status_code))


def token_of(folder: Path, owner: str) -> str:
    return command(folder, "token", "new", owner).split()[0]


def command(folder: Path, *words: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "sessions", *words], cwd=folder, env=BARE, capture_output=True, text=True, check=True
    )
    return ran.stdout


def is_connected(worker: psutil.Process) -> bool:
    return any(connection.status == psutil.CONN_ESTABLISHED for connection in worker.net_connections("tcp"))


STUBBORN = """
import time
from sessions import tool
from sessions.web import Agent

@tool
async def block(subject: str) -> str:
    "Blocks the event loop, and with it the whole process."
    time.sleep(600)

agent = Agent("demo", model="claude-sonnet-5-5", tools=[block])
"""


def test_a_tool_that_holds_the_event_loop_does_not_hold_the_process(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    with serving(tmp_path, "--agents", "stubborn:agent", "--drain", "0.5") as (process, address):
        with user(address) as browser:
            session, _ = said(browser, "Please block it.")
            until(lambda: is_stuck(browser, session))
        process.terminate()
        _, err = process.communicate(timeout=WITHIN)
        assert process.returncode == 1
        assert "in block" in err, "it says where it was stuck"


def is_stuck(browser: httpx2.Client, session: str) -> bool:
    try:
        browser.get(f"api/sessions/{session}", timeout=2)
    except httpx2.TimeoutException:
        return True
    return False


def spawned(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers; beside them is multiprocessing's own process."""
    return [
        child
        for child in psutil.Process(process.pid).children()
        if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline())
    ]
