"""`warmline simulate`: a local Claude over HTTP, for any client that can be given a base URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import anyio
import typer

from sessions.cli.terminal import console
from sessions.errors import ConfigurationError
from sessions.model.profile_file import read_profile
from sessions.simulator import Engine, Latency, serve


def simulate(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8787,
    first_event: Annotated[float, typer.Option(min=0.0, help="Seconds before an answer begins.")] = 0.0,
    per_prompt_token: Annotated[float, typer.Option(min=0.0, help="Seconds for each uncached prompt token.")] = 0.0,
    per_output_token: Annotated[float, typer.Option(min=0.0, help="Seconds for each token of the answer.")] = 0.0,
    profile: Annotated[
        Path | None, typer.Option(help="Behave as this profile says, such as one that `warmline probe` wrote.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as one line of JSON.")] = False,
) -> None:
    """Serve a simulated Claude over HTTP; its cache, bill and refusals are those of the documented API."""

    def started(url: str) -> None:
        if as_json:
            typer.echo(json.dumps({"url": url}))
            return
        console.print(f"A simulated Claude listens at [bold]{url}[/]. Point any client at it:", soft_wrap=True)
        console.print(f"  export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=simulated", soft_wrap=True)
        console.print(f"What it has charged: {url}/_simulator/bill   Ctrl-C ends it.", soft_wrap=True)

    latency = Latency(first_event=first_event, prefill_per_token=per_prompt_token, per_output_token=per_output_token)

    engine = Engine(profile=read_profile(profile).profile if profile is not None else None)

    async def run() -> None:
        await serve(engine, host=host, port=port, latency=latency, started=started)

    try:
        anyio.run(run)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port"
        ) from error
