"""Markdown and HTML that wants to run, or to send something out, wherever others may write: nothing of it does.

That no request leaves and that the policy is not even asked is what each page's watch checks in the end.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from sessions import ToolContext, tool
from sessions.simulator import Request, Scripted
from sessions.web import Agent
from tests.web.browser.scripts import call
from tests.web.browser.world import MODEL, answers, say

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect

HOSTILE = """<script>window.__pwned = 1</script>
<img src=x onerror="window.__pwned = 2">
<svg onload="window.__pwned = 3"><script>window.__pwned = 4</script></svg>
<iframe srcdoc="<script>parent.__pwned = 5</script>"></iframe>
<style>@import url(https://evil.example/a.css); body { background: url(https://evil.example/b.png) }</style>
<base href="https://evil.example/"><meta http-equiv="refresh" content="0;url=https://evil.example/">
<form action="https://evil.example/"><button autofocus onfocus="window.__pwned = 6">Approve</button></form>
<details open ontoggle="window.__pwned = 7">a</details>
<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.__pwned=8&gt;">

![out](https://evil.example/out.png) ![data](data:image/svg+xml,<svg onload='parent.__pwned=9'>)
[script](javascript:window.__pwned=10) [coded](&#106;avascript:window.__pwned=11) [upper](JaVaScRiPt:window.__pwned=12)
[data](data:text/html,<script>opener.__pwned=13</script>) [file](file:///etc/passwd) <javascript:window.__pwned=14>
[title](https://example.com "x' onmouseover='window.__pwned=15") [ref][evil]

[evil]: javascript:window.__pwned=16

| a | b |
|:-:|--:|
| <img src=x onerror=window.__pwned=17> | `<b>` |

```"><script>window.__pwned=18</script>
</code></pre><script>window.__pwned=19</script>
```

<b>the end</b>"""
NAME = "\"><img src=x onerror='window.__pwned=20'>.txt"
INPUT = {"city": "</textarea><script>window.__pwned=21</script>", "<img src=x onerror=window.__pwned=22>": HOSTILE}
GIVEN = json.dumps(INPUT, indent=2, ensure_ascii=False)


def script(request: Request) -> Scripted:
    if request.results:
        return Scripted(HOSTILE, thinking=HOSTILE)
    name = "ask" if "ask" in request.text else "look"
    return call(name, HOSTILE, **INPUT) if "tool" in request.text else Scripted(HOSTILE, thinking=HOSTILE)


def tools() -> list[Any]:
    @tool
    async def look(context: ToolContext, **given: Any) -> str:
        """Looks."""
        context.progress(HOSTILE)
        return HOSTILE

    async def ask(**given: Any) -> str:
        """Asks."""
        raise RuntimeError(HOSTILE)

    return [look, tool(ask, name="ask", needs_approval=True)]


def look_around(page: Any) -> None:
    """Unfolds all that is folded, points at all that others have written, and finds nothing but text in it."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    schemes = page.evaluate("[...document.querySelectorAll('.prose a')].map((one) => one.protocol)")
    assert set(schemes) <= {"https:", "http:", "mailto:"}, schemes
    ours = "form:not(.approval, dialog > form), img:not(.picture)"
    forbidden = f"script, iframe, object, embed, style, base, meta, [style], {ours}"
    inside = [page.locator(f"{place} :is({forbidden})") for place in (".turn", "#conversations", "header", "dialog")]
    for found in inside:
        expect(found).to_have_count(0)
    handlers = """[...document.querySelectorAll('*')].filter((one) =>
        [...one.attributes].some((attribute) => attribute.name.startsWith('on'))).length"""
    assert page.evaluate(handlers) == 0
    point = "(one) => { for (const type of ['mouseover', 'focus', 'toggle']) one.dispatchEvent(new Event(type)) }"
    page.evaluate(f"document.querySelectorAll('.turn *').forEach({point})")


def test_words_answers_tools_titles_and_file_names_stay_text(world: Any) -> None:
    agent = Agent("helper", model=MODEL, max_tokens=8192, tools=tools(), description=HOSTILE,
                  thinking={"type": "adaptive", "display": "summarized"})  # fmt: skip
    other = Agent("other", model=MODEL, description=HOSTILE)
    served = world.serve(script, agents=lambda tools: [agent, other])
    page = world.open(served)
    page.locator("#picker").set_input_files({"name": NAME, "mimeType": "text/plain", "buffer": HOSTILE.encode()})
    expect(page.locator("#chips")).to_contain_text(NAME)
    with served.speaking():
        say(page, HOSTILE)
        expect(answers(page)).to_contain_text("the end")
        expect(page.locator(".cost .price")).to_have_count(1)
        say(page, "use the tool")
        expect(page.locator(".cost .price")).to_have_count(2)
        say(page, "tool, ask me")
        form = page.get_by_role("form", name="Approval of ask")
        expect(form).to_be_visible()
        expect(form.get_by_label("Input, which you may change")).to_have_value(GIVEN)
        look_around(page)
        form.get_by_label("Reason, if you deny").fill(HOSTILE.replace("\n", " "))
        form.get_by_role("button", name="Deny").click()
        expect(page.locator(".turn").nth(2)).to_have_attribute("data-state", "finished")
    page.get_by_role("button", name="Rename this conversation").click()
    page.get_by_role("dialog").get_by_label("Title").fill(HOSTILE.replace("\n", " ")[:480])
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#title")).to_contain_text("<script>")
    look_around(page)
    page.reload()
    expect(answers(page)).to_have_count(3)
    look_around(page)
    page.get_by_role("button", name="Rename or delete").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    look_around(page)
    page.get_by_role("button", name="Cancel").click()
    page.goto(served.url + "#/spend")
    expect(page.get_by_text("Misses by cause")).to_be_visible()
    page.get_by_role("button", name="Agent").click()
    look_around(page)


def test_an_address_is_no_way_in(world: Any) -> None:
    served = world.serve(script)
    watched = world.watch(served.url)
    watched.expect("status of 404")
    page = watched.page
    for path in (
        "#/c/%3Cimg%20src=x%20onerror=window.__pwned=1%3E",
        "#/c/..%2F..%2Fapi%2Fconfig",
        "#/c/%E0%A4%A",
        "#/x",
    ):
        page.goto(served.url + path)
        expect(page.get_by_role("textbox", name="Message", exact=True)).to_be_visible()
        page.reload()
        expect(page.locator("#simulated")).to_be_visible()
