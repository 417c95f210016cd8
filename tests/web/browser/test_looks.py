"""How the page looks, and to whom: every view in light and dark, on a phone, for a keyboard, for a screen reader."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from sessions.web import Agent
from tests.web.browser.scripts import desk
from tests.web.browser.world import AXE, MODEL, PICTURES, answers, png, say, shown

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect
WRONG = """async () => (await axe.run(document, { resultTypes: ['violations'] })).violations
    .filter((one) => ['serious', 'critical'].includes(one.impact))
    .map((one) => [one.id, one.nodes.map((node) => [node.target.join(' '), node.any.map((why) => why.message)])])"""


def seen(page: Any, name: str) -> None:
    """A picture of a view, light and dark, in which axe finds nothing serious."""
    for colours in ("light", "dark"):
        page.emulate_media(color_scheme=colours)
        page.screenshot(path=PICTURES / f"{name}-{colours}.png")
        if AXE.exists():
            page.evaluate(AXE.read_text())
            wrong = page.evaluate(WRONG)
            assert not wrong, (name, colours, wrong)
    page.emulate_media(color_scheme="light")
    expect(page.locator("html")).to_have_attribute("data-theme", "auto")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def agents(tools: list[Any]) -> list[Agent]:
    thinking = {"type": "adaptive", "display": "summarized"}
    system = "You work at the desk of a company. Be brief, be kind, and say what you do not know. " * 200
    return [
        Agent("helper", model=MODEL, description="Answers questions", tools=tools, thinking=thinking, system=system),
        Agent("writer", model=MODEL, description="Writes letters"),
    ]


def send(page: Any, text: str) -> None:
    """By the button: on a phone the Enter key begins a new line."""
    page.get_by_role("textbox", name="Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def furnish(page: Any, served: Any) -> None:
    """A conversation with words, a picture, thoughts, code, a tool, and an approval that is open."""
    page.locator("#picker").set_input_files(
        [
            {"name": "chart.png", "mimeType": "image/png", "buffer": png(320, 180)},
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"},
        ]
    )
    with served.speaking():
        send(page, "How does the prompt cache work, and what does it cost?")
        expect(page.locator(".cost .price")).to_have_count(1)
        send(page, "What is the weather like in Oslo?")
        expect(page.locator("details.tool .state")).to_have_text("running…")
        served.tools.let_go()
        expect(page.locator("details.tool .hint")).to_have_text("reading its answer")
        served.tools.let_go()
        expect(page.locator(".cost .price")).to_have_count(2)
        send(page, "Please pay the invoice of 120.50")
        expect(page.get_by_role("button", name="Approve")).to_be_visible()


@pytest.mark.parametrize("width", [1180, 390])
def test_every_view(world: Any, width: int) -> None:
    served = world.serve(desk, agents=agents, is_operator=lambda owner: True)
    size = {"width": width, "height": 860}
    page = world.open(served, viewport=size, has_touch=width < 500)
    kind = "phone" if width < 500 else "desk"
    expect(page.get_by_role("radio", name="helper")).to_be_checked()
    seen(page, f"{kind}-new")
    furnish(page, served)
    seen(page, f"{kind}-approval")
    page.locator("#scroller").evaluate("place => { place.scrollTop = 0 }")
    expect(page.get_by_role("button", name="To the newest words")).to_be_visible()
    page.locator("details.thought summary").first.click()
    page.locator("details.tool summary").first.click()
    expect(page.get_by_text("% from cache").nth(1)).not_to_have_text("0 % from cache")
    seen(page, f"{kind}-answer")
    page.locator(".words").first.hover()
    page.get_by_role("button", name="Edit", exact=True).first.click()
    seen(page, f"{kind}-edit")
    page.keyboard.press("Escape")
    if width < 500:
        page.get_by_role("button", name="Conversations").click()
        expect(page.get_by_role("button", name="Close the list")).to_be_focused()
        seen(page, f"{kind}-list")
    page.get_by_role("button", name="Settings").click()
    seen(page, f"{kind}-settings")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Spend").click()
    expect(page.get_by_text("Spend by day")).to_be_visible()
    expect(page.get_by_role("columnheader", name="Hit rate")).to_be_visible()
    seen(page, f"{kind}-spend")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").click()
    assert saved.value.suggested_filename == "spend-by-day.csv"
    for name in ("Owner", "Model", "Agent", "Kind"):
        page.get_by_role("group", name="Spend by").get_by_role("button", name=name).click()
        expect(page.get_by_role("heading", name=f"Spend by {name.lower()}")).to_be_visible()
    expect(page.get_by_label("Owner", exact=True)).to_have_value("")
    if not AXE.exists():
        pytest.skip("all views were looked at, but not by axe: npm install --prefix build/axe axe-core@4.14.1")


def test_by_keyboard_alone(world: Any) -> None:
    served = world.serve(desk)
    page = world.open(served)
    box = page.get_by_role("textbox", name="Message", exact=True)
    expect(box).to_be_focused()
    with served.speaking():
        page.keyboard.type("one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        page.keyboard.press("Enter")
        expect(answers(page)).to_contain_text("You said: one\ntwo")
        expect(page.locator(".cost .price")).to_be_visible()
        page.keyboard.press("ArrowUp")
        expect(page.get_by_role("textbox", name="Edit your words")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Edit", exact=True)).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Control+A")
        page.keyboard.type("pay it")
        page.keyboard.press("Enter")
        approve = page.get_by_role("button", name="Approve")
        expect(approve).to_be_visible()
        for _ in range(40):
            page.keyboard.press("Tab")
            if approve.evaluate("one => one === document.activeElement"):
                break
        expect(approve).to_be_focused()
        page.keyboard.press("Enter")
        expect(answers(page)).to_contain_text("The tool says: paid 120.5")
        expect(page.locator(".turn")).to_have_attribute("data-state", "finished")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#conversations a")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Rename", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Title")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("Paid")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("Paid")
    # A dialog gives the focus back.
    expect(page.get_by_role("button", name="Rename or delete “Paid”")).to_be_visible()


def test_below_a_path_of_another_application(world: Any) -> None:
    """Everything the page asks for is relative to where it is."""

    def mounted(app: Any) -> Any:
        return Starlette(routes=[Mount("/tools/chat", app=app)], lifespan=lambda _: app.router.lifespan_context(app))

    served = world.serve(desk, wrap=mounted)
    page = world.open(served, "tools/chat/")
    with served.speaking():
        say(page, "hello")
        expect(answers(page)).to_contain_text("You said: hello")
        expect(page.locator(".cost .price")).to_be_visible()
    page.reload()
    expect(answers(page)).to_contain_text("You said: hello")
    assert shown(page)[0] == ["user", "hello"]
    assert "/tools/chat/#/c/" in page.url
