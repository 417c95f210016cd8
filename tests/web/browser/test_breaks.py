"""What happens to a page: it is reloaded, sleeps, loses its network, its worker, its right to ask."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sessions.simulator import serving
from tests.web.browser.scripts import WORDS, desk
from tests.web.browser.world import ENOUGH, ROOT, answers, say, session_of, shown, stored

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect


def under_way(page: Any, model: Any) -> None:
    """An answer of which a part has come."""
    say(page, "please count")
    model.speak(60)
    expect(page.locator(".growing")).to_contain_text("word5 ")


def is_whole(page: Any, number: int = 0) -> None:
    """The answer is there, once."""
    turn = page.locator(".turn").nth(number)
    expect(turn).to_have_attribute("data-state", "finished")
    expect(turn.locator(".cost .price")).to_be_visible()
    assert shown(page)[2 * number + 1] == ["assistant", WORDS]


def test_reload_in_mid_answer_goes_on(world: Any) -> None:
    served = world.serve(desk)
    page = world.open(served)
    under_way(page, served)
    page.reload()
    expect(page.locator(".growing")).to_contain_text("word5 ")
    served.speak(60)
    expect(page.locator(".growing")).to_contain_text("word20 ")
    page.reload()
    served.speak()
    is_whole(page)
    assert shown(page) == stored(served.entries(session_of(page)))


def test_two_tabs_show_the_same(world: Any) -> None:
    served = world.serve(desk)
    context = world.context()
    one = world.open(served, context=context)
    with served.speaking():
        say(one, "hello")
        expect(answers(one)).to_contain_text("You said: hello")
        expect(one.locator(".turn")).to_have_attribute("data-state", "finished")
    two = world.open(served, f"#/c/{session_of(one)}", context=context)
    expect(answers(two)).to_contain_text("You said: hello")
    under_way(one, served)
    two.evaluate("window.dispatchEvent(new Event('focus'))")  # the user comes to it
    expect(two.locator(".growing")).to_contain_text("word5 ")
    served.speak()
    is_whole(one, 1)
    is_whole(two, 1)
    with served.speaking():
        say(two, "pay it")
        expect(two.get_by_role("button", name="Approve")).to_be_visible()
        one.evaluate("window.dispatchEvent(new Event('focus'))")
        one.get_by_role("button", name="Approve").click()
        expect(answers(one).nth(2)).to_contain_text("The tool says: paid 120.5")
        two.evaluate("window.dispatchEvent(new Event('focus'))")
        expect(answers(two).nth(2)).to_contain_text("The tool says: paid 120.5")
        expect(two.get_by_role("button", name="Approve")).to_have_count(0)
        expect(two.locator(".turn").nth(2)).to_have_attribute("data-state", "finished")
    assert shown(one) == shown(two) == stored(served.entries(session_of(one)))


def test_back_from_an_hours_sleep(world: Any) -> None:
    served = world.serve(desk)
    watched = world.watch(served.url)
    page = watched.page
    page.clock.install()
    page.goto(served.url)
    under_way(page, served)
    lines: list[str] = []
    page.on(
        "request",
        lambda request: lines.append(request.headers.get("last-event-id", "")) if "/events" in request.url else None,
    )
    page.clock.pause_at(time.time() + 5)
    served.speak(60)
    page.clock.fast_forward("01:00:00")
    page.clock.resume()
    served.speak()
    is_whole(page)
    assert lines
    assert lines[0]  # it asked for what comes behind what it had
    assert shown(page) == stored(served.entries(session_of(page)))


def test_offline_and_back(world: Any) -> None:
    served = world.serve(desk)
    watched = world.watch(served.url)
    watched.expect("net::ERR_INTERNET_DISCONNECTED")
    page = watched.page
    page.goto(served.url)
    under_way(page, served)
    page.context.set_offline(True)
    served.speak(60)
    page.get_by_role("textbox", name="Message", exact=True).fill("said offline")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("Reconnecting…")
    expect(page.locator(".turn").nth(1)).to_contain_text("said offline")
    page.context.set_offline(False)
    with served.speaking():
        expect(answers(page).nth(1)).to_contain_text("You said: said offline")
        is_whole(page)
        expect(page.locator("#notice")).to_be_empty()
        expect(page.locator(".turn").nth(1)).to_have_attribute("data-state", "finished")
    assert shown(page) == stored(served.entries(session_of(page)))


def test_a_message_that_is_refused_or_was_heard_twice(world: Any) -> None:
    """A server that is full is asked again, with the same id: one turn. What is refused stays in the box."""
    served = world.serve(desk)
    watched = world.watch(served.url)
    watched.expect("status of 503", "status of 422", "net::ERR_FAILED")
    page = watched.page
    page.goto(served.url)
    with served.speaking():
        say(page, "hello")
        expect(answers(page)).to_contain_text("You said: hello")
        ids: list[str] = []

        def once_lost(route: Any) -> None:
            ids.append(route.request.post_data_json["id"])
            if len(ids) == 1:
                route.fulfill(status=503, headers={"Retry-After": "0"}, json={"detail": "the server ends"})
            elif len(ids) == 2:
                route.fetch()  # the server has it, and its answer is lost
                route.abort()
            else:
                route.continue_()

        page.route("**/turns", once_lost)
        say(page, "again")
        expect(answers(page).nth(1)).to_contain_text("You said: again")
        expect(page.locator(".turn").nth(1)).to_have_attribute("data-state", "finished")
        assert len(ids) == 3
        assert len(set(ids)) == 1
        expect(page.locator(".turn")).to_have_count(2)
        page.unroute("**/turns")
        page.route("**/turns", lambda route: route.fulfill(status=422, json={"detail": "that is too long"}))
        say(page, "a draft")
        box = page.get_by_role("textbox", name="Message", exact=True)
        expect(page.locator("#composer-error")).to_have_text("Not sent: That is too long.")
        expect(box).to_have_value("a draft")
        page.reload()
        expect(box).to_have_value("a draft")
        page.unroute("**/turns")
        box.press("Enter")
        expect(answers(page).nth(2)).to_contain_text("You said: a draft")
        expect(page.locator(".turn").nth(2)).to_have_attribute("data-state", "finished")
    page.reload()
    expect(answers(page)).to_have_count(3)
    expect(box).to_have_value("")
    assert shown(page) == stored(served.entries(session_of(page)))


def test_a_token_is_asked_for_and_kept(world: Any) -> None:
    def authenticate(request: Any) -> str | None:
        return "ada" if request.headers.get("authorization") == "Bearer secret" else None

    served = world.serve(desk, authenticate=authenticate)
    watched = world.watch(served.url)
    watched.expect("status of 401")
    page = watched.page
    page.goto(served.url)
    for token in ("wrong", "secret"):
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("token")
        dialog.get_by_label("Token").fill(token)
        dialog.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("textbox", name="Message", exact=True)).to_be_focused()
    page.locator("#picker").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"hello"})
    with served.speaking():
        say(page, "hello")
        expect(answers(page)).to_contain_text("You said: hello")
        page.reload()
        expect(answers(page)).to_contain_text("You said: hello")
    with page.expect_download() as saved:
        page.get_by_role("button", name="a.txt").click()
    assert saved.value.path().read_bytes() == b"hello"
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_role("dialog")).to_contain_text("You are “ada”")


@contextmanager
def worker(*arguments: str, number: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.web.browser.worker", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, pass_fds=[number], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        yield process
    finally:
        process.kill()
        process.wait(ENOUGH)


@pytest.mark.parametrize("signal", ["kill", "terminate"])
def test_another_worker_goes_on(world: Any, signal: str) -> None:
    """The socket is the supervisor's, which outlives its workers, as that of a proxy does."""
    model = world.model(desk)
    listening = world.enter(socket.create_server(("127.0.0.1", 0)))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    talking = serving(model.engine, clock=model.clock, latency=model.latency)
    address = world.enter(model.portal.wrap_async_context_manager(talking))
    arguments = (world.store, str(listening.fileno()), address)
    watched = world.watch(url)
    watched.expect("net::ERR_", "status of 503")  # lines of the worker that has gone
    page = watched.page
    with worker(*arguments, number=listening.fileno()) as first:
        page.goto(url)
        under_way(page, model)
        getattr(first, signal)()
        first.wait(ENOUGH)
    with worker(*arguments, number=listening.fileno()):
        with model.speaking():
            expect(page.get_by_text("Restarted: the answer began anew")).to_be_visible()
            is_whole(page)
        assert session_of(page)
        page.reload()
        is_whole(page)
