"""`chat_app`: an ASGI application with all of it, to be run as it is or mounted under another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sessions import ConfigurationError, SessionManager, SessionsError
from sessions.web.access import LOCAL, Access, Authenticate
from sessions.web.ag_ui import AgUi
from sessions.web.agents import Agent, Agents
from sessions.web.ai_sdk import AiSdk
from sessions.web.api.conversations import Conversations
from sessions.web.api.openapi import document
from sessions.web.api.spend import Spending
from sessions.web.api.turns import Turns
from sessions.web.limits import Counts, Limits
from sessions.web.pages import FOLDER, Page
from sessions.web.problems import HANDLERS, problem
from sessions.web.service import Service
from sessions.web.tasks import Tasks


def chat_app(
    manager: SessionManager,
    agents: Agent | Iterable[Agent],
    authenticate: Authenticate | None = None,
    *,
    limits: Limits = Limits(),  # noqa: B008 - a frozen value
    is_operator: Callable[[str], bool] | None = None,
    hosts: Iterable[str] = (),
    drain: float = 10.0,
    simulated: bool = False,
) -> Starlette:
    """A chat back end with its page, as a Starlette application.

    `agents`: what a client may choose by name. `authenticate(request)` gives the owner of each request, or `None` (then
    it is refused), and may be async; without it this machine alone is served. `is_operator(owner)`: who sees what
    everybody spends; the local user, where `authenticate` is not given. `hosts`: names that the service is asked by;
    any, where none are given. `drain`: seconds that turns get to end in when the server stops; those that take longer
    are left to another worker. `simulated`: the page says that no model is asked.

    Run alone it enters and leaves the manager. Mounted under another application (`Mount("/chat", app=…)`), which does
    not pass its lifespan on, enter `async with manager:` there. Raises `ConfigurationError`.
    """
    if not isinstance(manager, SessionManager):
        raise ConfigurationError("chat_app() needs a SessionManager")
    if authenticate is not None and not callable(authenticate):
        raise ConfigurationError("authenticate must be a function of the request that gives its owner")
    counts, tasks = Counts(limits), Tasks()
    operates = is_operator or (lambda owner: authenticate is None and owner == LOCAL)
    service = Service(manager, Agents(agents), counts, tasks, operates, simulated)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with manager:
            try:
                yield
                await manager.drain(drain)
            finally:
                await tasks.close()

    app = Starlette(
        routes=_routes(service),
        middleware=[Middleware(Access, authenticate=authenticate, hosts=hosts, counts=counts, public=FOLDER)],
        exception_handlers=dict(HANDLERS),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a path is right or wrong: nobody is sent to a name that the request made up
    app.state.service = service
    return app


def _routes(service: Service) -> list[Any]:
    endpoints = [
        *Conversations(service).endpoints, *Turns(service).endpoints, *Spending(service).endpoints
    ]  # fmt: skip
    described = document(endpoints, _version())
    return [
        *Page().routes,
        *(endpoint.route for endpoint in endpoints),
        *AiSdk(service).routes,
        *AgUi(service).routes,
        Route("/openapi.json", lambda request: JSONResponse(described)),
        Route("/health", _health),
        Route("/ready", _ready(service.manager)),
    ]


async def _health(request: Request) -> Response:
    """This process lives."""
    return JSONResponse({"status": "ok"})


def _ready(manager: SessionManager) -> Callable[[Request], Any]:
    async def ready(request: Request) -> Response:
        """Its store answers, and it is not about to end."""
        if not manager.takes_turns:
            return problem(503, "this worker is about to end: ask another one", {"Retry-After": "1"})
        try:
            await manager.list(limit=1)
        except SessionsError as error:
            return problem(503, str(error), {"Retry-After": "1"})
        return JSONResponse({"status": "ok"})

    return ready


def _version() -> str:
    try:
        return version("warmline")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
