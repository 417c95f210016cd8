"""The others, each with its own store and a model that answers at once."""

# The peers are installed in an environment of their own: nothing here is imported by the tests.
from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

from tests.benchmarks.send import history
from tests.benchmarks.speed.subjects import ANSWER, WORDS, Subject

POOL = 32
"""Connections that a peer's pool may open."""


def texts(count: int) -> list[tuple[str, str]]:
    """Role and text of that many messages, the same as ours."""
    return [(one["role"], one["content"][0]["text"]) for one in history(count)]


def write_ahead(file: Path) -> None:
    """SQLite's write-ahead log is kept in the file: the faster setting, for everybody."""
    import sqlite3

    with sqlite3.connect(file) as raw:
        raw.execute("PRAGMA journal_mode=WAL")
    raw.close()


class OpenAIAgents(Subject):
    """openai-agents: `Runner.run` with a session."""

    name = "openai-agents SQLiteSession"

    async def start(self) -> None:
        from agents import Agent, set_tracing_disabled

        set_tracing_disabled(True)
        if isinstance(self.place, Path):
            write_ahead(self.file)
        self.agent = Agent(name="a", instructions="You are terse.", model=self._model())

    @staticmethod
    def _model() -> Any:
        from agents import Model, ModelResponse, Usage
        from openai.types.responses import ResponseOutputMessage, ResponseOutputText

        class Instant(Model):
            async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
                text = ResponseOutputText(text=ANSWER, type="output_text", annotations=[])
                said = ResponseOutputMessage(
                    id=uuid.uuid4().hex, content=[text], role="assistant", status="completed", type="message"
                )
                return ModelResponse(output=[said], usage=Usage(), response_id=None)

            def stream_response(self, *_: Any, **__: Any) -> Any:
                raise NotImplementedError

        return Instant()

    def _session(self, id: str) -> Any:
        from agents import SQLiteSession

        return SQLiteSession(id, self.file)

    async def begin(self, count: int) -> Any:
        session = self._session(uuid.uuid4().hex)
        items: list[Any] = [
            {"role": role, "content": text}
            if role == "user"
            else {
                "id": uuid.uuid4().hex, "type": "message", "role": role, "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}],
            }
            for role, text in texts(count)
        ]  # fmt: skip
        if items:
            await session.add_items(items)
        return session

    async def turn(self, talk: Any) -> None:
        from agents import Runner

        await Runner.run(self.agent, WORDS, session=talk)

    async def append(self, talk: Any) -> None:
        await talk.add_items([{"role": "user", "content": WORDS}, {"role": "assistant", "content": ANSWER}])

    async def load(self, talk: Any) -> int:
        return len(await self._session(talk.session_id).get_items())


class OpenAIAgentsSQLAlchemy(OpenAIAgents):
    name = "openai-agents SQLAlchemySession"
    parallel = True

    async def start(self) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        options: dict[str, Any] = {"pool_size": POOL, "max_overflow": POOL}
        if isinstance(self.place, Path):
            options["connect_args"] = {"timeout": 60}
        await super().start()
        self.engine = create_async_engine(self.sqlalchemy_url, **options)
        await self._session("first", create_tables=True).get_items()

    async def stop(self) -> None:
        await self.engine.dispose()

    def _session(self, id: str, *, create_tables: bool = False) -> Any:
        from agents.extensions.memory import SQLAlchemySession

        return SQLAlchemySession(id, engine=self.engine, create_tables=create_tables)


class LangGraph(Subject):
    """langgraph: a graph of one node, its state saved by a checkpointer."""

    name = "langgraph AsyncSqliteSaver"
    parallel = True

    async def start(self) -> None:
        from contextlib import AsyncExitStack

        from langchain_core.messages import AIMessage
        from langgraph.graph import END, START, MessagesState, StateGraph

        self.stack = AsyncExitStack()
        saver = await self._saver()
        await saver.setup()

        async def answer(_: MessagesState) -> dict[str, Any]:
            return {"messages": [AIMessage(ANSWER)]}

        builder = StateGraph(MessagesState)
        builder.add_node("answer", answer)
        builder.add_edge(START, "answer")
        builder.add_edge("answer", END)
        self.graph = builder.compile(checkpointer=saver)

    async def _saver(self) -> Any:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        return await self.stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(self.file)))

    async def stop(self) -> None:
        await self.stack.aclose()

    async def begin(self, count: int) -> Any:
        from langchain_core.messages import AIMessage, HumanMessage

        talk = {"configurable": {"thread_id": uuid.uuid4().hex}}
        if count:
            made = [HumanMessage(text) if role == "user" else AIMessage(text) for role, text in texts(count)]
            await self.graph.aupdate_state(talk, {"messages": made}, as_node="answer")
        return talk

    async def turn(self, talk: Any) -> None:
        from langchain_core.messages import HumanMessage

        await self.graph.ainvoke({"messages": [HumanMessage(WORDS)]}, talk)

    async def append(self, talk: Any) -> None:
        from langchain_core.messages import AIMessage, HumanMessage

        said = [HumanMessage(WORDS), AIMessage(ANSWER)]
        await self.graph.aupdate_state(talk, {"messages": said}, as_node="answer")

    async def load(self, talk: Any) -> int:
        return len((await self.graph.aget_state(talk)).values["messages"])


class LangGraphPostgres(LangGraph):
    name = "langgraph AsyncPostgresSaver"

    async def _saver(self) -> Any:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool = AsyncConnectionPool(str(self.place), min_size=1, max_size=POOL, kwargs=options, open=False)
        return AsyncPostgresSaver(await self.stack.enter_async_context(pool))  # type: ignore[arg-type]


class GoogleAdk(Subject):
    """google-adk: a runner with `DatabaseSessionService`."""

    name = "google-adk DatabaseSessionService"
    parallel = True

    async def start(self) -> None:
        from google.adk.agents import LlmAgent
        from google.adk.models import BaseLlm, LlmResponse
        from google.adk.runners import Runner
        from google.adk.sessions import DatabaseSessionService
        from google.genai import types

        class Instant(BaseLlm):
            async def generate_content_async(self, *_: Any, **__: Any) -> Any:
                yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text=ANSWER)]))

        logging.getLogger("google_adk").setLevel(logging.ERROR)  # it misses token counts in every reply
        if isinstance(self.place, Path):
            write_ahead(self.file)
        agent = LlmAgent(name="a", model=Instant(model="instant"), instruction="You are terse.")
        self.service = DatabaseSessionService(self.sqlalchemy_url)
        self.runner = Runner(agent=agent, app_name="app", session_service=self.service)

    async def begin(self, count: int) -> Any:
        session = await self.service.create_session(app_name="app", user_id="u")
        for role, text in texts(count):
            await self.service.append_event(session, self._event(role, text))
        return session

    @staticmethod
    def _event(role: str, text: str) -> Any:
        from google.adk.events import Event
        from google.genai import types

        author, role = ("user", "user") if role == "user" else ("a", "model")
        return Event(author=author, content=types.Content(role=role, parts=[types.Part(text=text)]))

    async def turn(self, talk: Any) -> None:
        from google.genai import types

        words = types.Content(role="user", parts=[types.Part(text=WORDS)])
        async for _ in self.runner.run_async(user_id="u", session_id=talk.id, new_message=words):
            pass

    async def append(self, talk: Any) -> None:
        for role, text in (("user", WORDS), ("assistant", ANSWER)):
            await self.service.append_event(talk, self._event(role, text))

    async def load(self, talk: Any) -> int:
        found = await self.service.get_session(app_name="app", user_id="u", session_id=talk.id)
        return len(found.events) if found else 0


class PydanticHarness(Subject):
    """pydantic-ai with its harness: read the head, run the agent, save the head."""

    name = "pydantic-ai SqliteConversationStore"

    async def start(self) -> None:
        from pydantic_ai import Agent
        from pydantic_ai.messages import ModelResponse, TextPart
        from pydantic_ai.models.function import FunctionModel
        from pydantic_ai_harness.step_persistence.conversations import SqliteConversationStore

        async def answer(*_: Any) -> ModelResponse:
            return ModelResponse(parts=[TextPart(ANSWER)])

        self.agent = Agent(FunctionModel(answer), instructions="You are terse.")
        self.store = SqliteConversationStore(database=self.file)

    async def begin(self, count: int) -> Any:
        from pydantic_ai_harness.step_persistence.conversations import ConversationSummary

        made = [message for role, text in texts(count) for message in self._message(role, text)]
        summary = ConversationSummary(workspace="/", id=uuid.uuid4().hex)
        saved = await self.store.save(summary=summary, messages=made)
        return {"summary": saved, "messages": made}

    @staticmethod
    def _message(role: str, text: str) -> list[Any]:
        from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart

        part = ModelRequest(parts=[UserPromptPart(text)]) if role == "user" else ModelResponse(parts=[TextPart(text)])
        return [part]

    async def turn(self, talk: Any) -> None:
        saved = await self.store.get(conversation_id=talk["summary"].id)
        result = await self.agent.run(WORDS, message_history=saved.messages)
        talk["summary"] = await self.store.save(summary=saved.summary, messages=result.all_messages())

    async def append(self, talk: Any) -> None:
        saved = await self.store.get(conversation_id=talk["summary"].id)
        said = [*saved.messages, *self._message("user", WORDS), *self._message("assistant", ANSWER)]
        talk["summary"] = await self.store.save(summary=saved.summary, messages=said)

    async def load(self, talk: Any) -> int:
        return len((await self.store.get(conversation_id=talk["summary"].id)).messages)


class Llm(Subject):
    """llm: its log store alone; a turn of its own goes through plugins and keys."""

    name = "llm LogStore"
    whole_turns = False

    async def start(self) -> None:
        import sqlite_utils
        from llm.logs import LogStore

        write_ahead(self.file)
        self.store = LogStore(sqlite_utils.Database(self.file))

    async def begin(self, count: int) -> Any:
        made = [self._message(role, text) for role, text in texts(count)]
        with self.store.db.atomic():
            return self.store.create_thread(tip=self.store.ensure_chain(made))

    @staticmethod
    def _message(role: str, text: str) -> Any:
        import llm

        return llm.Message(role=role, parts=[llm.parts.TextPart(text=text)])

    async def append(self, talk: Any) -> None:
        said = [self._message("user", f"{WORDS}{uuid.uuid4()}"), self._message("assistant", ANSWER)]
        self.store.append(talk, said)

    async def load(self, talk: Any) -> int:
        return len(self.store.thread_messages(talk))
