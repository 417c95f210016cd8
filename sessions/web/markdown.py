"""Markdown as HTML that is safe to show: rendered without raw HTML, then cleaned, with no images and no foreign styles.

No image is ever loaded: the address of one is how an answer that somebody has tampered with sends words out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import nh3
from anyio import CapacityLimiter
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token

_TAGS = frozenset(
    [
        *("a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p"),
        *("pre", "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
    ]
)
_ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "code": {"class"}, "td": {"align"}, "th": {"align"}}
_SCHEMES = frozenset({"http", "https", "mailto"})
_ADDRESSES = ("http://", "https://", "mailto:")
_LANGUAGE = re.compile(r"language-[\w+#.-]{1,40}", re.ASCII)
_REL = "noopener noreferrer nofollow"
LONGEST = 50_000
"""Characters of a text that is rendered; a longer one is shown as it is. Brackets alone take some 60 µs each."""
QUICK = 1_000
"""Characters of a text that is rendered at once; longer ones are a thread's work, while others go on."""
RENDERING = CapacityLimiter(2)
"""Texts that are rendered by threads at the same time."""
_KEPT = 128
"""Texts whose HTML is kept: each is shown when its block ends, when it is stored, and to everybody who follows."""


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
    for cell in ("th_open", "td_open"):
        parser.add_render_rule(cell, _aligned)
    return parser.disable("image")


def _aligned(renderer: RendererProtocol, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    """A cell of a table, which is aligned by an attribute: the page's policy knows no styles of elements."""
    token = tokens[place]
    style = str(token.attrGet("style") or "")
    return f'<{token.tag} align="{style.removeprefix("text-align:")}">' if style else f"<{token.tag}>"


def _checked(tag: str, name: str, value: str) -> str | None:
    """A link leads elsewhere by its whole address; a code block keeps the name of its language and nothing else."""
    if tag == "a" and name == "href":
        return value if value.lower().startswith(_ADDRESSES) else None
    if tag == "code" and name == "class" and not _LANGUAGE.fullmatch(value):
        return None
    return value


def html_of(text: str) -> str | None:
    """The HTML of a text; `None` where it is too long to be rendered."""
    return None if len(text) > LONGEST else _rendered(text)


@lru_cache(maxsize=_KEPT)
def _rendered(text: str) -> str:
    return nh3.clean(
        _parser().render(text),
        tags=set(_TAGS),
        attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        attribute_filter=_checked,
        url_schemes=set(_SCHEMES),
        set_tag_attribute_values={"a": {"target": "_blank"}},
        link_rel=_REL,
        strip_comments=True,
    )
