"""`warmline serve`: a chat in the browser, and the back end of one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from rich.markup import escape

from sessions.cli.interrupts import quiet
from sessions.cli.lookup import NO_KEY
from sessions.cli.named import extra_chat
from sessions.cli.options import STORE, StoreOption
from sessions.cli.starting import Settings
from sessions.cli.terminal import console
from sessions.core.settings import make_settings
from sessions.errors import ConfigurationError
from sessions.translate import caller_errors, storage_errors
from storage.urls import parse, shown

if TYPE_CHECKING:
    from sessions.web import Agent


def serve(
    store: StoreOption = STORE,
    agents: Annotated[
        str | None, typer.Option("--agents", metavar="MODULE:NAME", help="Agents of your own; see docs/chat.md.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that serve this port.")] = 1,
    auth: Annotated[
        str | None, typer.Option("--auth", metavar="MODULE:NAME", help="A function of the request: its owner, or None.")
    ] = None,
    tokens: Annotated[Path | None, typer.Option("--tokens", help="A file of tokens: see `warmline token`.")] = None,
    operator: Annotated[
        list[str] | None, typer.Option("--operator", metavar="OWNER", help="Who sees what all spend; repeatable.")
    ] = None,
    drain: Annotated[
        float, typer.Option(min=0.0, max=3600.0, help="Seconds that answers get to end in, when told to end.")
    ] = 10.0,
) -> None:
    """Serve a chat: a page, a JSON API and two protocols of front ends. Without a key, a simulated Claude answers.

    With no options it is for this machine alone; beyond that it needs to know who asks: --tokens or --auth.
    """
    with quiet(), extra_chat():
        from sessions.cli import serving
        from sessions.web.access import is_loopback
    if auth is not None and tokens is not None:
        raise ConfigurationError("give --auth or --tokens, not both: one of them says whose a request is")
    is_open = auth is None and tokens is None
    if is_open and not is_loopback(host):
        raise ConfigurationError(
            f"--host {host} lets others in, who would all be one user: say who is who with --tokens FILE "
            "(`warmline token new OWNER`) or --auth MODULE:NAME"
        )
    if is_open and operator:
        raise ConfigurationError("--operator needs --auth or --tokens: without them the one user sees everything")
    settings = Settings(store, agents, auth, tokens, frozenset(operator or ()), drain)
    with storage_errors():
        url = parse(store)
    if workers > 1 and url.get_backend_name() == "sqlite" and not url.database:
        raise ConfigurationError("several workers share a store: give --store a file or a PostgreSQL")
    found = serving.agents_of(settings)
    with quiet():
        anyio.run(_check, settings, found)
    with serving.listening(host, port) as bound:
        _say(settings, found, f"http://{_name(host)}:{bound.getsockname()[1]}/", serving.is_simulated(), is_open)
        serving.run(settings, found, bound, workers)


async def _check(settings: Settings, agents: list[Agent]) -> None:
    """What is wrong is said before anything is served; a new SQLite file is made, before several workers would."""
    from sessions.cli import serving

    manager, _ = serving.parts(settings, agents)
    for agent in agents:
        with caller_errors():
            known = {name: value for name, value in agent.settings.items() if name != "context"}
            manager.runtime.endpoint.check(make_settings(**known))
    async with manager:
        await manager.list(limit=1)


def _name(host: str) -> str:
    """The host as it stands in an address that a browser takes."""
    if host in ("0.0.0.0", "::", ""):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _say(settings: Settings, agents: list[Agent], address: str, is_simulated: bool, is_open: bool) -> None:
    """All that a user needs to know."""
    if is_simulated:
        console.print(NO_KEY, soft_wrap=True)
    url = parse(settings.store)
    where = f"in {Path(url.database).resolve()}" if url.get_backend_name() == "sqlite" and url.database else shown(url)
    names = ", ".join(f"{agent.name} ({agent.model})" for agent in agents)
    who = "this machine alone" if is_open else "whoever has a token" if settings.tokens else f"as {settings.auth} says"
    console.print(f"Open in a browser:  [bold]{escape(address)}[/]", soft_wrap=True)
    console.print(f"  Agents:           {escape(names)}", soft_wrap=True)
    console.print(f"  Conversations:    {escape(where)}", soft_wrap=True)
    console.print(f"  Served to:        {escape(who)}", soft_wrap=True)
    console.print("  Ctrl-C ends it.", soft_wrap=True)
    sys.stdout.flush()  # a program that reads it waits for the address
