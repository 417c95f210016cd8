"""The back end of `chat_starlette.py` with FastAPI: the same paths, checked and documented (`/docs`) by its models.

    uvicorn --app-dir examples chat_fastapi:app --workers 2

Needs `pip install fastapi sse-starlette`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sse_starlette import EventSourceResponse

from sessions import OwnedManager, Session, SessionManager, SessionNotFound, SessionsError, tool
from sessions.simulator import Latency, client


@tool(needs_approval=True)
def pay(amount: int) -> str:
    """Pays an amount in euros."""
    return f"Paid {amount} euros."


# A simulated Claude that takes its time: with client=None it is Claude, and needs ANTHROPIC_API_KEY.
manager = SessionManager("sqlite:///chat.db", client=client(latency=Latency(0, 0.2, 0.05)), tools=[pay], recover=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with manager:
        yield
        await manager.drain(10)  # turns that take longer are finished by another worker


class Words(BaseModel):
    text: str
    key: str | None = None


class Decision(BaseModel):
    call: str
    approve: bool
    reason: str | None = None


def for_owner(x_forwarded_user: Annotated[str, Header()]) -> OwnedManager:
    return manager.for_owner(x_forwarded_user)  # the proxy in front knows who it is, and sets this header


Mine = Annotated[OwnedManager, Depends(for_owner)]


async def opened(id: str, mine: Mine) -> Session:
    return await mine.open(id, tools=[pay])


Opened = Annotated[Session, Depends(opened)]
app = FastAPI(lifespan=lifespan)


@app.post("/sessions")
async def create(mine: Mine) -> dict[str, str]:
    return {"id": (await mine.create(model="claude-opus-5", max_tokens=4096, tools=[pay])).id}


@app.get("/sessions")
async def listed(mine: Mine, search: str | None = None) -> list[dict[str, str | None]]:
    rows = await mine.list(search=search)
    return [{"id": row.id, "title": row.title, "state": row.state, "cost": str(row.cost)} for row in rows]


@app.get("/sessions/{id}")
async def show(session: Opened) -> dict[str, list[dict[str, Any]]]:
    return {"entries": [*map(asdict, session.entries)], "pending": [*map(asdict, session.pending)]}


@app.post("/sessions/{id}/turns")
async def begin(session: Opened, words: Words) -> dict[str, str]:
    turn = await session.begin(words.text, idempotency_key=words.key, while_running="interrupt")
    return {"turn": turn.id}


@app.get("/sessions/{id}/events")
async def events(id: str, mine: Mine, last_event_id: Annotated[str | None, Header()] = None) -> EventSourceResponse:
    turn = await mine.turn(id)
    told = (
        ({"id": event.id, "data": event.to_json()} async for event in turn.follow(last_event_id)) if turn else iter(())
    )
    return EventSourceResponse(told)


@app.post("/sessions/{id}/stop", status_code=204)
async def stop(id: str, mine: Mine) -> None:
    if turn := await mine.turn(id):
        await turn.stop()


@app.post("/sessions/{id}/decisions", status_code=204)
async def decide(session: Opened, said: Decision) -> None:
    await (session.approve(said.call) if said.approve else session.deny(said.call, said.reason))


@app.exception_handler(SessionsError)
async def problem(request: Request, error: SessionsError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 404 if isinstance(error, SessionNotFound) else 409)
