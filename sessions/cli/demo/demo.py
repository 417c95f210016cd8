"""`warmline demo`: a conversation, a crash, a resume, eight branches and the bill, each from a real run."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import anyio
import typer
from anthropic import AsyncAnthropic
from rich.markup import escape

from sessions.cli.demo import acts
from sessions.cli.demo.job import Job
from sessions.cli.exit_codes import Code
from sessions.cli.lookup import has_key
from sessions.cli.options import MODEL, ModelOption
from sessions.cli.simulated import simulated
from sessions.cli.terminal import console, dollars
from sessions.core.prices import prices_for
from sessions.core.profiles import profile_for
from sessions.core.usage import Usage
from sessions.errors import ConfigurationError

REQUESTS, PROMPT, ANSWER = 30, 6_000, 400
"""What a live run is not expected to reach: requests, tokens of each prompt, tokens of each answer."""


def demo(
    live: Annotated[bool, typer.Option("--live", help="Use the real API; what it may cost is told first.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before spending (with --live).")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the database and tell where it is.")] = False,
    model: ModelOption = MODEL,
) -> None:
    """Show it all in under a minute: tools, a crash and a resume, eight branches, the bill. No key is needed."""
    if live:
        _agree(model, yes)
    directory = Path(tempfile.mkdtemp(prefix="warmline-demo-"))
    try:
        anyio.run(_run, directory, model, live)
    finally:
        if keep:
            console.print(f"[dim]Kept: warmline list --store sqlite:///{directory}/demo.db[/]", soft_wrap=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _agree(model: str, yes: bool) -> None:
    """Tells what a live run may cost and asks; raises `ConfigurationError` without a key."""
    if not has_key(AsyncAnthropic()):
        raise ConfigurationError("--live asks the real API: set ANTHROPIC_API_KEY, or leave --live out")
    prices = prices_for(profile_for(model), PROMPT)
    most = Usage(cache_write_5m=REQUESTS * PROMPT, output=REQUESTS * ANSWER)
    price = "the price of this model is not known" if prices is None else f"{dollars(prices.of(most))} at worst"
    console.print(f"This sends about {REQUESTS} requests to {escape(model)}: {price}.")
    if not yes and not typer.confirm("Go on?"):
        raise typer.Exit(Code.OK)


async def _run(directory: Path, model: str, live: bool) -> None:
    began = time.monotonic()
    async with _endpoint(live) as base_url:
        place = Job(directory, model, base_url)
        where = "on the real API" if live else f"simulated at {base_url}"
        console.print(f"[bold]warmline demo[/]  {escape(model)} {where}", soft_wrap=True)
        session = await acts.conversation(place)
        await acts.crash(place, session)
        calls = await acts.branches(place, session)
        await acts.bill(place, calls)
    console.print(f"\n[dim]{time.monotonic() - began:.0f} seconds. Next: warmline chat, or examples/quickstart.py[/]")


@asynccontextmanager
async def _endpoint(live: bool) -> AsyncIterator[str | None]:
    """The base URL of a simulator in a process of its own, `None` for the real API."""
    if live:
        yield None
        return
    async with simulated("--first-event", "0.2") as url:
        yield url
