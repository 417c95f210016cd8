"""`warmline load`: how many conversations a database and a number of workers carry, measured before they must."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.markup import escape

from sessions.cli.exit_codes import Code
from sessions.cli.load.worker import LOAD, TOOK, Load, Took
from sessions.cli.options import MODEL, JsonOption, ModelOption
from sessions.cli.simulated import simulated
from sessions.cli.terminal import console, errors, plain_table, print_json
from sessions.errors import ConfigurationError

SATURATED = 1.5
"""A model that takes this many times what it was told to is short of processor time itself."""


def load(
    store: Annotated[
        str | None,
        typer.Option("--store", help="The database to try; the conversations are deleted again. Default: a new file."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a manager of its own.")] = 2,
    conversations: Annotated[int, typer.Option(min=1, help="Conversations of each worker, all at once.")] = 20,
    turns: Annotated[int, typer.Option(min=1, help="Turns of each conversation.")] = 5,
    pause: Annotated[float, typer.Option(min=0.0, help="Seconds between the turns of a conversation.")] = 0.0,
    prefix: Annotated[int, typer.Option(min=0, help="Tokens of the system prompt that all share.")] = 2000,
    words: Annotated[int, typer.Option(min=1, help="Tokens of each user message.")] = 250,
    first_event: Annotated[float, typer.Option(min=0.0, help="Seconds before the model's answer begins.")] = 0.5,
    per_output_token: Annotated[float, typer.Option(min=0.0, help="Seconds for each token of the answer.")] = 0.01,
    model: ModelOption = MODEL,
    as_json: JsonOption = False,
) -> None:
    """Measure turns per second, the time that sessions add to the model's own, and errors. No key is needed.

    The model is simulated over HTTP with the latencies given, so nothing is spent; the database is the one you name.
    """
    latency = ("--first-event", str(first_event), "--per-output-token", str(per_output_token))

    async def run(url: str) -> list[Took]:
        async with simulated(*latency) as base_url:
            job = Load(url, base_url, model, conversations, turns, prefix, words, pause, first_event, per_output_token)
            return await _workers(job, workers)

    with _place(store) as (url, folder):
        took = anyio.run(run, url)
        found = summary(took, workers * conversations * turns, _size(folder))
    if as_json:
        print_json(found)
    else:
        _print(found)
    if found["errors"] or found["turns"] < found["asked"]:
        raise typer.Exit(Code.FAILED)


@contextmanager
def _place(store: str | None) -> Iterator[tuple[str, Path | None]]:
    """The store's URL and, where it is a new file, its folder, which is removed afterwards."""
    if store is not None:
        yield store, None
        return
    folder = Path(tempfile.mkdtemp(prefix="warmline-load-"))
    try:
        yield f"sqlite:///{folder / 'load.db'}", folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _workers(job: Load, count: int) -> list[Took]:
    """Runs the workers together. Raises `ConfigurationError` with the last line of one that could not work."""
    took: list[Took] = []

    async def one() -> None:
        command = [sys.executable, "-m", "sessions.cli.load.worker", LOAD.dump_json(job).decode()]
        done = await anyio.run_process(command, check=False, stderr=subprocess.PIPE)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise ConfigurationError(f"a worker could not work: {lines[-1] if lines else done.returncode}")
        took.append(TOOK.validate_json(done.stdout))

    failed: list[ConfigurationError] = []

    async def guarded() -> None:
        try:
            await one()
        except ConfigurationError as error:
            failed.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(guarded)
    if failed:
        raise failed[0]
    return took


def _size(folder: Path | None) -> int | None:
    return None if folder is None else sum(path.stat().st_size for path in folder.iterdir())


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all is not above; 0 where there is none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summary(took: Sequence[Took], asked: int, size: int | None) -> dict[str, Any]:
    """What all workers saw together; times in milliseconds."""
    turns = [one for part in took for one in part.turns]
    overhead = [one for part in took for one in part.overhead]
    model = [one for part in took for one in part.model]
    seconds = max(part.ended for part in took) - min(part.begun for part in took)
    failures: Counter[str] = sum((part.errors for part in took), start=Counter())
    count = len(turns) or 1
    return {
        "asked": asked,
        "turns": len(turns),
        "seconds": round(seconds, 3),
        "turns_per_second": round(len(turns) / seconds, 2) if seconds else 0.0,
        "turn_ms": _spread(turns),
        "model_ms": _spread(model),
        "ideal_model_ms": round(1000 * percentile([one for part in took for one in part.ideal], 0.5), 2),
        "overhead_ms": _spread(overhead),
        "waited_for_warm_ups_s": round(sum(part.waited for part in took), 3),
        "writes_per_turn": round(sum(part.writes for part in took) / count, 2),
        "transactions_per_turn": round(sum(part.transactions for part in took) / count, 2),
        "bytes_per_turn": None if size is None else round(size / count),
        "errors": dict(failures),
    }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    named = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(1000 * percentile(seconds, share), 2) for name, share in named.items()}


def _print(found: dict[str, Any]) -> None:
    table = plain_table("milliseconds", "p50", "p99", "max")
    for name, words in (
        ("turn_ms", "a whole turn"),
        ("model_ms", "the model, with HTTP and SDK"),
        ("overhead_ms", "added by the session"),
    ):
        table.add_row(words, *(f"{found[name][key]:,.1f}" for key in ("p50", "p99", "max")))
    rate, seconds = found["turns_per_second"], found["seconds"]
    console.print(f"[bold]{found['turns']}[/] of {found['asked']} turns in {seconds:.1f} s: [bold]{rate}[/] a second")
    console.print(table)
    console.print(
        f"{found['transactions_per_turn']} transactions a turn ({found['writes_per_turn']} writes), "
        f"{found['waited_for_warm_ups_s']:.1f} s waited for another's warm-up"
        + (f", {found['bytes_per_turn']:,} bytes of file a turn" if found["bytes_per_turn"] else ""),
        soft_wrap=True,
    )
    if found["model_ms"]["p50"] > SATURATED * found["ideal_model_ms"] + 1:
        errors.print(
            f"[yellow]The simulated model took {found['model_ms']['p50']:.0f} ms where it was told to take about "
            f"{found['ideal_model_ms']:.0f}: this machine is short of processor time, so more turns a second are "
            "possible than shown. Use fewer conversations, longer latencies or more processors.[/]",
            soft_wrap=True,
        )
    for text, count in sorted(found["errors"].items(), key=lambda item: -item[1]):
        errors.print(f"[red]{count} times[/] {escape(text)}", soft_wrap=True)
