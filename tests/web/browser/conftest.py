"""The page in a real browser: one for all tests here, a context and a back end of its own for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.web.browser.world import ENOUGH, Model, Served, Watched, chromium, is_ready

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium. Of one module: its loop must not run while tests with loops of their own do."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (group browser)")
    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium on this system")
    playwright.expect.set_options(timeout=ENOUGH * 1000)
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


class World:
    """`serve(script)` starts a back end; `open(served)` a page of it. All are watched, and closed in the end."""

    def __init__(self, browser: Browser, portal: BlockingPortal, folder: Path, stack: ExitStack) -> None:
        self._browser, self._portal, self._stack = browser, portal, stack
        self.store = f"sqlite:///{folder}/chat.db"
        self._watched: list[Watched] = []

    def serve(self, script: Any = None, **app: Any) -> Served:
        return self._stack.enter_context(Served(self._portal, self.store, script, **app))

    def model(self, script: Any = None) -> Model:
        return Model(self._portal, script)

    def enter(self, context: Any) -> Any:
        """Enters a context for as long as the test runs."""
        return self._stack.enter_context(context)

    def context(self, **given: Any) -> BrowserContext:
        # Motion is what axe and pictures cannot see.
        options = {"viewport": {"width": 1180, "height": 800}, "reduced_motion": "reduce", **given}
        context = self._browser.new_context(**options)
        self._stack.callback(context.close)
        return context

    def watch(self, url: str, context: BrowserContext | None = None, **given: Any) -> Watched:
        """An empty page, of which everything that leaves `url` is noted."""
        watched = Watched(context or self.context(**given), url)
        self._watched.append(watched)
        return watched

    def open(self, served: Served, path: str = "", context: BrowserContext | None = None, **given: Any) -> Page:
        page = self.watch(served.url, context, **given).page
        page.goto(served.url + path)
        is_ready(page)
        return page

    def check(self) -> None:
        for watched in self._watched:
            watched.check()


@pytest.fixture
def world(browser: Browser, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        made = World(browser, portal, tmp_path, stack)
        yield made
        made.check()
