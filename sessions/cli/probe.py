"""`warmline probe`: asks an endpoint the rules that the prices stand on, and writes what it finds as a profile."""

from __future__ import annotations

import os
import re
import sys
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import anyio
import typer
from anthropic import AsyncAnthropic
from rich.markup import escape
from rich.status import Status

from sessions.cli.exit_codes import Code
from sessions.cli.interrupts import terminated_as_interrupted
from sessions.cli.lookup import has_key
from sessions.cli.options import MODEL, STORE, JsonOption, ModelOption
from sessions.cli.output import ForceOption, check, files_of, writing
from sessions.cli.terminal import console, echo_json, errors
from sessions.core.prices import prices_for
from sessions.core.profiles import MODELS, profile_for
from sessions.errors import ConfigurationError
from sessions.model.profile_file import SIMULATOR
from sessions.probe import REQUEST_SECONDS, Ask, Probe, Result, Rule, Seen, Watcher
from sessions.probe.simulated import Estimate, estimate, simulated_probe
from storage.urls import VARIABLE

_STYLES = {"agrees": "green", "differs": "bold yellow", "cannot tell": "cyan", "skipped": "dim"}
_WORDS = {"agrees": "agree", "differs": "differ", "cannot tell": "cannot be told", "skipped": "skipped"}
_LARGEST_MINIMUM = 4096
"""Tokens: no documented minimum is larger. What probing an endpoint with that one costs is where a run stops."""
_MARGIN = Decimal("1.1")
INTERRUPTED = 130


def probe(
    live: Annotated[bool, typer.Option("--live", help="Ask the real API: needs a key and costs money.")] = False,
    base_url: Annotated[str | None, typer.Option("--base-url", help="Ask this endpoint.")] = None,
    api_key_env: Annotated[
        str, typer.Option("--api-key-env", metavar="NAME", help="The environment variable that holds the key.")
    ] = "ANTHROPIC_API_KEY",
    model: ModelOption = MODEL,
    other_model: Annotated[
        str | None, typer.Option("--other-model", help="Another model there, for what models must not share.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what must wait for a lifetime to pass.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, metavar="SECONDS", help="How long to wait for each answer.")
    ] = REQUEST_SECONDS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The profile to write.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask an endpoint the rules of the API, and write what it does as a profile for SessionManager(profile=…).

    The endpoint is the simulator, unless --live or --base-url says otherwise; then the price is told first. Some
    sixty small requests, seven minutes, one with --quick. Ctrl-C and SIGTERM keep what has been found.
    """
    path = out or Path(f"{_file_name(model) if live or base_url else SIMULATOR}.profile.json")
    check(path, force=force, never=_store_files())
    other = other_model or (None if base_url else _sibling(model))
    with errors.status("[dim]beginning[/]") as status:
        watcher = _watcher(status, as_json)
        client = None
        if live or base_url:
            status.stop()
            client = _client(base_url, api_key_env)
            limit = _confirmed(client, model, other, quick, yes)
            status.start()
            endpoint = str(client.base_url).rstrip("/")
            made = Probe(
                client, model, endpoint=endpoint, base=profile_for(model, endpoint), other=other, quick=quick,
                limit=limit, timeout=timeout, watcher=watcher,
            )  # fmt: skip
        else:
            made = simulated_probe(model, other=other, quick=quick, watcher=watcher)
        interrupted = _run(made, client)
    if interrupted and path.exists():  # what is not complete does not replace what may be
        path = path.with_name(f"{path.name}.partial")
    _finish(made, path, force, as_json)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _run(made: Probe, client: AsyncAnthropic | None) -> bool:
    """Whether it was interrupted; what has been found is kept either way. The client is closed behind it."""

    async def run() -> None:
        async with client or nullcontext():
            await made.run()

    try:
        with terminated_as_interrupted():
            anyio.run(run)
    except KeyboardInterrupt:
        return True
    return False


def _client(base_url: str | None, api_key_env: str) -> AsyncAnthropic:
    """The SDK's client. Raises `ConfigurationError` where the real API has no key."""
    key = os.environ.get(api_key_env)
    if base_url:
        return AsyncAnthropic(base_url=base_url, api_key=key or "none")
    client = AsyncAnthropic(api_key=key) if key else AsyncAnthropic()
    if not has_key(client):
        raise ConfigurationError(f"--live needs a key: set {api_key_env}, or name another variable with --api-key-env")
    return client


def _confirmed(client: AsyncAnthropic, model: str, other: str | None, quick: bool, yes: bool) -> Decimal | None:
    """Tells what it will cost and asks; gives the price at which it stops (`None` where no price is known)."""
    expected = anyio.run(lambda: estimate(model, other=other, quick=quick))
    longest = anyio.run(lambda: estimate(model, other=other, quick=quick, minimum=_LARGEST_MINIMUM))
    limit = None if longest.cost is None else longest.cost * _MARGIN + Decimal("0.01")
    errors.print(_price(expected, limit, str(client.base_url), model), soft_wrap=True)
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError("nobody is there to be asked: pass --yes to spend that")
    if not yes and not typer.confirm("Go on?", err=True):
        raise typer.Exit(Code.USAGE)
    return limit


def _price(expected: Estimate, limit: Decimal | None, url: str, model: str) -> str:
    tokens = f"about {expected.requests} requests with {expected.usage.total_input:,} tokens in all"
    where = f"{escape(model)} at {escape(url)}"
    if expected.cost is None or limit is None:
        return f"{where}: {tokens}; no price is known for this model."
    return f"{where}: {tokens}, about [bold]${expected.cost:.2f}[/]; it stops at ${limit:.2f}."


def _sibling(model: str) -> str | None:
    """The cheapest other model of the tables."""
    priced = [(prices.input, name) for name in MODELS if (prices := prices_for(MODELS[name])) and name != model]
    return min(priced)[1] if priced else None


def _file_name(model: str) -> str:
    return re.sub(r"[^\w.-]+", "-", model)


def _store_files() -> list[Path]:
    """The files of the store that the other commands would use; a probe has no other."""
    return files_of(os.environ.get(VARIABLE, STORE))


def _watcher(status: Status, as_json: bool) -> Watcher:
    def asking(rule: Rule, ask: Ask) -> None:
        status.update(f"[dim]{rule.name}: {ask.what}[/]")

    def waiting(seconds: float, rules: int) -> None:
        minutes, rest = divmod(round(seconds), 60)
        status.update(f"[dim]waiting {minutes}:{rest:02} for entries to lapse; {rules} rules wait[/]")

    def settled(result: Result) -> None:
        for line in _lines(result):
            console.print(line, soft_wrap=True)

    return Watcher(asking, waiting, (lambda result: None) if as_json else settled)


def _lines(result: Result) -> list[str]:
    """The verdict, what was found, and the usage that showed it."""
    finding = result.finding
    if finding is None:
        return []
    verdict = f"[{_STYLES[finding.verdict]}]{finding.verdict:<11}[/]"
    lines = [f"{verdict} [bold]{result.rule.name:<17}[/] {escape(result.rule.says)}"]
    lines += [f"{'':<29} {escape(finding.sentence)}"] if finding.verdict != "agrees" else []
    used = [_usage(seen) for seen in result.exchanges]
    return [*lines, f"{'':<29} [dim]{escape(' | '.join(used))}[/]"] if used else lines


def _usage(seen: Seen) -> str:
    if seen.refused is not None:
        return f"refused {seen.status}"
    usage = seen.usage
    parts = {"read": usage.cache_read, "5m": usage.cache_write_5m, "1h": usage.cache_write_1h, "plain": usage.input}
    return " ".join(f"{name} {tokens:,}" for name, tokens in parts.items() if tokens) or "nothing"


def _finish(made: Probe, path: Path, force: bool, as_json: bool) -> None:
    """Prints the totals, and writes the profile; what was paid for is printed where it cannot be written."""
    measured = made.measured()
    if as_json:
        echo_json(measured.to_json())
    else:
        console.print(_totals(made, measured.endpoint), soft_wrap=True)
    try:
        with writing(path, force=force, never=_store_files()) as draft:
            draft.write_text(measured.to_json(), encoding="utf-8")
    except ConfigurationError:
        if not as_json:
            echo_json(measured.to_json())
        raise
    if not as_json:
        console.print(f"Written to [bold]{escape(str(path))}[/]: SessionManager(profile={str(path)!r})", soft_wrap=True)


def _totals(made: Probe, endpoint: str) -> str:
    verdicts = [result.finding.verdict if result.finding else "skipped" for result in made.results]
    told = ", ".join(f"{verdicts.count(one)} {word}" for one, word in _WORDS.items() if one in verdicts)
    price = "at an unknown price" if made.spent is None else f"for ${made.spent:.4f}"
    simulated = " (simulated: nothing was charged)" if endpoint == SIMULATOR else ""
    return f"\n{told}. {made.requests} requests {price}{simulated}."
