"""What a client of the real SDK meets: replies, streams, ids, counting, latency, hanging up."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import anthropic
import anyio
import pytest

from sessions import ConfigurationError
from sessions.simulator import Engine, Latency, Request, Scripted, client, engine_of, filler, is_simulated
from sessions.simulator.tokens import BYTES_PER_TOKEN
from sessions.testing import simulated_manager

TOOLS: list[Any] = [
    {
        "name": "get_weather",
        "description": "The weather of a city",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
    {
        "name": "add",
        "description": "Adds two numbers",
        "input_schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
]


def test_a_client_needs_no_key_and_can_be_recognised() -> None:
    simulated = client()
    assert is_simulated(simulated)
    assert isinstance(engine_of(simulated), Engine)
    assert simulated.characters_per_token == BYTES_PER_TOKEN
    assert type(simulated) is anthropic.AsyncAnthropic
    real = anthropic.AsyncAnthropic(api_key="k")
    assert not is_simulated(real)
    with pytest.raises(ValueError, match="does not speak to a simulator"):
        engine_of(real)
    with pytest.raises(ValueError, match="either an engine"):
        client(lambda request: "x", engine=Engine())


def test_streamed_and_whole_replies_are_the_same(run, ask) -> None:
    async def main() -> None:
        script = lambda request: Scripted([{"type": "text", "text": "Ä" * 500}], thinking="hm")  # noqa: E731
        whole = await client(script).messages.create(**ask)
        async with client(script).messages.stream(**ask) as stream:
            streamed = await stream.get_final_message()
        drop = {"parsed_output"}
        assert [b.model_dump(exclude=drop) for b in streamed.content] == [b.model_dump() for b in whole.content]
        assert streamed.usage.model_dump() == whole.usage.model_dump()
        assert (streamed.id, streamed.stop_reason) == (whole.id, whole.stop_reason)

    run(main)


def test_the_order_of_events_is_the_real_one(ask) -> None:
    async def main() -> list[Any]:
        call = {"type": "tool_use", "name": "get_weather", "input": {"city": "Rome"}}
        simulated = client(lambda request: [{"type": "text", "text": "Hi"}, call])
        return [event async for event in await simulated.messages.create(stream=True, tools=TOOLS, **ask)]

    events = anyio.run(main)
    names = [event.type for event in events]
    assert names == [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert events[0].message.usage.input_tokens > 0
    assert events[4].content_block.caller.type == "direct"
    assert events[5].delta.partial_json == ""
    assert events[8].usage.input_tokens == events[0].message.usage.input_tokens


def test_raw_events_hold_a_ping_and_the_split(ask) -> None:
    async def main() -> bytes:
        async with client().messages.with_streaming_response.create(stream=True, **ask) as response:
            assert response.headers["request-id"].startswith("req_")
            assert response.headers["anthropic-workspace-id"] == "default"
            return await response.read()

    text = anyio.run(main).decode()
    first = text.split("\n\n")
    assert '"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}' in first[0]
    assert first[2] == 'event: ping\ndata: {"type":"ping"}'


def test_tools_are_called_in_parallel_and_their_results_used(run) -> None:
    async def main() -> None:
        simulated = client()
        messages: list[Any] = [{"role": "user", "content": "What's the weather in Paris and Rome?"}]
        common: dict[str, Any] = {
            "model": "claude-sonnet-5-5",
            "max_tokens": 1000,
            "tools": TOOLS,
            "system": "Be brief.",
        }
        first = await simulated.messages.create(messages=messages, **common)
        calls = [block for block in first.content if block.type == "tool_use"]
        assert [call.input for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
        assert first.stop_reason == "tool_use"
        messages.append(
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]}
        )
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": f"{n} °C"} for n, call in enumerate(calls)
        ]
        messages.append({"role": "user", "content": results})
        second = await simulated.messages.create(messages=messages, **common)
        assert "get_weather(Rome): 1 °C" in second.content[-1].text
        assert second.stop_reason == "end_turn"

    run(main)


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        ("Please add 2 and 40.5", [("add", {"a": 2, "b": 40.5})]),
        ("weather for Berlin", [("get_weather", {"city": "Berlin"})]),
        ("How are you?", []),
        ("Tell me a story", []),
    ],
)
def test_the_assistant_calls_what_the_words_mention(words: str, calls: list[Any]) -> None:
    async def main() -> Any:
        return await client().messages.create(
            model="claude-opus-4-8", max_tokens=500, tools=TOOLS, messages=[{"role": "user", "content": words}]
        )

    found = [(block.name, block.input) for block in anyio.run(main).content if block.type == "tool_use"]
    assert found == calls


def test_the_assistant_remembers_what_it_was_told(run) -> None:
    async def main() -> str:
        reply = await client().messages.create(
            model="claude-opus-4-8",
            max_tokens=500,
            messages=[
                {"role": "user", "content": "Hi, my name is Ada. My favourite colour is green."},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": "What is my name?"},
            ],
        )
        return reply.content[0].text

    assert run(main) == "Your name is Ada."


def test_equal_conversations_get_equal_replies(ask) -> None:
    async def main() -> list[Any]:
        return [(await client().messages.create(**ask)).model_dump() for _ in range(2)]

    first, second = anyio.run(main)
    assert first == second


def test_a_script_sees_the_request(run, ask) -> None:
    seen: list[Request] = []

    async def script(request: Request) -> str:
        await anyio.lowlevel.checkpoint()
        seen.append(request)
        return f"{request.turn} {request.text}"

    async def main() -> None:
        reply = await client(script).messages.create(**ask, system="S", tools=TOOLS)
        assert reply.content[0].text == "1 Hello there"

    run(main)
    assert (seen[0].model, seen[0].system, list(seen[0].tools)) == ("claude-sonnet-5-5", "S", ["get_weather", "add"])
    assert seen[0].thinking
    assert seen[0].results == []


LIMITED = [
    ({"max_tokens": 10}, "word " * 100, "max_tokens", "word " * 5 + "wor"),
    ({"stop_sequences": ["C"]}, "A B C D", "stop_sequence", "A B "),
]


@pytest.mark.parametrize(("fields", "said", "reason", "text"), LIMITED)
def test_limits_end_a_reply(ask, fields: dict[str, Any], said: str, reason: str, text: str) -> None:
    async def main() -> Any:
        return await client(lambda request: said).messages.create(**{**ask, **fields})

    reply = anyio.run(main)
    assert reply.stop_reason == reason
    assert reply.content[0].text == text
    assert reply.stop_sequence == (fields.get("stop_sequences") or [None])[0]


def test_a_tool_call_cut_by_max_tokens_is_unfinished_json(ask) -> None:
    async def main() -> Any:
        call = {"type": "tool_use", "name": "get_weather", "input": {"city": "R" * 400}}
        simulated = client(lambda request: [{"type": "text", "text": "Hi"}, call])
        return [event async for event in await simulated.messages.create(stream=True, **{**ask, "max_tokens": 40})]

    events = anyio.run(main)
    text = "".join(e.delta.partial_json for e in events if e.type == "content_block_delta" and e.index == 1)
    assert text.startswith('{"city": "RRR')
    assert not text.endswith("}")
    assert [e.delta.stop_reason for e in events if e.type == "message_delta"] == ["max_tokens"]


def test_a_refusal_and_a_pause(ask) -> None:
    async def main() -> Any:
        replies = iter(
            [
                Scripted([], stop_reason="refusal", stop_details={"type": "refusal", "category": "cyber"}),
                Scripted("Searching", stop_reason="pause_turn"),
                Scripted("Done"),
            ]
        )
        simulated = client(lambda request: next(replies))
        refused = await simulated.messages.create(**ask)
        paused = await simulated.messages.create(**ask)
        turns = [*ask["messages"], {"role": "assistant", "content": [b.model_dump() for b in paused.content]}]
        return refused, paused, await simulated.messages.create(**{**ask, "messages": turns})

    refused, paused, done = anyio.run(main)
    assert (refused.stop_reason, refused.stop_details.category, refused.content) == ("refusal", "cyber", [])
    assert (paused.stop_reason, done.stop_reason) == ("pause_turn", "end_turn")


def test_diagnostics_name_the_first_difference(run, ask) -> None:
    async def main() -> None:
        simulated = client()

        async def why(previous: str | None, **fields: Any) -> Any:
            reply = await simulated.messages.create(**{**ask, **fields}, diagnostics={"previous_message_id": previous})
            return reply.id, reply.diagnostics

        first, none = await why(None)
        assert none is None
        longer = [*ask["messages"], {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "More"}]
        assert (await why(first, messages=longer))[1] is None
        for change, reason in (
            ({"model": "claude-opus-5-5"}, "model_changed"),
            ({"tools": TOOLS}, "tools_changed"),
            ({"system": "New"}, "system_changed"),
            ({"messages": longer[2:]}, "messages_changed"),
            ({"output_config": {"effort": "low"}}, "unavailable"),
        ):
            found = (await why(first, **change))[1].cache_miss_reason
            assert found.type == reason
            assert reason == "unavailable" or found.cache_missed_input_tokens > 0
        unknown = (await why("msg_unknown"))[1].cache_miss_reason
        assert unknown.type == "previous_message_not_found"
        assert (await simulated.messages.create(**ask)).diagnostics is None

    run(main)


def test_tokens_are_counted_and_models_listed(run, ask) -> None:
    async def main() -> None:
        simulated = client()
        counted = await simulated.messages.count_tokens(
            model=ask["model"], messages=ask["messages"], system=filler(500)
        )
        reply = await simulated.messages.create(**ask, system=filler(500))
        assert counted.input_tokens == reply.usage.input_tokens
        assert "claude-opus-5" in [model.id async for model in simulated.models.list()]
        assert (await simulated.models.retrieve("claude-haiku-4-5")).max_input_tokens == 200_000
        with pytest.raises(anthropic.NotFoundError):
            await simulated.models.retrieve("claude-9")

    run(main)


def test_latency_is_waited_on_the_clock(run, ask, clock) -> None:
    async def main() -> None:
        latency = Latency(prefill_per_token=0.01, first_event=0.5, per_output_token=0.1)
        simulated = client(lambda request: Scripted("word " * 20, delay=3), clock=clock, latency=latency)
        marked = {"type": "text", "text": filler(1000), "cache_control": {"type": "ephemeral"}}
        await simulated.messages.create(**ask, system=[marked])
        cold = clock.waits[0]
        async with simulated.messages.stream(**ask, system=[marked]) as stream:
            await stream.get_final_message()
        first, second = engine_of(simulated).requests
        assert cold == pytest.approx(0.5 + 0.01 * first.usage.total_input)
        assert second.began - second.started == pytest.approx(0.5 + 0.01 * (second.usage.total_input - 1000))
        assert second.ended - second.began == pytest.approx(3 + 0.1 * second.usage.output)

    run(main)


@pytest.mark.filterwarnings("ignore:Async generator 'anthropic:ResourceWarning")  # the SDK leaves its own to Trio
def test_hanging_up_ends_the_exchange_as_cut(run, ask) -> None:
    async def main() -> None:
        simulated = client(lambda request: "word " * 500)
        stream = await simulated.messages.create(stream=True, **ask)
        async with aclosing(aiter(stream)) as events:  # Trio wants generators closed by hand
            async for event in events:
                if event.type == "content_block_delta":
                    break
        await stream.close()
        exchange = engine_of(simulated).requests[0]
        assert exchange.state == "cut"
        assert 0 < exchange.usage.output < 500
        assert exchange.usage.input > 0
        assert engine_of(simulated).bill().charged == 1

    run(main)


def test_cancelling_before_the_first_event_charges_nothing(run, ask) -> None:
    async def main() -> None:
        async def script(request: Request) -> str:
            await anyio.sleep_forever()
            return ""

        simulated = client(script)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: simulated.messages.create(**ask))
            while not engine_of(simulated).requests:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        exchange = engine_of(simulated).requests[0]
        assert (exchange.state, exchange.usage) == ("cut", None)
        assert engine_of(simulated).bill().charged == 0

    run(main)


def test_eight_at_once_write_eight_times_one_after_another_once(run, ask) -> None:
    async def main() -> None:
        latency = Latency(first_event=0.01)
        simulated = client(lambda request: "ok", latency=latency)
        system = [{"type": "text", "text": filler(1000), "cache_control": {"type": "ephemeral"}}]
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(lambda: simulated.messages.create(**ask, system=system))
        written = [exchange.usage.cache_write_5m for exchange in engine_of(simulated).requests]
        assert written == [1000] * 8
        assert (await simulated.messages.create(**ask, system=system)).usage.cache_read_input_tokens == 1000

    run(main)


def test_errors_are_the_sdks_own(run, ask) -> None:
    async def main() -> None:
        simulated = client(max_retries=0)
        with pytest.raises(anthropic.BadRequestError, match="max_tokens: Input should be") as caught:
            await simulated.messages.create(**{**ask, "max_tokens": -5})
        assert caught.value.request_id == engine_of(simulated).requests[0].request_id
        with pytest.raises(anthropic.NotFoundError, match="model: nope"):
            await simulated.messages.create(**{**ask, "model": "nope"})
        assert engine_of(simulated).bill().refused == 2

    run(main)


def test_the_bill_adds_up_in_all_buckets(run, ask) -> None:
    async def main() -> None:
        simulated = client()
        system = [{"type": "text", "text": filler(1000), "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
        replies = [await simulated.messages.create(**ask, system=system) for _ in range(3)]
        bill = engine_of(simulated).bill()
        assert bill.usage.cache_write_1h == 1000
        assert bill.usage.cache_read == 2000
        assert bill.usage.input == sum(reply.usage.input_tokens for reply in replies)
        assert bill.usage.output == sum(reply.usage.output_tokens for reply in replies)
        dollars = bill.usage.input * 2 + bill.usage.output * 10 + 1000 * 4 + 2000 * 0.1
        assert float(bill.cost) == pytest.approx(dollars / 1_000_000)

    run(main)


def test_an_engine_keeps_a_bounded_memory(run, ask) -> None:
    async def main() -> None:
        engine = Engine(keep=5, keep_messages=2)
        simulated = client(engine=engine)
        for _ in range(8):
            await simulated.messages.create(**ask)
        assert len(engine.requests) == 5
        assert [exchange.body is not None for exchange in engine.requests] == [False, False, False, True, True]
        assert engine.bill().charged == 8

    run(main)


def test_types_that_are_not_known_are_let_through_on_request(run, ask) -> None:
    async def main() -> None:
        messages = [
            *ask["messages"],
            {"role": "assistant", "content": [{"type": "hologram", "x": 1}]},
            *ask["messages"],
        ]
        with pytest.raises(anthropic.BadRequestError, match="Input tag 'hologram'"):
            await client().messages.create(**{**ask, "messages": messages})
        simulated = client(engine=Engine(blocks=["hologram"]))
        assert (await simulated.messages.create(**{**ask, "messages": messages})).content

    run(main)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_error_in_a_script_is_that_error(kind: str) -> None:
    async def waiting(request: Request) -> str:
        raise KeyError("no such answer")

    def script(request: Request) -> str:
        raise KeyError("no such answer")

    async with simulated_manager(script=waiting if kind == "async" else script) as manager:
        session = await manager.create(model="claude-sonnet-5-5", max_tokens=100)
        with pytest.raises(
            ConfigurationError, match="the simulator's script raised KeyError: 'no such answer'"
        ) as told:
            await session.send("Hello")
        assert isinstance(told.value.__cause__, KeyError)
        assert [one.kind for one in await session.calls()] == ["turn"]
