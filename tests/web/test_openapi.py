"""The OpenAPI document: it describes every route, and what is answered is what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from starlette.routing import Route

from sessions.web import models
from tests.sessions.world import answers, call
from tests.web.world import Place, service

UNDESCRIBED = {"/", "/page/{name}", "/openapi.json", "/health", "/ready"}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (text for name, text in value.items() if name == "$ref")
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _references(one)


async def test_every_route_is_described_and_every_reference_resolves(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        document = await place.get("/openapi.json")
        assert document["openapi"].startswith("3.1")
        for reference in _references(document):
            target: Any = document
            for name in reference.removeprefix("#/").split("/"):
                target = target[name]
        described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
        routes = {
            (route.path, method)
            for route in place.app.routes
            if isinstance(route, Route) and route.path not in UNDESCRIBED
            for method in (route.methods or set()) - {"HEAD"}
        }
        own = {(path, method) for path, method in routes if path.startswith("/api/")}
        assert own == described
        operations = [operation for methods in document["paths"].values() for operation in methods.values()]
        assert len({operation["operationId"] for operation in operations}) == len(operations)
        for path, methods in document["paths"].items():
            for operation in methods.values():
                named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
                assert named == set(re.findall(r"{(\w+)}", path))
                assert "default" in operation["responses"]


def _model(document: dict[str, Any], path: str, method: str, status: int) -> type[BaseModel]:
    content = document["paths"][path][method]["responses"][str(status)]["content"]["application/json"]
    return getattr(models, content["schema"]["$ref"].rpartition("/")[2])  # type: ignore[no-any-return]


async def _answers(place: Place) -> Iterator[tuple[str, str, int, Any]]:
    here = "/api/sessions/{id}"
    made = await place.post("/api/sessions", {"agent": "helper"}, 201)
    id = made["id"]
    begun = await place.begin(id, "Pay")
    await place.events(begun)
    waiting = await place.show(id)
    decision = {"call_id": waiting["pending"][0]["call_id"], "approve": False}
    decided = await place.post(f"/api/sessions/{id}/decisions", decision)
    await place.events({"events": f"api/sessions/{id}/turns/newest/events"})
    again = await place.post(f"/api/sessions/{id}/regenerate", {}, 202)
    await place.events(again)
    return iter(
        [
            ("/api/config", "get", 200, await place.get("/api/config")),
            ("/api/sessions", "post", 201, made),
            ("/api/sessions", "get", 200, await place.get("/api/sessions")),
            (f"{here}/turns", "post", 202, begun),
            (here, "get", 200, waiting),
            (here, "get", 200, await place.show(id)),
            (f"{here}/decisions", "post", 200, decided),
            (f"{here}/regenerate", "post", 202, again),
            (f"{here}/fork", "post", 201, await place.post(f"/api/sessions/{id}/fork", {}, 201)),
            (f"{here}/cost", "get", 200, await place.get(f"/api/sessions/{id}/cost")),
            (f"{here}/resume", "post", 202, await place.post(f"/api/sessions/{id}/resume", {}, 202)),
            (f"{here}/turns/{{turn}}/stop", "post", 200, await place.post(f"/api/sessions/{id}/turns/newest/stop")),
            (f"{here}/rewind", "post", 200, await place.post(f"/api/sessions/{id}/rewind", {"to": None})),
            (here, "patch", 200, (await place.http.patch(f"/api/sessions/{id}", json={"title": "t"})).json()),
            ("/api/spend", "get", 200, await place.get("/api/spend")),
        ]
    )


async def test_answers_are_what_the_document_says(tmp_path: Path) -> None:
    async with service(tmp_path, answers([call("pay", amount=5)], "Done", "Other")) as place:
        document = await place.get("/openapi.json")
        seen = set()
        for path, method, status, answer in await _answers(place):
            seen.add((path, method))
            _model(document, path, method, status).model_validate_json(json.dumps(answer), strict=True)
        told = {
            (path, method)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if any("application/json" in answer.get("content", {}) for answer in operation["responses"].values())
        }
        assert seen == told
