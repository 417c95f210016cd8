"""A simulated Claude in a process of its own, for commands that need one while they run."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import Process

from sessions.errors import ModelError


@asynccontextmanager
async def simulated(*options: str) -> AsyncIterator[str]:
    """Its base URL. `options`: of `warmline simulate`."""
    command = [sys.executable, "-m", "sessions", "simulate", "--port", "0", "--json", *options]
    async with await anyio.open_process(command, stderr=None) as process:
        try:
            yield json.loads(await _first_line(process))["url"]
        finally:
            with suppress(ProcessLookupError):
                process.terminate()


async def _first_line(process: Process) -> bytes:
    assert process.stdout is not None
    line = b""
    async for chunk in process.stdout:
        line += chunk
        if b"\n" in line:
            return line.partition(b"\n")[0]
    raise ModelError("the simulator's process ended before it listened")
