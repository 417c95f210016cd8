"""The page: static files of the package, under a policy that lets nothing in from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sessions.web.problems import Refused

POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
        "img-src 'self' blob: data:", "form-action 'none'", "base-uri 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
FOLDER = "/page/"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Page:
    """The files, read once."""

    def __init__(self) -> None:
        self._files = {one.name: one.read_bytes() for one in files("sessions.web").joinpath("page").iterdir()}

    @property
    def routes(self) -> list[Route]:
        return [Route("/", self.index), Route(f"{FOLDER}{{name}}", self.file)]

    async def index(self, request: Request) -> Response:
        return self._response("index.html")

    async def file(self, request: Request) -> Response:
        return self._response(request.path_params["name"])

    def _response(self, name: str) -> Response:
        kind = _TYPES.get(name.rpartition(".")[2])
        if name not in self._files or kind is None:
            raise Refused(404, "there is no such file")
        # Asked for anew each time: a page of one release with scripts of another would break.
        return Response(self._files[name], media_type=kind, headers={**_HEADERS, "Cache-Control": "no-cache"})
