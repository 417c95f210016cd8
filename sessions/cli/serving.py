"""The processes of `warmline serve`: the application made from its settings, in each of them, and how they end."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache, partial
from types import FrameType
from typing import Any

import uvicorn
from anthropic import AsyncAnthropic
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from sessions import SessionManager, simulator
from sessions.cli.lookup import has_key
from sessions.cli.named import named
from sessions.cli.starting import Settings, Start
from sessions.errors import ConfigurationError
from sessions.web import Agent, TokenFile, chat_app, tools_of

CLOSING = 3.0
"""Seconds that the server waits for requests under way, after the turns have had their time."""
FLUSH = 2.0
"""Seconds that readers get for the last that was told, before their streams are cut."""
STUBBORN = 8.0
"""Seconds beyond the drain time after which a process that has not ended is ended as a kill would."""
LATENCY = simulator.Latency(first_event=0.5, per_output_token=0.03)
"""How fast the simulated Claude answers: about as fast as a real one."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
log = logging.getLogger("sessions")


@cache
def is_simulated() -> bool:
    """Whether there is no key, so that a simulated Claude answers. A process asks its environment once."""
    return not has_key(AsyncAnthropic())


def agents_of(settings: Settings) -> list[Agent]:
    """The agents that are named, or the one there is without. Raises `ConfigurationError`."""
    if settings.agents is None:
        from sessions.cli.demo_agent import assistant, demo

        return [demo() if is_simulated() else assistant()]
    found = named(settings.agents, "--agents")
    if callable(found) and not isinstance(found, Agent | type):
        found = found()
    agents = [found] if isinstance(found, Agent) else found
    if not isinstance(agents, list | tuple) or not agents or not all(isinstance(agent, Agent) for agent in agents):
        raise ConfigurationError(
            f"--agents: {settings.agents} must be an Agent, a list of them, or a function that gives them"
        )
    return list(agents)


def authenticate_of(settings: Settings) -> Callable[..., Any] | None:
    """Who says whose a request is. Raises `ConfigurationError`."""
    if settings.tokens is not None:
        return TokenFile(settings.tokens)
    if settings.auth is None:
        return None
    found: Any = named(settings.auth, "--auth")
    if not callable(found):
        raise ConfigurationError(f"--auth: {settings.auth} must be a function of the request that gives its owner")
    return found  # type: ignore[no-any-return]


def parts(settings: Settings, agents: list[Agent]) -> tuple[SessionManager, Starlette]:
    """The manager, and the application on it. Raises `ConfigurationError`."""
    is_made_up = is_simulated()
    client = simulator.client(latency=LATENCY) if is_made_up else None
    manager = SessionManager(settings.store, client=client, recover=True, tools=tools_of(agents))
    authenticate = authenticate_of(settings)
    operates = None if authenticate is None else settings.operators.__contains__
    app = chat_app(manager, agents, authenticate, is_operator=operates, drain=0, simulated=is_made_up)
    return manager, app


def application(settings: Settings, agents: list[Agent] | None = None) -> Starlette:
    """What a worker serves: the application, which is drained before its streams are cut.

    `agents`: those of the settings, where this process has made them already.
    """
    manager, app = parts(settings, agents_of(settings) if agents is None else agents)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: Starlette) -> AsyncIterator[Any]:
        async with inner(served) as state:
            with Ending(manager, settings.drain).installed():
                yield state

    app.router.lifespan_context = lifespan
    _end_with_parent()
    return app


class Ending:
    """What SIGTERM and Ctrl-C begin: no new turns, and so many seconds for those under way; then the server ends.

    Meanwhile it goes on serving, so that answers which end in that time reach who follows them. Ctrl-C a second time
    gives no more time; what is under way is left to another worker either way.
    """

    def __init__(self, manager: SessionManager, seconds: float) -> None:
        self._manager, self._seconds = manager, seconds
        self._loop = asyncio.get_running_loop()
        self._before: dict[int, Any] = {}
        self._is_ending = False
        self._draining: asyncio.Task[None] | None = None
        self.should_exit = False
        """Asked for by sse-starlette of whoever holds SIGTERM: then it closes its streams."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, the signals come here first, and go on to the server's own handlers afterwards."""
        self._before = {number: signal.signal(number, self.handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Begins the end, or, of Ctrl-C after it has begun, leaves out the rest of it."""
        if not self._is_ending:
            self._is_ending = True
            # Here and not in the loop, which a tool may hold. It says where that is, and ends the process by force:
            # leases of a process that is gone are free.
            faulthandler.dump_traceback_later(self._seconds + STUBBORN, exit=True)
            self._loop.call_soon_threadsafe(self._begin, number)
        elif number == signal.SIGINT:
            self._end(number)

    def _begin(self, number: int) -> None:
        self._draining = asyncio.create_task(self._drain(number))

    async def _drain(self, number: int) -> None:
        try:
            await self._manager.drain(self._seconds)
            await self._read_out()
        finally:
            self._end(number)

    async def _read_out(self) -> None:
        """Answers that ended in time are read to their end: many readers of long ones take more than a moment."""
        server = getattr(self._before[signal.SIGTERM], "__self__", None)
        ends = self._loop.time() + FLUSH
        # uvicorn tells nobody when a request has ended
        while isinstance(server, uvicorn.Server) and server.server_state.tasks and self._loop.time() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def _end(self, number: int) -> None:
        self.should_exit = True
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        self._before[number](number, None)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a warning of the server's says something: that streams are cut at the end does not."""
    return "without completing response" not in record.getMessage()


def _end_with_parent() -> None:
    """A worker ends when its supervisor has been killed; nobody else would end it."""
    if (parent := multiprocessing.parent_process()) is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens, for all workers. Raises `ConfigurationError`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port"
        ) from None
    bound.set_inheritable(True)
    return bound


def run(settings: Settings, agents: list[Agent], bound: socket.socket, workers: int) -> None:
    """Serves until SIGTERM or Ctrl-C. What is logged goes to standard error, warnings and worse only.

    Several workers make the agents anew, each in its own process.
    """
    config = uvicorn.Config(
        Start(settings) if workers > 1 else partial(application, settings, agents),
        factory=True,
        workers=workers,
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(CLOSING),
    )
    if workers > 1:
        Workers(config, [bound], settings.drain + STUBBORN).run()
        return
    for number in _SIGNALS:  # uvicorn raises the signal again when it has ended well: that is no failure of ours
        signal.signal(number, _nothing)
    uvicorn.Server(config).run([bound])


def _nothing(number: int, frame: FrameType | None) -> None:
    """What is left of a signal that has been obeyed."""


class Workers(Multiprocess):
    """uvicorn's supervisor, which does not wait for a worker longer than `seconds`."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], seconds: float) -> None:
        super().__init__(config, sockets)
        self._seconds = seconds

    def join_all(self) -> None:
        threads: Iterable[threading.Thread] = [
            threading.Thread(target=self._ended, args=[process.process]) for process in self.processes
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _ended(self, process: Any) -> None:
        process.join(self._seconds + 1)
        if process.is_alive():
            log.warning("a worker did not end in its time and was killed; another will go on with its turns")
            process.kill()
            process.join()
