"""Front ends of other projects, unmodified, in a real browser and in Node, against the service under uvicorn.

`.ci/run` puts their packages into `build/clients`; `WARMLINE_CLIENTS` names another folder that holds `node_modules`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "clients"
FOLDER = Path(os.environ.get("WARMLINE_CLIENTS", ROOT / "build" / "clients"))
MODULES = FOLDER / "node_modules"
BUNDLER = MODULES / ".bin" / "esbuild"
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
ENOUGH = 20_000
"""Milliseconds that a busy machine may take for what takes hardly any."""

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here"),
    pytest.mark.skipif(not BUNDLER.exists(), reason="the clients are not installed: .ci/run says how"),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients, each in one file."""
    folder = tmp_path_factory.mktemp("clients")
    sources = [SOURCES / "use_chat.jsx", SOURCES / "assistant_ui.jsx"]
    for platform, entries in (("browser", sources), ("node", [SOURCES / "ag_ui.mjs"])):
        options = [f"--platform={platform}", "--bundle", "--format=esm", "--jsx=automatic", f"--outdir={folder}"]
        options += ['--define:process.env.NODE_ENV="production"', "--log-level=error"]
        if platform == "node":
            options += ["--out-extension:.js=.mjs"]
        subprocess.run(
            [BUNDLER, *entries, *options], check=True, timeout=120, env={**os.environ, "NODE_PATH": str(MODULES)}
        )
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, scripts: Path) -> Iterator[str]:
    """The address of the service."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store') / 'a.db'}"
    command = [sys.executable, "-m", "tests.web.clients.server", store, str(scripts)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://localhost:{int(process.stdout.readline())}"
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tabs(browser: Any) -> Iterator[Callable[[str], Any]]:
    """Opens pages of one person, which must run without an error."""
    errors: list[str] = []
    context = browser.new_context()
    context.set_default_timeout(ENOUGH)
    pages = []

    def tab(url: str) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(url)
        pages.append(page)
        return page

    yield tab
    assert [page.evaluate("window.failures") for page in pages] == [[] for _ in pages]
    context.close()
    assert errors == []


# -- useChat --


def say(page: Any, text: str, **given: Any) -> None:
    """Sends words, without waiting for the answer."""
    page.wait_for_function("window.chat")
    page.evaluate("message => void window.chat.sendMessage(message)", {"text": text, **given})


def ready(page: Any) -> list[dict[str, Any]]:
    """The messages that the page shows, when its answer has ended: they are those that are stored."""
    page.wait_for_selector("main[data-status=ready]")
    shown, stored = page.evaluate("window.chat.messages"), page.evaluate("window.stored()")
    assert [plain(message) for message in shown] == [plain(message) for message in stored]
    return list(shown)


def plain(message: dict[str, Any]) -> dict[str, Any]:
    """A message without what only the page that decided remembers, and without what is not set."""
    parts = [
        {name: value for name, value in part.items() if value is not None and name not in ("approval", "rawInput")}
        if part.get("state") != "approval-requested"
        else {name: value for name, value in part.items() if value is not None and name != "rawInput"}
        for part in message["parts"]
    ]
    return {"id": message["id"], "role": message["role"], "parts": parts, "metadata": message.get("metadata")}


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [part["text"] for message in messages for part in message["parts"] if part["type"] == "text"]


@pytest.fixture
def pace(place: str) -> Iterator[Callable[[str], None]]:
    """Sets the pace of the model: slow, or fast."""

    def at(name: str) -> None:
        with urlopen(Request(f"{place}/model/{name}", method="POST"), timeout=20):
            pass

    yield at
    at("fast")


def coming(page: Any) -> None:
    """Waits until some of a long answer is shown."""
    page.wait_for_function(
        "(document.querySelector('article:last-child[data-role=assistant]')?.innerText.length ?? 0) > 20"
    )


def test_use_chat_says_and_uses_tools(place: str, tabs: Callable[[str], Any]) -> None:
    page = tabs(f"{place}/page/use_chat?chat=tools")
    say(page, "look at Rome")
    page.wait_for_selector("text=sunny in Rome")
    page.wait_for_selector("text=It is done.")
    messages = ready(page)
    tool = next(part for part in messages[1]["parts"] if part["type"] == "dynamic-tool")
    assert (tool["toolName"], tool["input"], tool["output"]) == ("look", {"place": "Rome"}, "sunny in Rome")
    assert [part["text"] for part in messages[1]["parts"] if part["type"] == "reasoning"] == ["Where?", "So it is."]
    assert float(messages[1]["metadata"]["cost"]) > 0
    page.reload()
    assert ready(page) == page.evaluate("window.stored()")


def test_use_chat_comes_back_in_mid_answer_and_a_second_tab_reads_along(
    place: str, tabs: Callable[[str], Any], pace: Callable[[str], None]
) -> None:
    pace("slow")
    page = tabs(f"{place}/page/use_chat?chat=back")
    say(page, "long")
    coming(page)
    page.reload()
    coming(page)
    other = tabs(f"{place}/page/use_chat?chat=back")
    coming(other)
    for each in (page, other):
        assert each.get_attribute("main", "data-status") == "streaming"
    pace("fast")
    messages = ready(page)
    assert ready(other) == messages
    assert texts(messages)[1].endswith("word long")
    assert page.locator("article").count() == other.locator("article").count() == 2


def test_use_chat_stops_and_says_something_else(
    place: str, tabs: Callable[[str], Any], pace: Callable[[str], None]
) -> None:
    pace("slow")
    page = tabs(f"{place}/page/use_chat?chat=stop")
    say(page, "long")
    coming(page)
    other = tabs(f"{place}/page/use_chat?chat=stop")
    coming(other)
    page.evaluate("Promise.all([window.stopTurn(), window.chat.stop()])")
    messages = ready(other)
    pace("fast")
    assert messages[1]["metadata"]["state"] == "cancelled"
    assert 20 < len(texts(messages)[1]) < 5000
    page.reload()
    assert texts(ready(page)) == texts(messages)
    say(page, "short")
    page.wait_for_selector("text=You said: short")
    assert len(ready(page)) == 4


def test_use_chat_edits_and_asks_again(place: str, tabs: Callable[[str], Any]) -> None:
    page = tabs(f"{place}/page/use_chat?chat=edit")
    for text in ("one", "two"):
        say(page, text)
        page.wait_for_selector(f"text=You said: {text}")
        messages = ready(page)
    say(page, "three", messageId=messages[0]["id"])
    page.wait_for_selector("text=You said: three")
    edited = ready(page)
    assert texts(edited) == ["three", "You said: three"]
    assert edited[0]["id"] == messages[0]["id"]
    page.evaluate("void window.chat.regenerate()")
    page.wait_for_function("id => window.chat.messages[1] && window.chat.messages[1].id !== id", arg=edited[1]["id"])
    again = ready(page)
    assert texts(again) == texts(edited)
    page.reload()
    messages = ready(page)
    assert [message["id"] for message in messages] == [message["id"] for message in again]
    say(page, "four", messageId=messages[0]["id"])
    page.wait_for_selector("text=You said: four")
    assert texts(ready(page)) == ["four", "You said: four"]


@pytest.mark.parametrize("approved", [True, False])
def test_use_chat_decides(place: str, tabs: Callable[[str], Any], approved: bool) -> None:
    page = tabs(f"{place}/page/use_chat?chat=pay{approved}")
    say(page, "pay")
    page.wait_for_function("window.chat.messages[1]?.parts.some(part => part.state === 'approval-requested')")
    asked = ready(page)
    page.reload()
    assert [plain(message) for message in ready(page)] == [plain(message) for message in asked]
    page.evaluate(
        "approved => { const part = window.chat.messages[1].parts.find(part => part.approval);"
        "window.chat.addToolApprovalResponse({ id: part.approval.id, approved, reason: 'I say so' }); }",
        approved,
    )
    page.wait_for_selector("text=It is done.")
    messages = ready(page)
    tool = next(part for part in messages[1]["parts"] if part["type"] == "dynamic-tool")
    if approved:
        assert (tool["state"], tool["output"]) == ("output-available", "paid 3")
    else:
        assert tool["state"] == "output-error"
        assert "I say so" in tool["errorText"]
    assert len(messages) == 2


# -- assistant-ui --


def test_assistant_ui_speaks_the_same_protocol(place: str, tabs: Callable[[str], Any]) -> None:
    page = tabs(f"{place}/page/assistant_ui")
    page.get_by_placeholder("Say something").fill("look at Rome")
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector("[data-tool=look]:has-text('sunny in Rome')")
    page.wait_for_selector("[data-role=assistant]:has-text('It is done.')")
    with page.expect_request(lambda request: request.method == "POST") as asked:
        page.get_by_role("button", name="Again").click()
    assert asked.value.post_data_json["trigger"] == "regenerate-message"
    page.wait_for_selector("[data-role=assistant]:has-text('It is done.')")
    page.get_by_placeholder("Say something").fill("and then?")
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector("[data-role=assistant]:has-text('You said: and then?')")
    chat = asked.value.post_data_json["id"]
    stored = page.evaluate("path => fetch(path).then(found => found.json())", f"/chat/ai-sdk/helper/{chat}/messages")
    assert texts(stored)[0] == "look at Rome"
    assert texts(stored)[-2:] == ["and then?", "You said: and then?"]


# -- AG-UI --


def test_the_agent_of_ag_ui_finds_no_fault(place: str, scripts: Path) -> None:
    command = ["node", str(scripts / "ag_ui.mjs"), f"{place}/chat/ag-ui/helper"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    runs = [json.loads(line) for line in found.stdout.splitlines()]
    looked, again, said, asked, paid, twice, denied, declined = runs
    for run in runs:
        assert run["failure"] is None, run
        assert run["warnings"] == [], run
        assert (run["events"][0], run["events"][-1]) == ("RUN_STARTED", "RUN_FINISHED")
    contents = [[message.get("content") for message in run["messages"]] for run in (looked, again)]
    assert contents[0][-1] == contents[1][-1] == "It is done."
    assert [text for text in contents[1] if text in contents[0]] == contents[1]
    assert {"REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS", "TOOL_CALL_RESULT", "CUSTOM"} <= {*looked["events"]}
    roles = [message["role"] for message in looked["messages"]]
    assert roles == ["user", "reasoning", "assistant", "tool", "reasoning", "assistant"]
    assert said["messages"][-1]["content"].startswith("You said: and then?")
    (interrupt,) = asked["pending"]
    assert interrupt["metadata"] == {"name": "pay", "input": {"amount": 3}}
    assert paid["pending"] == []
    assert [message["content"] for message in paid["messages"] if message["role"] == "tool"][-1] == "paid 3"
    assert len(twice["pending"]) == 2
    assert all("denied" in message["content"] for message in denied["messages"][-3:-1] if message["role"] == "tool")
    assert "MESSAGES_SNAPSHOT" in declined["events"]
    assert "rather" not in json.dumps(declined["messages"])


def test_the_service_answers_from_where_it_is_mounted(place: str) -> None:
    with urlopen(Request(f"{place}/chat/ready"), timeout=20) as response:
        assert response.status == 200
