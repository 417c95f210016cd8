"""Files that users bring: by button, by drop and by paste; what is refused, and what is seen again later."""

from __future__ import annotations

from typing import Any

import pytest

from sessions.web import Limits
from tests.web.browser.scripts import desk
from tests.web.browser.world import png, session_of

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect


def file(name: str, kind: str, data: bytes) -> Any:
    return {"name": name, "mimeType": kind, "buffer": data}


PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n%%EOF\n"
GIVE = """({ name, kind, data, type, place }) => {
    const carried = new DataTransfer();
    carried.items.add(new File([Uint8Array.from(data)], name, { type: kind }));
    const given = type === 'paste'
        ? new ClipboardEvent(type, { clipboardData: carried, bubbles: true, cancelable: true })
        : new DragEvent(type, { dataTransfer: carried, bubbles: true, cancelable: true });
    document.querySelector(place).dispatchEvent(given);
}"""


def test_pictures_pdf_and_text_are_sent_and_seen_again(world: Any) -> None:
    served = world.serve(desk)
    page = world.open(served)
    page.locator("#picker").set_input_files(
        [
            file("wide.png", "image/png", png(2000, 500)),
            file("paper.pdf", "application/pdf", PDF),
            file("notes.py", "text/x-python", b"print('hello')\n"),
        ]
    )
    chips = page.locator("#chips li")
    expect(chips).to_have_count(3)
    page.evaluate(GIVE, {"name": "d.txt", "kind": "text/plain", "data": [100], "type": "drop", "place": "#main"})
    expect(chips).to_have_count(4)
    page.evaluate(GIVE, {"name": "p.txt", "kind": "text/plain", "data": [112], "type": "paste", "place": "#words"})
    expect(chips).to_have_count(5)
    page.get_by_role("button", name="Remove p.txt").click()
    expect(chips).to_have_count(4)
    with served.speaking():
        page.keyboard.type("what is this?")
        page.keyboard.press("Enter")
        expect(page.locator(".cost .price")).to_be_visible()
    expect(chips).to_have_count(0)
    content = served.entries(session_of(page))[0].content
    assert [block["type"] for block in content] == ["image", "document", "document", "document", "text"]
    assert [block.get("title") for block in content[1:4]] == ["paper.pdf", "notes.py", "d.txt"]
    page.reload()
    picture = page.get_by_role("img", name="Picture")
    expect(picture).to_be_visible()
    # Not by an expression in the page: its policy lets none be evaluated.
    expect(page.locator("img.picture").first).not_to_have_js_property("naturalWidth", 0)
    # Made smaller in the browser, to what the API looks at.
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [1568, 392]
    with page.expect_download() as saved:
        page.get_by_role("button", name="paper.pdf").click()
    assert saved.value.suggested_filename == "paper.pdf"
    assert saved.value.path().read_bytes() == PDF
    with page.expect_download() as saved:
        page.get_by_role("button", name="notes.py").click()
    assert saved.value.path().read_bytes() == b"print('hello')\n"

    # Other words to the same files.
    with served.speaking():
        page.locator(".turn").hover()
        page.get_by_role("button", name="Edit", exact=True).click()
        page.get_by_role("textbox", name="Edit your words").fill("and this?")
        page.keyboard.press("Enter")
        expect(page.locator(".answer")).to_contain_text("You said: and this?")
        expect(page.locator(".turn")).to_have_attribute("data-state", "finished")
    assert served.entries(session_of(page))[0].content[:4] == content[:4]


def test_what_cannot_be_sent_is_refused_with_a_reason(world: Any) -> None:
    served = world.serve(desk, limits=Limits(body_bytes=1_000_000))
    page = world.open(served)
    error, chips = page.locator("#composer-error"), page.locator("#chips li")
    program = b"MZ\x90\x00" + bytes(range(256))
    for given, said in (
        (file("setup.exe", "application/x-msdownload", program), "“setup.exe” cannot be sent"),
        (file("false.pdf", "application/pdf", b"hello"), "“false.pdf” is no PDF"),
        (file("false.png", "image/png", b"hello"), "“false.png” is no picture"),
        (file("empty.txt", "text/plain", b""), "“empty.txt” is empty"),
        (file("huge.pdf", "application/pdf", b"%PDF-" + bytes(800_000)), "“huge.pdf” is too large (800 kB)"),
    ):
        page.locator("#picker").set_input_files(given)
        expect(error).to_contain_text(said)
        expect(chips).to_have_count(0)
    two = [file(f"{name}.pdf", "application/pdf", b"%PDF-" + bytes(400_000)) for name in ("one", "two")]
    page.locator("#picker").set_input_files(two)
    expect(error).to_contain_text("too large together (796 kB)")
    expect(chips).to_have_count(1)
