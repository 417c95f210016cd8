"""What people do with the page: talk, decide, stop, edit, ask again, walk between branches."""

from __future__ import annotations

from typing import Any

import pytest

from sessions.simulator import Fault
from sessions.web import Agent
from tests.web.browser.scripts import WORDS, call, desk
from tests.web.browser.world import MODEL, answers, say, session_of, shown, stored

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect


def test_a_conversation_streams_and_is_shown_as_it_is_stored(world: Any) -> None:
    served = world.serve(desk)
    page = world.open(served)
    say(page, "please count")
    expect(page.locator(".working")).to_be_visible()
    served.speak(60)
    expect(page.locator(".growing")).to_contain_text("word5 ")
    paragraph = page.locator(".growing p").element_handle()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    served.speak(60)
    expect(page.locator(".growing")).to_contain_text("word20 ")
    # What is there is never drawn anew: the same text node has grown.
    assert paragraph.evaluate("one => one.isConnected && one.childNodes.length") == 1
    with served.speaking():
        expect(answers(page)).to_contain_text("word299")
        expect(page.locator(".turn")).to_have_attribute("data-state", "finished")
        say(page, "and hello")
        expect(answers(page).nth(1)).to_contain_text("You said: and hello")
        expect(page.locator(".cost .price")).to_have_count(2)
    assert shown(page) == stored(served.entries(session_of(page)))
    assert shown(page)[1] == ["assistant", WORDS]
    expect(page.locator("#conversations li")).to_have_count(1)
    expect(page.locator("#title")).to_have_text("please count")
    expect(page.locator("#total")).to_contain_text("$0.")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the answer").nth(1).click()
    expect(page.locator("#status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "You said: and hello"
    page.reload()
    expect(answers(page).nth(1)).to_contain_text("You said: and hello")
    assert shown(page) == stored(served.entries(session_of(page)))


def test_markdown_and_thoughts(world: Any) -> None:
    thinking = {"type": "adaptive", "display": "summarized"}
    served = world.serve(desk, agents=lambda tools: [Agent("helper", model=MODEL, max_tokens=4096, thinking=thinking)])
    page = world.open(served)
    with served.speaking():
        say(page, "how does the cache work?")
        expect(page.locator(".prose table")).to_be_visible()
        expect(page.locator(".prose pre")).to_contain_text("def price")
        thoughts = page.locator("details.thought")
        expect(thoughts.get_by_text("A table and some code")).to_be_hidden()
        thoughts.locator("summary").click()
        expect(thoughts.get_by_text("A table and some code")).to_be_visible()
        link = page.get_by_role("link", name="the documentation")
        expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")


def test_a_tool_tells_how_far_it_is_and_what_it_found(world: Any) -> None:
    served = world.serve(desk)
    page = world.open(served)
    with served.speaking():
        say(page, "what is the weather?")
        card = page.locator("details.tool")
        expect(card.locator(".state")).to_have_text("running…")
        served.tools.let_go()
        expect(card.locator(".hint")).to_have_text("reading its answer")
        card.locator("summary").click()
        expect(card.locator(".progress li")).to_have_text(["asking the station of Oslo", "reading its answer"])
        expect(card.get_by_label("Input of look_up")).to_contain_text('"city": "Oslo"')
        served.tools.let_go()
        expect(card.get_by_label("Result of look_up")).to_have_text("Oslo: 7 °C, light rain")
        expect(card.locator(".state")).to_have_text("done")
        expect(answers(page)).to_contain_text("The tool says: Oslo: 7 °C, light rain")
        say(page, "now fail")
        failed = page.locator("details.tool").nth(1)
        expect(failed.locator(".state")).to_have_text("failed")
        expect(page.locator(".cost .price")).to_have_count(2)
    assert shown(page) == stored(served.entries(session_of(page)))


def test_approve_with_another_input_and_deny_with_a_reason(world: Any) -> None:
    served = world.serve(desk)
    page = world.open(served)
    with served.speaking():
        say(page, "pay it")
        form = page.get_by_role("form", name="Approval of pay")
        expect(form).to_contain_text("pay needs your approval")
        expect(page.locator(".dot[data-state=waiting]")).to_be_visible()
        form.get_by_label("Input, which you may change").fill("{")
        form.get_by_role("button", name="Approve").click()
        expect(form.get_by_role("alert")).to_contain_text("must be a JSON object")
        form.get_by_label("Input, which you may change").fill('{"amount": 7}')
        form.get_by_role("button", name="Approve").click()
        expect(answers(page)).to_contain_text('and it ran with: {"amount":7}')
        expect(form).to_have_count(0)
        assert served.tools.paid == [7]

        say(page, "pay again")
        expect(form).to_be_visible()
        page.reload()
        form.get_by_label("Reason, if you deny").fill("too much")
        form.get_by_role("button", name="Deny").click()
        expect(answers(page).nth(1)).to_contain_text("too much")
        expect(page.locator("details.tool").nth(1).locator(".state")).to_have_text("failed")
        expect(page.locator(".dot")).to_have_count(0)
    assert served.tools.paid == [7]
    assert shown(page) == stored(served.entries(session_of(page)))


def test_stop_by_button_and_by_escape_keeps_what_there_is(world: Any) -> None:
    served = world.serve(desk)
    page = world.open(served)
    by_button, by_escape = page.get_by_role("button", name="Stop").click, lambda: page.keyboard.press("Escape")
    for number, stop in enumerate((by_button, by_escape)):
        say(page, "please count")
        served.speak(60)
        expect(page.locator(".growing")).to_contain_text("word5 ")
        stop()
        turn = page.locator(".turn").nth(number)
        expect(turn).to_have_attribute("data-state", "cancelled")
        expect(turn).to_contain_text("Stopped.")
        expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    assert shown(page) == stored(served.entries(session_of(page)))


def test_what_is_said_meanwhile_waits_or_interrupts(world: Any) -> None:
    served = world.serve(desk)
    page = world.open(served)
    say(page, "please count")
    served.speak(60)
    expect(page.locator(".growing")).to_contain_text("word5 ")
    say(page, "second")
    expect(page.locator(".turn").nth(1)).to_contain_text("Queued")
    with served.speaking():
        expect(answers(page).nth(1)).to_contain_text("You said: second")
    say(page, "please count")
    served.speak(60)
    expect(page.locator(".growing")).to_contain_text("word5 ")
    say(page, "third", "Control+Enter")
    expect(page.locator(".turn").nth(2)).to_contain_text("Stopped.")
    with served.speaking():
        expect(answers(page).nth(3)).to_contain_text("You said: third")
        expect(page.locator(".turn").nth(3)).to_have_attribute("data-state", "finished")
    expect(page.locator("#notice")).to_be_empty()
    assert shown(page) == stored(served.entries(session_of(page)))


def test_edit_ask_again_and_walk_between_the_branches(world: Any) -> None:
    count = iter(range(100))
    served = world.serve(lambda request: f"{request.text}: answer {next(count)}")
    page = world.open(served)
    with served.speaking():
        say(page, "one")
        expect(answers(page)).to_contain_text("one: answer 0")
        say(page, "two")
        expect(answers(page).nth(1)).to_contain_text("two: answer 1")
        main = session_of(page)

        page.get_by_role("button", name="Another answer").nth(1).click()
        expect(answers(page).nth(1)).to_contain_text("two: answer 2")
        words = page.get_by_role("group", name="Branches of your words")
        answer = page.get_by_role("group", name="Branches of the answer")
        expect(answer).to_have_text("2/2")
        expect(words).to_have_count(0)

        turn = page.locator(".turn").nth(1)
        turn.hover()
        turn.get_by_role("button", name="Edit").click()
        edit = page.get_by_role("textbox", name="Edit your words")
        expect(edit).to_be_focused()
        edit.fill("three")
        edit.press("Enter")
        expect(answers(page).nth(1)).to_contain_text("three: answer 3")
        expect(words).to_have_text("2/2")
        expect(answer).to_have_count(0)
        assert session_of(page) == main
        assert shown(page) == stored(served.entries(main))

        words.get_by_role("button", name="Previous branch").click()
        expect(answers(page).nth(1)).to_contain_text("two: answer 2")
        expect(words).to_have_text("1/2")
        expect(answer).to_have_text("2/2")
        assert session_of(page) != main
        assert shown(page) == stored(served.entries(session_of(page)))
        answer.get_by_role("button", name="Previous branch").click()
        expect(answers(page).nth(1)).to_contain_text("two: answer 1")
        expect(answer).to_have_text("1/2")
        expect(answer.get_by_role("button", name="Previous branch")).to_be_disabled()
        expect(answer.get_by_role("button", name="Next branch")).to_be_focused()
        say(page, "more")
        expect(answers(page).nth(2)).to_contain_text("more: answer 4")
        words.get_by_role("button", name="Next branch").click()
        expect(answers(page).nth(1)).to_contain_text("three: answer 3")
        assert session_of(page) == main
        expect(page.locator("#conversations li")).to_have_count(1)

        page.get_by_role("button", name="Branch here").first.click()
        expect(page.locator(".turn")).to_have_count(1)
        expect(page.get_by_role("link", name="branch of another conversation")).to_be_visible()
        assert session_of(page) != main


def test_an_interrupted_answer_goes_on(world: Any) -> None:
    broken = Fault("status", status=529)
    served = world.serve(lambda request: broken if request.index == 1 else f"answer {request.index}")
    page = world.open(served)
    with served.speaking():
        say(page, "one")
        expect(answers(page)).to_contain_text("answer 0")
        say(page, "two")
        turn = page.locator(".turn").nth(1)
        expect(turn).to_contain_text("The answer was interrupted.")
        expect(page.locator(".dot[data-state=interrupted]")).to_be_visible()
        turn.get_by_role("button", name="Go on").click()
        expect(turn).to_contain_text("answer 2")
        expect(turn).to_have_attribute("data-state", "finished")
    assert shown(page) == stored(served.entries(session_of(page)))


def test_a_result_that_the_program_brings(world: Any) -> None:
    theirs = {"name": "fetch", "input_schema": {"type": "object", "properties": {"id": {"type": "integer"}}}}
    served = world.serve(
        lambda request: (
            f"It is {request.results[0]['content']}" if request.results else call("fetch", "I fetch it.", id=7)
        ),
        agents=lambda tools: [Agent("helper", model=MODEL, tools=[theirs])],
    )
    page = world.open(served)
    with served.speaking():
        say(page, "fetch it")
        expect(page.locator(".tool-card")).to_contain_text("The program that runs this conversation brings the result")

        async def bring() -> None:
            session = await served.manager.open(session_of(page), tools=[theirs])
            (waits,) = session.pending
            await session.begin([{"type": "tool_result", "tool_use_id": waits.tool_use_id, "content": "seven"}])

        served.portal.call(bring)
        page.evaluate("window.dispatchEvent(new Event('focus'))")
        # While it comes it stands by itself; what is stored is one answer.
        expect(answers(page).last).to_contain_text("It is seven")
        expect(page.locator(".tool-card .note")).to_have_count(0)
        expect(answers(page)).to_have_count(1)


def test_a_long_list_is_read_on(world: Any) -> None:
    served = world.serve(desk)

    async def fill() -> None:
        mine = served.manager.for_owner("local")
        for number in range(45):
            await mine.create(model=MODEL, max_tokens=1024, title=f"number {number}", metadata={"agent": "helper"})

    page = world.open(served)
    expect(page.locator("#empty")).to_have_text("No conversations yet")
    served.portal.call(fill)
    page.reload()
    rows = page.locator("#conversations li")
    expect(rows).to_have_count(40)
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(45)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    expect(rows.first).to_contain_text("number 44")
    rows.last.get_by_role("link").click()
    expect(page.locator("#title")).to_have_text("number 0")


def test_find_rename_and_delete(world: Any) -> None:
    served = world.serve(desk)
    page = world.open(served)
    rows = page.locator("#conversations li")
    with served.speaking():
        for number, words in enumerate(("about apples", "about pears", "about plums")):
            page.get_by_role("link", name="New conversation").click()
            say(page, words)
            expect(page.locator(".cost .price")).to_have_count(1)
            expect(rows).to_have_count(number + 1)
    page.keyboard.press("Escape")
    page.locator("body").click(position={"x": 600, "y": 20})
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("pears")
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Rename or delete “about pears”").click()
    page.get_by_role("button", name="Rename", exact=True).click()
    page.get_by_label("Title").fill("All about pears")
    page.get_by_role("button", name="Save").click()
    expect(rows).to_contain_text(["All about pears"])
    page.get_by_role("searchbox").fill("")
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Rename or delete “about plums”").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("“about plums” and its answers are deleted for good")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Rename or delete “about plums”").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    dialog.get_by_role("button", name="Delete").click()
    expect(rows).to_have_count(2)
    expect(page.locator("#title")).to_have_text("New conversation")
    rows.filter(has_text="apples").get_by_role("link").click()
    expect(page.locator("#title")).to_have_text("about apples")
    page.go_back()
    expect(page.locator("#title")).to_have_text("New conversation")
