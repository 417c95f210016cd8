"""Who asks, and whether the request may be looked at: what stands before every route.

Without `authenticate` only this machine's user is served: the address must be a loopback one, and so must the name it
was asked by, since a foreign page can let its own name point here (DNS rebinding). A browser's request from another
page is refused by its `Origin`; what it could send without asking first is refused by its content type.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sessions import ConfigurationError
from sessions.web.limits import Counts
from sessions.web.problems import HEADERS, Refused, told

Authenticate: TypeAlias = Callable[[Request], str | Awaitable[str | None] | None]
LOCAL = "local"
"""The owner of everything where nobody is asked who they are."""
_OWNER = "warmline.owner"
_OPEN = frozenset({"/health", "/ready"})
_SENT_BY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_NEVER_A_NAME = frozenset(" /\\@?#")


def owner_of(request: Request) -> str:
    """Whose request it is, as `Access` has found."""
    return str(request.scope[_OWNER])


def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's own, for nobody else to reach."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


class Access:
    """ASGI middleware: refuses what may not be looked at, and says whose the rest is.

    `hosts`: names that the service may be asked by; any, where `authenticate` is given and none are named.
    """

    def __init__(
        self, app: ASGIApp, *, authenticate: Authenticate | None, hosts: Iterable[str], counts: Counts, public: str
    ) -> None:
        if isinstance(hosts, str):
            raise ConfigurationError("hosts must be a list of names, such as ['chat.example.com']")
        self._app, self._authenticate, self._counts, self._public = app, authenticate, counts, public
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, send = Request(scope), _with_headers(send)
        try:
            self._check_place(request)
            if not self._is_open(request):
                scope[_OWNER] = await self._owner(request)
                self._counts.request(scope[_OWNER], time.monotonic())
            self._check_sender(request)
            receive = self._limited(request, receive)
        except Exception as error:
            response = told(error)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_open(self, request: Request) -> bool:
        """Whether nobody is asked who they are: the state of the service, and the page without anybody's words."""
        path = _path_of(request)
        return path in _OPEN or (request.method in ("GET", "HEAD") and (path == "/" or path.startswith(self._public)))

    # -- where it comes from --

    def _check_place(self, request: Request) -> None:
        host = _host_of(request.headers.get("host", ""))
        is_known = not self._hosts or host in self._hosts or _path_of(request) in _OPEN  # a balancer asks by address
        if host is None or not is_known:
            raise Refused(421, "this service is not asked by that name: see hosts= of chat_app")
        if self._authenticate is None:
            client = request.client
            if client is None or not is_loopback(client.host) or not is_loopback(host):
                raise Refused(403, "without authenticate= only this machine is served, as localhost")

    def _check_sender(self, request: Request) -> None:
        """A page of another origin may not ask; neither may a form, whatever page it stands on."""
        origin = request.headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != request.headers.get("host", "").lower():
            raise Refused(403, "requests of other origins are not answered")
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method in _SENT_BY:
            raise Refused(403, "requests of other origins are not answered")
        if request.method in ("POST", "PUT", "PATCH"):
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refused(415, "send JSON, with the header Content-Type: application/json")

    async def _owner(self, request: Request) -> str:
        if self._authenticate is None:
            return LOCAL
        owner: Any = self._authenticate(request)
        if isawaitable(owner):
            owner = await owner
        if not isinstance(owner, str) or not owner:
            raise Refused(401, "say who you are: send a token", {"WWW-Authenticate": "Bearer"})
        return owner

    # -- its body --

    def _limited(self, request: Request, receive: Receive) -> Receive:
        """The body, as long as it keeps to its limits of bytes and seconds."""
        limits = self._counts.limits
        length = request.headers.get("content-length", "0")
        if not length.isdecimal():
            raise Refused(400, "the header Content-Length is no number")
        if int(length[:20]) > limits.body_bytes:
            raise Refused(413, f"the body is larger than {limits.body_bytes:,} bytes")
        ends = time.monotonic() + limits.body_seconds
        size, is_whole = 0, False

        async def limited() -> Message:
            nonlocal size, is_whole
            if is_whole:
                return await receive()  # what comes now is that the client has gone
            try:
                with anyio.fail_after(max(0.0, ends - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise Refused(408, f"the body has not come within {limits.body_seconds:g} seconds") from None
            size += len(message.get("body", b""))
            if size > limits.body_bytes:
                raise Refused(413, f"the body is larger than {limits.body_bytes:,} bytes")
            is_whole = not message.get("more_body", False)
            return message

        return limited


def _with_headers(send: Send) -> Send:
    async def complete(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return complete


def _path_of(request: Request) -> str:
    """The path below the place where the application is mounted."""
    root = request.scope.get("root_path", "")
    path = str(request.scope["path"])
    return path[len(root) :] if root and path.startswith(root) else path


def _host_of(header: str) -> str | None:
    """The name in a Host header, without its port; `None` where it is none."""
    if not header or _NEVER_A_NAME & set(header):
        return None
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None
