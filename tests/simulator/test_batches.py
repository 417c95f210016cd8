"""Message Batches of the simulator, seen through the real SDK: in process and over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import anthropic
import pytest

from sessions import profile_for, simulator
from sessions.core.prices import cost
from sessions.simulator import Engine, Fault, Latency, Request, Scripted
from sessions.testing import ManualClock
from tests.sessions.world import MODEL, SYSTEM, buckets, everywhere

HOUR = {"type": "ephemeral", "ttl": "1h"}
PREFIX = [{"type": "text", "text": SYSTEM, "cache_control": HOUR}]


def request(name: str, words: str = "Hello", **given: Any) -> Any:
    params = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": words}], **given}
    return {"custom_id": name, "params": params}


class Place:
    """An engine, a clock, and the SDK's batches above them; a batch takes a minute."""

    def __init__(self, script: Any = None, *, seconds: float = 60.0, key: str = "simulated", **given: Any) -> None:
        self.clock, self.engine = ManualClock(), Engine(script, **given)
        self.seconds = seconds
        self.batches = self.client(key).messages.batches

    def client(self, key: str = "simulated") -> anthropic.AsyncAnthropic:
        latency = Latency(batch=self.seconds)
        return simulator.client(engine=self.engine, clock=self.clock, latency=latency, max_retries=0, api_key=key)

    async def results(self, *requests: Any) -> dict[str, Any]:
        """The results of a batch of these requests, by custom id."""
        batch = await self.batches.create(requests=requests)
        await self.clock.advance(self.seconds)
        return {one.custom_id: one.result async for one in await self.batches.results(batch.id)}


@everywhere
async def test_a_batch_is_made_waits_and_gives_its_results() -> None:
    place = Place(lambda request: f"You said {request.text}")
    made = await place.batches.create(requests=[request("a", "one"), request("b", "two")])
    assert (made.processing_status, made.request_counts.processing, made.results_url) == ("in_progress", 2, None)
    with pytest.raises(anthropic.AnthropicError, match="results_url"):
        await place.batches.results(made.id)
    await place.clock.advance(59)
    assert (await place.batches.retrieve(made.id)).processing_status == "in_progress"
    with pytest.raises(anthropic.NotFoundError, match="no results yet"):
        await place.client().get(f"/v1/messages/batches/{made.id}/results", cast_to=object)
    await place.clock.advance(1)
    ended = await place.batches.retrieve(made.id)
    assert (ended.processing_status, ended.request_counts.succeeded) == ("ended", 2)
    assert ended.ended_at is not None
    assert (ended.ended_at - ended.created_at).total_seconds() == 60
    found = {one.custom_id: one.result async for one in await place.batches.results(made.id)}
    assert {name: result.message.content[0].text for name, result in found.items()} == {  # type: ignore[union-attr]
        "a": "You said one",
        "b": "You said two",
    }
    assert place.engine.bill().charged == 2


@everywhere
async def test_every_token_costs_half() -> None:
    place = Place(lambda _: "fine")
    await place.results(request("a", system=PREFIX))
    usage, price = place.engine.bill().usage, cost(place.engine.bill().usage, profile_for(MODEL))
    assert usage.cache_write_1h == 600
    assert price is not None
    assert place.engine.bill().cost == price / 2 > Decimal(0)


@everywhere
async def test_requests_of_one_batch_start_together_and_a_later_batch_reads_what_they_wrote() -> None:
    place = Place(lambda _: "fine")
    first = await place.results(request("a", system=PREFIX), request("b", system=PREFIX))
    written = [one.message.usage.cache_creation_input_tokens for one in first.values()]
    assert written[0] == written[1] == 600
    await place.clock.advance(50 * 60)
    later = await place.results(request("c", system=PREFIX))
    assert later["c"].message.usage.cache_read_input_tokens == written[0]


@everywhere
async def test_a_bad_request_is_an_errored_item_and_costs_nothing() -> None:
    place = Place(lambda _: "fine")
    found = await place.results(
        request("stream", stream=True),
        request("none", max_tokens=0),
        request("fast", speed="fast"),
        request("empty", messages=[]),
        request("good"),
    )
    told = {name: one.error.error.message for name, one in found.items() if one.type == "errored"}
    assert told == {
        "stream": "stream: streaming is not supported in a Message Batch",
        "none": "max_tokens: Input should be greater than or equal to 1",
        "fast": "speed: not supported in a Message Batch",
        "empty": "messages: at least one message is required",
    }
    assert found["good"].type == "succeeded"
    assert place.engine.bill().charged == 1


@everywhere
async def test_planned_faults_are_results() -> None:
    planned = {"one": Fault.http(529), "two": Fault("expired"), "three": Fault.cut(2), "four": Fault.drop()}

    def script(request: Request) -> Any:
        return planned.get(request.text, "fine")

    place = Place(script)
    found = await place.results(*(request(name, name) for name in (*planned, "five")))
    kinds = {name: one.type for name, one in found.items()}
    assert kinds == {"one": "errored", "two": "expired", "three": "errored", "four": "errored", "five": "succeeded"}
    assert found["one"].error.error.type == "overloaded_error"
    assert place.engine.bill().charged == 1
    place = Place(faults={1: Fault.http(500)})
    assert (await place.results(request("a")))["a"].type == "errored"


@everywhere
async def test_content_faults_spoil_what_a_reply_says() -> None:
    calls = [{"type": "tool_use", "name": "look", "input": {}}] * 2
    place = Place(lambda _: Scripted(calls, fault=Fault("repeated_id")))
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    found = await place.results(request("a", tools=tools))
    assert [block.id for block in found["a"].message.content] == ["toolu_01repeated"] * 2
    assert found["a"].message.stop_reason == "tool_use"


@everywhere
async def test_a_batch_that_takes_a_day_expires() -> None:
    place = Place(seconds=25 * 3600.0)
    made = await place.batches.create(requests=[request("a")])
    await place.clock.advance(24 * 3600)
    ended = await place.batches.retrieve(made.id)
    assert (ended.processing_status, ended.request_counts.expired) == ("ended", 1)
    assert ended.ended_at == ended.expires_at
    assert place.engine.bill().charged == 0


@everywhere
async def test_cancel_and_delete() -> None:
    place = Place()
    made = await place.batches.create(requests=[request("a")])
    with pytest.raises(anthropic.BadRequestError, match="cancel it first"):
        await place.batches.delete(made.id)
    canceling = await place.batches.cancel(made.id)
    assert canceling.processing_status == "canceling"
    assert canceling.cancel_initiated_at is not None
    assert [one.result.type async for one in await place.batches.results(made.id)] == ["canceled"]
    with pytest.raises(anthropic.BadRequestError, match="cannot be canceled"):
        await place.batches.cancel(made.id)
    assert (await place.batches.delete(made.id)).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError, match=made.id):
        await place.batches.retrieve(made.id)


@everywhere
async def test_batches_are_listed_newest_first_in_pages_and_apart_between_workspaces() -> None:
    place = Place(seconds=0.0)
    made = [await place.batches.create(requests=[request("a")]) for _ in range(5)]
    names = [one.id for one in reversed(made)]
    assert [one.id async for one in place.batches.list(limit=2)] == names
    page = await place.batches.list(after_id=names[1], limit=2)
    assert ([one.id for one in page.data], page.has_more) == (names[2:4], True)
    page = await place.batches.list(before_id=names[3], limit=2)
    assert ([one.id for one in page.data], page.has_more) == (names[1:3], True)
    other = place.client("simulated/elsewhere").messages.batches
    assert [one.id async for one in other.list()] == []
    with pytest.raises(anthropic.NotFoundError):
        await other.retrieve(names[0])
    with pytest.raises(anthropic.BadRequestError, match="1000"):
        await place.batches.list(limit=1001)


@everywhere
async def test_results_are_gone_after_29_days() -> None:
    place = Place()
    made = await place.batches.create(requests=[request("a")])
    await place.clock.advance(29 * 24 * 3600)
    archived = await place.batches.retrieve(made.id)
    assert archived.archived_at is not None
    assert archived.results_url is None
    with pytest.raises(anthropic.NotFoundError, match="no longer"):
        await place.client().get(f"/v1/messages/batches/{made.id}/results", cast_to=object)


@pytest.mark.parametrize(
    ("requests", "text"),
    [
        ([], "between 1 and 100000"),
        ([request("a"), request("a")], "must be unique"),
        ([request("no spaces")], "should match pattern"),
        ([{"custom_id": "a"}], "requests.0.params: Field required"),
        ([{**request("a"), "more": 1}], "requests.0.more: Extra inputs"),
        ([{"custom_id": 7, "params": {}}], "valid string"),
        ([{"custom_id": "a", "params": []}], "valid dictionary"),
        ("words", "valid list"),
    ],
)
async def test_a_batch_that_cannot_be_made_is_refused(requests: Any, text: str) -> None:
    place = Place()
    with pytest.raises(anthropic.BadRequestError, match=text):
        await place.client().post("/v1/messages/batches", body={"requests": requests}, cast_to=object)


@pytest.mark.parametrize(
    ("body", "text"), [({}, "requests: Field required"), ({"requests": [], "more": 1}, "more: Extra"), ([], "body")]
)
async def test_a_body_that_is_no_batch_is_refused(body: Any, text: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=text):
        await Place().client().post("/v1/messages/batches", body=body, cast_to=object)


async def test_bodies_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Place().client()
    with pytest.raises(anthropic.BadRequestError, match="not valid JSON"):
        await client.post("/v1/messages/batches", content=b"{", cast_to=object)
    monkeypatch.setattr("sessions.simulator.batches.LARGEST", 10)
    with pytest.raises(anthropic.APIStatusError, match="maximum size"):
        await client.messages.batches.create(requests=[request("a")])


async def test_other_paths_methods_and_strangers() -> None:
    place = Place(seconds=0.0)
    made = await place.batches.create(requests=[request("a")])
    client = place.client()
    with pytest.raises(anthropic.NotFoundError):
        await client.get(f"/v1/messages/batches/{made.id}/elsewhere", cast_to=object)
    with pytest.raises(anthropic.APIStatusError):
        await client.put("/v1/messages/batches", cast_to=object)
    with pytest.raises(anthropic.NotFoundError):
        await client.put(f"/v1/messages/batches/{made.id}", cast_to=object)
    with pytest.raises(anthropic.AuthenticationError):
        await place.client("").messages.batches.create(requests=[request("a")])


@everywhere
async def test_a_connection_that_breaks_before_or_after_the_batch_is_made() -> None:
    place = Place(seconds=0.0, faults={0: Fault.drop(), 2: Fault.cut(0), 5: Fault.http(429)})
    for made in (0, 1):
        with pytest.raises(anthropic.APIConnectionError):
            await place.batches.create(requests=[request("a")])
        assert len([one async for one in place.batches.list()]) == made
    with pytest.raises(anthropic.RateLimitError):
        await place.batches.list()


@everywhere
async def test_thinking_of_another_conversation_is_dropped_in_a_batch() -> None:
    place = Place(lambda _: Scripted("fine", thinking="hm"))
    thought = await place.client().messages.create(
        model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "Hello"}]
    )
    edited: Sequence[Any] = [
        {"role": "user", "content": "Something else"},
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in thought.content]},
        {"role": "user", "content": "Go on"},
    ]
    found = await place.results(request("a", messages=edited))
    assert found["a"].type == "succeeded"
    with pytest.raises(anthropic.BadRequestError, match="different conversation"):
        await place.client().messages.create(model=MODEL, max_tokens=100, messages=list(edited))


async def test_over_http_and_with_betas() -> None:
    engine = Engine(lambda _: "line one\u2028line two")
    async with simulator.serving(engine) as url, anthropic.AsyncAnthropic(base_url=url, api_key="a") as client:
        beta = client.beta.messages.batches
        made = await beta.create(requests=[request("a")], betas=["compact-2026-09-04"])
        assert (await beta.retrieve(made.id)).processing_status == "ended"
        found = [one.result.message.content[0].text async for one in await beta.results(made.id)]  # type: ignore[union-attr]
        assert found == ["line one\u2028line two"]
        assert [one.id async for one in client.messages.batches.list()] == [made.id]
        assert (await client.messages.batches.delete(made.id)).id == made.id
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.batches.cancel(made.id)


async def test_a_live_request_reads_what_a_batch_wrote_though_nobody_looked_at_it() -> None:
    place = Place(lambda _: "fine")
    await place.batches.create(requests=[request("a", system=PREFIX)])
    await place.clock.advance(120)
    live = await place.client().messages.create(**request("a", system=PREFIX)["params"])
    assert live.usage.cache_read_input_tokens
    batched, asked = [one for one in place.engine.requests if one.usage is not None]
    assert batched.started == asked.started - 60
    assert buckets(batched.usage)[3] == asked.usage.cache_read if batched.usage and asked.usage else False
