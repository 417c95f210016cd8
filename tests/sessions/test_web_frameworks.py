"""A `Reply` is given to a web framework as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from sessions import Reply
from tests.sessions.world import World, create


class Answer(BaseModel):
    """A model of an application's own."""

    reply: Reply


async def test_a_reply_is_plain_data() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        reply = await session.send("Hello")
    found = reply.to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["session"] == session.id
    assert found["text"] == reply.text != ""
    assert found["content"] == reply.content
    assert found["content"] is not reply.content
    assert (found["stop_reason"], found["cost"]) == ("end_turn", str(reply.cost))
    assert found["usage"]["output"] == reply.usage.output > 0
    assert found["calls"] == [call.id for call in reply.calls]
    assert TypeAdapter(Reply).dump_python(reply) == found
    assert TypeAdapter(Reply).validate_python(reply) is reply
    assert json.loads(Answer(reply=reply).model_dump_json()) == {"reply": found}


async def test_fastapi_gives_a_reply_out() -> None:
    fastapi = pytest.importorskip("fastapi", reason="install the extra examples")
    import httpx2

    async with World().manager() as manager:
        session = await create(manager)
        app: Any = fastapi.FastAPI()

        @app.get("/typed", response_model=Reply)
        async def typed() -> Reply:
            return await session.send("Hello")

        @app.get("/plain")
        async def plain() -> Any:
            return (await session.send("Hello")).to_dict()

        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://here") as client:
            for path in ("/typed", "/plain"):
                given = (await client.get(path)).json()
                assert given["session"] == session.id
                assert given["text"]
            assert (await client.get("/openapi.json")).status_code == 200
