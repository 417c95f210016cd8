"""Every stop reason and every way a response breaks: afterwards the next send succeeds and nothing is refused."""

from __future__ import annotations

import warnings
from typing import Any

import anthropic
import anyio
import httpx2
import pytest

from sessions import ContextFull, ModelError, Outlook, tool
from sessions.model.failures import model_error
from sessions.simulator import Fault, Request, Scripted, filler
from tests.sessions.world import World, answers, buckets, call, create, everywhere, words

LONG = " ".join(f"word number {number}" for number in range(15))


@tool
async def look(n: int) -> str:
    """Looks."""
    return f"seen {n}"


def talkative(request: Request) -> Scripted:
    """Thinks, talks and calls a tool; then answers."""
    if request.results:
        return Scripted("Done: " + LONG, thinking="Now I know." * 5)
    return Scripted([{"type": "text", "text": LONG}, call("look", n=1), call("look", n=2)], thinking="I must look." * 5)


async def _goes_on(session: Any, world: World) -> None:
    """The next send succeeds, the words stand once, and the session ends well."""
    reply = await session.send("and now?")
    assert reply.stop_reason == "end_turn"
    assert "\n".join(words(session)).count("and now?") == 1
    assert await session.resume() is None
    world.check()


_STATUS = [400, 401, 402, 403, 404, 409, 413, 429, 500, 504, 529]


@pytest.mark.parametrize("status", _STATUS)
@pytest.mark.parametrize("step", [0, 1])
async def test_http_errors_at_each_step(status: int, step: int) -> None:
    world = World(talkative, faults={step: Fault.http(status)})
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        with pytest.raises(ModelError, match=str(status)) as caught:
            await session.send("go")
        assert caught.value.retryable is (status in (409, 429) or status >= 500)
        assert caught.value.request_id == world.requests[step].request_id
        assert words(session) == ([] if status in (400, 413) and step == 0 else ["go"])
        row = (await session.calls())[-1]
        assert (row.status, row.usage.total_input, row.usage.output) == ("error", 0, 0)
        await _goes_on(session, world)
        assert buckets((await session.cost()).usage) == buckets(world.engine.bill().usage)


@pytest.mark.parametrize(
    ("kind", "then"), [("cut", "send"), ("error", "resume"), ("end", "send"), ("garbled", "resume")]
)
async def test_a_stream_that_breaks_at_each_event(kind: Any, then: str) -> None:
    for after in range(200):
        world = World(talkative, faults={0: Fault(kind, after=after)})
        async with world.manager() as manager:
            session = await create(manager, tools=[look])
            broken, retryable = False, list[bool]()
            try:
                await session.send("go")
            except ModelError as error:
                broken = True
                retryable.append(error.retryable)
            if then == "resume":
                reply = await session.resume()
                assert (reply is not None) is broken
                assert words(session) == ["go"]
            await _goes_on(session, world)
            assert words(session)[0].startswith("go")
            assert all(retryable)
            billed, booked = world.engine.bill().usage, (await session.cost()).usage
            if after > 1:
                assert buckets(booked)[:4] == buckets(billed)[:4]
            assert booked.output <= billed.output + 1  # `message_start` announces the first token
            if world.requests[0].state == "complete":
                break
    else:
        raise AssertionError("the stream never came through whole")


@pytest.mark.parametrize("kind", ["drop", "json", "not_object"])
@everywhere
async def test_answers_that_are_none(kind: Any) -> None:
    world = World(talkative, faults={0: Fault(kind)})
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        with pytest.raises(ModelError):
            await session.send("go")
        assert words(session) == ["go"]
        assert [one.status for one in await session.calls()] == ["error"]
        await _goes_on(session, world)


async def test_a_stream_without_its_start_is_a_reply_or_an_error() -> None:
    world = World(talkative, faults={0: Fault("headless")})
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        try:
            await session.send("go")
        except ModelError:
            assert words(session) == ["go"]
        await _goes_on(session, world)


@everywhere
async def test_a_stall_ends_with_the_clients_own_timeout() -> None:
    world = World(talkative, faults={0: Fault.stall(3)})
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        failed: list[ModelError] = []

        async def sending() -> None:
            try:
                await session.send("go")
            except ModelError as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(sending)
            await world.clock.advance(700)
        assert failed[0].retryable
        await _goes_on(session, world)


async def test_the_sdk_retries_what_it_may() -> None:
    faults = {0: Fault.http(429, retry_after=0.01), 1: Fault.http(529, retry_after=0.01)}
    world = World(talkative, faults=faults)
    async with world.manager(max_retries=2) as manager:
        session = await create(manager, tools=[look])
        assert (await session.send("go")).text.startswith("Done")
        assert len(world.requests) == 4
        assert len(await session.calls()) == 2
    world.check()


@everywhere
async def test_a_refusal_takes_the_words_back() -> None:
    for content in ("", "I was about to"):
        world = World(answers("hello", Scripted(content, stop_reason="refusal", thinking="Hm.")))
        async with world.manager() as manager:
            session = await create(manager)
            await session.send("Hello")
            before = session.head
            reply = await session.send("something bad")
            assert reply.stop_reason == "refusal"
            assert reply.text == content
            assert (session.head, words(session)) == (before, ["Hello"])
            assert await session.resume() is None
            assert [one.stop_reason for one in await session.calls()] == ["end_turn", "refusal"]
            await _goes_on(session, world)
            assert buckets((await session.cost()).usage) == buckets(world.engine.bill().usage)


async def test_words_that_failed_before_they_were_refused_do_not_stay() -> None:
    world = World(faults={0: Fault.http(529)})
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ModelError):
            await session.send([{"type": "text", "text": "look"}, {"type": "hologram", "data": "x"}])
        with pytest.raises(ModelError, match="400"):
            await session.send("hi")
        assert (await session.send("hi again")).stop_reason == "end_turn"


async def test_words_that_failed_before_the_model_declined_do_not_stay() -> None:
    def script(request: Request) -> Any:
        bad = any("something bad" in text for text in request.words)
        return Scripted("", stop_reason="refusal") if bad else "fine"

    world = World(script, faults={0: Fault.drop()})
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ModelError):
            await session.send("something bad")
        assert (await session.send("hi")).stop_reason == "refusal"
        assert (await session.send("hi again")).stop_reason == "end_turn"


@everywhere
@pytest.mark.parametrize("content", ["", [{"type": "text", "text": " "}], "thinking"])
async def test_an_empty_answer_is_never_appended_and_the_words_stay(content: Any) -> None:
    empty = Scripted("", thinking="Nothing to say.") if content == "thinking" else Scripted(content)
    world = World(answers("hello", empty, empty, Fault.http(400)))
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("Hello")
        for said in ("say nothing", "nor now"):
            reply = await session.send(said, idempotency_key=said)
            assert (reply.text.strip(), reply.stop_reason) == ("", "end_turn")
            assert await session.resume() is None
            again = await session.send(said, idempotency_key=said)
            assert (again.content, again.stop_reason) == ([], "end_turn")
        with pytest.raises(ModelError, match="400"):
            await session.send("refused")
        assert await session.resume() is None
        assert words(session) == ["Hello", "say nothing", "nor now"]
        await _goes_on(session, world)


async def test_max_tokens_in_text_is_a_reply() -> None:
    world = World(answers(LONG))
    async with world.manager() as manager:
        session = await create(manager, max_tokens=20)
        reply = await session.send("talk")
        assert reply.stop_reason == "max_tokens"
        assert LONG.startswith(reply.text)
        assert session.messages[-1]["role"] == "assistant"
        await _goes_on(session, world)


async def test_max_tokens_within_thinking_alone_keeps_the_session_sendable() -> None:
    world = World(answers(Scripted("never said", thinking=LONG)))
    async with world.manager() as manager:
        session = await create(manager, max_tokens=20)
        with pytest.raises(ModelError, match=r"max_tokens \(20\) was reached before the answer began"):
            await session.send("think")
        assert words(session) == ["think"]
        await session.update(max_tokens=2000)
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "fine"
        await _goes_on(session, world)


async def test_a_window_that_is_full_before_the_answer_began_is_an_error_that_names_the_ways_out() -> None:
    world = World(answers(Scripted("", thinking="Hm.", stop_reason="model_context_window_exceeded")))
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ContextFull, match="compact"):
            await session.send("think")
        assert words(session) == ["think"]
        await _goes_on(session, world)


async def test_max_tokens_within_a_call_says_which_limit_to_raise() -> None:
    world = World(
        answers([{"type": "text", "text": "I look."}, call("look", n=1, why=LONG)], [call("look", n=2)], "ok")
    )
    async with world.manager() as manager:
        session = await create(manager, tools=[look], max_tokens=30)
        with pytest.raises(ModelError, match=r"max_tokens \(30\)"):
            await session.send("go")
        assert len(session.messages) == 1
        await session.update(max_tokens=2000)
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "ok"
        await _goes_on(session, world)
        assert buckets((await session.cost()).usage) == buckets(world.engine.bill().usage)


@everywhere
async def test_a_paused_turn_goes_on_by_itself() -> None:
    paused = Scripted([{"type": "text", "text": "Searching."}], stop_reason="pause_turn")
    world = World(answers(paused, paused, "Found."))
    async with world.manager() as manager:
        session = await create(manager, tools=[{"type": "web_search_20250305", "name": "web_search"}])
        reply = await session.send("find it")
        assert (reply.text, reply.stop_reason, len(reply.calls)) == ("Found.", "end_turn", 3)
        await _goes_on(session, world)


async def test_new_words_after_a_pause_leave_the_paused_reply_behind() -> None:
    paused = Scripted([{"type": "text", "text": "Searching."}], stop_reason="pause_turn")
    world = World(answers("hello", paused, paused, Fault.http(529)))
    async with world.manager() as manager:
        session = await create(manager, tools=[{"type": "web_search_20250305", "name": "web_search"}])
        await session.send("Hello")
        with pytest.raises(ModelError):
            await session.send("find it")
        await _goes_on(session, world)
        assert "Searching." not in str(session.messages)
        assert words(session) == ["Hello", "find it", "and now?"]


async def test_a_full_window_is_a_reply_that_says_so() -> None:
    world = World(answers(Scripted("cut", stop_reason="model_context_window_exceeded")))
    async with world.manager() as manager:
        session = await create(manager)
        assert (await session.send("talk")).stop_reason == "model_context_window_exceeded"
        await _goes_on(session, world)


async def test_a_stop_reason_nobody_knows_ends_the_turn() -> None:
    world = World(answers(Scripted("so be it", stop_reason="bored")))
    async with world.manager() as manager:
        session = await create(manager)
        reply = await session.send("talk")
        assert (reply.text, reply.stop_reason) == ("so be it", "bored")
        await _goes_on(session, world)


async def test_a_warning_that_is_an_error_is_not_the_models_failure() -> None:
    """The SDK warns of some models before it sends anything; `python -W error` raises that."""
    world = World()
    async with world.manager() as manager:
        session = await create(manager, model="claude-sonnet-4-5")
        with pytest.raises(DeprecationWarning, match="claude-sonnet-4-5"):
            await session.send("go")
        assert [call.status for call in await session.calls()] == ["error"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            await _goes_on(session, world)


@pytest.mark.parametrize("step", [0, 1])
async def test_a_policy_that_returns_rubbish_is_named_and_the_session_goes_on(step: int) -> None:
    chosen = ["5m"] * step + ["1 hour"]

    class Moody:
        def choose(self, outlook: Outlook) -> Any:
            return chosen.pop(0) if chosen else "5m"

    world = World(talkative)
    async with world.manager(ttl=Moody()) as manager:
        session = await create(manager, tools=[look])
        with pytest.raises(ValueError, match=r"Moody\.choose returned '1 hour': it must return one of"):
            await session.send("go")
        assert len(world.requests) == step
        await _goes_on(session, world)


@everywhere
@pytest.mark.parametrize("how", ["cut", "stopped"])
async def test_an_answer_that_was_cut_is_booked_with_the_size_of_what_had_come(how: str) -> None:
    """The API's own count comes with the end of an answer; before it, there is only a placeholder."""
    long = filler(2000)
    world = World(answers(long), faults={0: Fault.cut(30)} if how == "cut" else None)
    async with world.manager() as manager:
        session = await create(manager)
        if how == "cut":
            with pytest.raises(ModelError):
                await session.send("talk")
        else:
            async with session.stream("talk") as stream:
                text = ""
                async for part in stream.text_stream:
                    text += part
                    if len(text) > 4000:
                        await stream.cancel()
        (row,) = await session.calls()
        assert row.estimated
        assert row.request_id == world.requests[0].request_id
        billed = world.engine.bill().usage.output
        assert 0.8 * billed <= row.usage.output <= 1.2 * billed
        assert (await manager.open(session.id)).id == session.id
        assert (await session.send("and now?")).calls[0].estimated is False


@pytest.mark.parametrize("where", ["header", "gateway", "body", "nowhere"])
async def test_the_requests_id_is_found_where_it_stands(where: str) -> None:
    headers = {"header": {"request-id": "req_1"}, "gateway": {"x-request-id": "req_1"}}.get(where, {})
    body = {"type": "error", "error": {"type": "api_error", "message": "no"}}
    given = {**body, "request_id": "req_1"} if where == "body" else body
    response = httpx2.Response(500, headers=headers, request=httpx2.Request("POST", "https://api.example"))
    error = anthropic.InternalServerError("no", response=response, body=given)
    assert model_error(error).request_id == (None if where == "nowhere" else "req_1")
