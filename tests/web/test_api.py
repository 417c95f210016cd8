"""The JSON API: every endpoint, as a page uses it, and what it says to what is wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sessions.simulator import Fault
from sessions.web import Agent, Limits
from tests.sessions.world import answers, call
from tests.turns.acts import Held
from tests.web.world import AGENT, MODEL, PLAIN, Place, Stream, look, pay, service, types

TEXT = [{"type": "text", "text": "Hello"}]


async def test_a_conversation_from_first_words_to_its_end(either_store: str) -> None:
    async with service(either_store, answers("**Hi** there"), simulated=True) as place:
        config = await place.get("/api/config")
        assert (config["owner"], config["operator"], config["simulated"]) == ("local", True, True)
        assert [agent["name"] for agent in config["agents"]] == ["helper", "plain"]
        assert config["agents"][0] == {"name": "helper", "description": "Helps.", "model": MODEL}
        assert "application/pdf" in config["file_types"]

        id = await place.create()
        begun = await place.begin(id, "Hello   **you**")
        assert begun["session"] == id
        events = await place.events(begun)
        assert types(events)[0] == "snapshot"
        assert events[-1]["state"] == "finished"
        assert events[-1]["stop_reason"] == "end_turn"
        assert float(events[-1]["cost"]) > 0
        assert events[-1]["usage"]["output"] > 0

        shown = await place.show(id)
        asked, answer = shown["entries"]
        assert (asked["role"], answer["role"]) == ("user", "assistant")
        assert answer["blocks"] == [
            {"type": "text", "text": "**Hi** there", "html": "<p><strong>Hi</strong> there</p>\n"}
        ]
        (turn,) = shown["turns"]
        assert (turn["id"], turn["entry"], turn["replies"]) == (begun["turn"], asked["id"], [answer["id"]])
        assert (turn["cost"], turn["usage"]) == (events[-1]["cost"], events[-1]["usage"])
        assert (shown["earlier"], shown["pending"], shown["branches"]) == (0, [], [])
        item = shown["session"]
        assert (item["title"], item["agent"], item["state"], item["turns"]) == ("Hello **you**", "helper", "idle", 1)
        assert item["cost"] == turn["cost"]
        assert item["updated_at"] >= turn["ended"] > item["created_at"]
        (row,) = (await place.get("/api/sessions"))["sessions"]
        assert {**row, "updated_at": 0} == {**item, "updated_at": 0}
        assert (await place.get(f"/api/sessions/{id}/cost"))["total"] == turn["cost"]


async def test_events_have_deltas_and_the_html_of_a_block(either_store: str) -> None:
    model = Held(lambda request: "One *two*")
    async with service(either_store, model) as place:
        begun = await place.begin(await place.create("plain"), "Go")
        stream = Stream(place.app, "/" + begun["events"])
        await stream.until(lambda s: s.events)
        assert stream.events[0]["state"] == "running"
        assert [entry["role"] for entry in stream.events[0]["entries"]] == ["user"]
        model.let_go()
        await stream.until(lambda s: s.task.done())
        assert types(stream.events) == ["snapshot", "block_start", "delta", "block_stop", "usage", "entry", "ended"]
        assert "".join(event["value"] for event in stream.events if event["type"] == "delta") == "One *two*"
        stop = next(event for event in stream.events if event["type"] == "block_stop")
        assert stop["html"] == "<p>One <em>two</em></p>\n"
        entry = next(event for event in stream.events if event["type"] == "entry")["entry"]
        assert entry["blocks"][0]["html"] == stop["html"]
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-content-type-options"] == "nosniff"

        ids = [event["id"] for event in stream.events]
        newest = begun | {"events": f"api/sessions/{begun['session']}/turns/newest/events"}
        again = await place.events(newest)
        assert types(again) == ["snapshot", "ended"]
        assert len(again[0]["entries"]) == 2
        assert await place.events(begun, **{"Last-Event-ID": again[-1]["id"]}) == []
        assert await place.events(begun | {"events": f"{begun['events']}?after={again[0]['id']}"}) == again[1:]
        for garbage in ("x", "9" * 5000, "1.2.3", ids[0]):
            assert types(await place.events(begun, **{"Last-Event-ID": garbage}))[-1] == "ended"


async def test_what_was_missed_comes_again(either_store: str) -> None:
    model = Held(lambda request: "word " * 50)
    async with service(either_store, model) as place:
        begun = await place.begin(await place.create("plain"), "Go")
        first = Stream(place.app, "/" + begun["events"])
        await first.until(lambda s: s.events)
        last = first.events[-1]["id"]
        await first.close()
        second = Stream(place.app, "/" + begun["events"], {"last-event-id": last})
        await second.until(lambda s: s.status)
        model.let_go()
        await second.until(lambda s: s.task.done())
        told = {event["type"]: event for event in second.events}
        entry = told["entry"]["entry"] if "entry" in told else told["snapshot"]["entries"][-1]
        assert (entry["role"], second.events[-1]["state"]) == ("assistant", "finished")
        assert "restarted" not in types(second.events)


async def test_there_is_nothing_to_follow_before_the_first_words(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        id = await place.create()
        response = await place.get(f"/api/sessions/{id}/turns/newest/events", 204)
        assert response.content == b""
        await place.get(f"/api/sessions/{id}/turns/nothing/events", 404)
        await place.post(f"/api/sessions/{id}/turns/newest/stop", {}, 404)
        await place.post(f"/api/sessions/{id}/resume", {}, 409)
        await place.post(f"/api/sessions/{id}/regenerate", {}, 409)


async def test_a_message_id_is_one_turn(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        id = await place.create()
        begun = await place.begin(id, "Hello", "m1")
        both = await asyncio.gather(place.begin(id, "Hello", "m1"), place.begin(id, "Hello", "m1"))
        await place.events(begun)
        assert {one["turn"] for one in [*both, await place.begin(id, "Hello", "m1")]} == {begun["turn"]}
        body = {"id": "m1", "content": [{"type": "text", "text": "Other"}]}
        assert "other content" in (await place.post(f"/api/sessions/{id}/turns", body, 422))["detail"]
        assert len((await place.show(id))["turns"]) == 1


async def test_a_key_is_one_conversation(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        made = await asyncio.gather(*(place.create(key="tab 1") for _ in range(4)))
        assert len(set(made)) == 1
        assert await place.create(key="tab 2", title="Second") not in made
        await place.post("/api/sessions", {"agent": "plain", "key": "tab 1"}, 409)
        assert "helper, plain" in (await place.post("/api/sessions", {"agent": "nobody"}, 404))["detail"]


async def test_lists_have_cursors_and_are_searched(either_store: str) -> None:
    async with service(either_store) as place:
        ids = [await place.create(title=f"About {number}") for number in range(5)]
        found: list[str] = []
        before = ""
        while True:
            page = await place.get("/api/sessions", params={"limit": 2, "before": before})
            found += [item["id"] for item in page["sessions"]]
            if page["next"] is None:
                break
            before = page["next"]
        assert found == ids[::-1]
        (one,) = (await place.get("/api/sessions", params={"search": "About 3"}))["sessions"]
        assert one["id"] == ids[3]
        assert (await place.get("/api/sessions", params={"state": "running"}))["sessions"] == []
        for wrong in ({"limit": "0"}, {"limit": "x"}, {"limit": "201"}, {"limit": "٣" * 9999}, {"state": "odd"}):
            await place.get("/api/sessions", 422, params=wrong)
        await place.get("/api/sessions", 404, params={"before": "nothing"})


async def test_a_conversation_is_named_and_deleted(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        id = await place.create()
        response = await place.http.patch(f"/api/sessions/{id}", json={"title": "Mine"})
        assert (response.status_code, response.json()["title"]) == (200, "Mine")
        await place.say(id, "Hello")
        assert (await place.show(id))["session"]["title"] == "Mine"
        assert (await place.http.patch(f"/api/sessions/{id}", json={"title": "a\0b"})).status_code == 422
        assert (await place.http.patch(f"/api/sessions/{id}", json={"title": "a" * 501})).status_code == 422
        assert (await place.http.delete(f"/api/sessions/{id}")).status_code == 204
        assert (await place.http.delete(f"/api/sessions/{id}")).status_code == 404
        await place.get(f"/api/sessions/{id}", 404)


async def test_a_title_waits_for_no_answer(tmp_path: Path) -> None:
    model = Held()
    async with service(tmp_path, model) as place:
        id = await place.create()
        begun = await place.begin(id, "Hello")
        response = await place.http.patch(f"/api/sessions/{id}", json={"title": "Meanwhile"})
        assert (response.status_code, response.json()["title"]) == (200, "Meanwhile")
        assert (await place.show(id))["session"]["state"] == "running"
        model.let_go()
        assert (await place.events(begun))[-1]["state"] == "finished"
        assert (await place.show(id))["session"]["title"] == "Meanwhile"


async def test_long_first_words_are_cut_to_a_title(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        id = await place.create()
        await place.say(id, "many words " * 20, "m")
        title = (await place.show(id))["session"]["title"]
        assert len(title) <= 60
        assert title.endswith("…")


async def test_a_title_by_a_model_is_a_session_of_its_own(tmp_path: Path) -> None:
    def script(request: Any) -> str:
        return "Greetings" if "Name this conversation" in request.text else "Hi"

    agent = Agent("titled", model=MODEL, max_tokens=500, titles="claude-haiku-4-5")
    async with service(tmp_path, script, agents=agent) as place:
        id = await place.create("titled")
        await place.say(id, "Hello")
        await _until(lambda: _title(place, id, "Greetings"))
        assert [item["id"] for item in (await place.get("/api/sessions"))["sessions"]] == [id]
        assert (await place.show(id))["branches"] == []
        (asked,) = await place.manager.list(parent=id)
        assert (asked.model, asked.metadata["purpose"], asked.owner) == ("claude-haiku-4-5", "title", "local")
        own, whole = (await place.show(id))["session"]["cost"], (await place.get(f"/api/sessions/{id}/cost"))["total"]
        assert float(whole) > float(own) > 0
        await place.say(id, "More")
        assert len(await place.manager.list(parent=id)) == 1


async def _title(place: Place, id: str, title: str) -> bool:
    return (await place.show(id))["session"]["title"] == title


async def _until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.01)


# -- stop, resume, approve --


async def test_an_answer_is_stopped_and_what_there_is_stays(tmp_path: Path) -> None:
    model = Held()
    async with service(tmp_path, model) as place:
        id = await place.create()
        begun = await place.begin(id, "Hello")
        stopped = await place.post(f"/api/sessions/{id}/turns/{begun['turn']}/stop")
        assert stopped == {"turn": begun["turn"], "state": "cancelled"}
        assert await place.post(f"/api/sessions/{id}/turns/newest/stop") == stopped
        events = await place.events(begun)
        assert (events[-1]["type"], events[-1]["state"]) == ("ended", "cancelled")
        model.let_go()
        assert (await place.say(id, "Again"))[-1]["state"] == "finished"


async def test_messages_wait_in_line_interrupt_or_are_refused(either_store: str) -> None:
    model = Held()
    async with service(either_store, model) as place:
        id = await place.create()
        first = await place.begin(id, "One")
        second = await place.begin(id, "Two")
        assert second["state"] == "queued"
        body = {"id": "m3", "content": TEXT, "while_running": "refuse"}
        await place.post(f"/api/sessions/{id}/turns", body, 409)
        await place.post(f"/api/sessions/{id}/turns", body | {"while_running": "perhaps"}, 422)
        await place.post(f"/api/sessions/{id}/rewind", {"to": None}, 409)
        third = await place.begin(id, "Three", while_running="interrupt")
        assert (await place.events(first))[-1]["state"] == "cancelled"
        model.let_go()
        for begun, state in ((first, "cancelled"), (second, "finished"), (third, "finished")):
            assert (await place.events(begun))[-1]["state"] == state
        assert [text for text in await place.words(id) if not text.startswith("You said")] == ["One", "Two", "Three"]


async def test_an_interrupted_turn_goes_on(tmp_path: Path) -> None:
    async with service(tmp_path, faults={0: Fault.http(500)}) as place:
        id = await place.create()
        events = await place.say(id, "Hello")
        assert events[-1]["state"] == "interrupted"
        assert events[-1]["error"]
        shown = await place.show(id)
        assert (shown["session"]["state"], shown["turns"][0]["state"]) == ("interrupted", "interrupted")
        begun = await place.post(f"/api/sessions/{id}/resume", {}, 202)
        assert begun["turn"] == shown["turns"][0]["id"]
        events = await place.events(begun)
        assert events[-1]["state"] == "finished"
        again = await place.post(f"/api/sessions/{id}/resume", {}, 202)
        assert (again["turn"], again["state"]) == (begun["turn"], "finished")


async def test_a_call_waits_is_changed_and_approved(either_store: str) -> None:
    async with service(either_store, answers([call("pay", amount=5)], "Done")) as place:
        id = await place.create()
        events = await place.say(id, "Pay")
        assert (events[-1]["type"], events[-1]["state"]) == ("ended", "waiting")
        (asked,) = next(event for event in events if event["type"] == "approval_needed")["calls"]
        shown = await place.show(id)
        assert shown["pending"] == [asked]
        assert (asked["name"], asked["input"], asked["by_caller"]) == ("pay", {"amount": 5}, False)
        assert shown["session"]["state"] == "waiting"
        path = f"/api/sessions/{id}/decisions"
        yes = {"call_id": asked["call_id"], "approve": True}
        await place.post(path, yes | {"reason": "why"}, 422)
        await place.post(path, yes | {"approve": False, "input": {}}, 422)
        assert asked["call_id"] in (await place.post(path, yes | {"call_id": "forged"}, 422))["detail"]
        assert (await place.show(id))["pending"] == [asked]
        decided = await place.post(path, yes | {"input": {"amount": 7}})
        assert decided["pending"] == []
        await _until(lambda: _is(place, id, "idle"))
        events = await place.events({"events": f"api/sessions/{id}/turns/{decided['turn']}/events"})
        assert events[-1]["state"] == "finished"
        results = [
            block for entry in events[0]["entries"] for block in entry["blocks"] if block["type"] == "tool_result"
        ]
        assert "paid 7" in str(results)
        assert await place.words(id) == ["Pay", "Done"]
        await place.post(path, yes, 409)


async def test_a_call_is_denied_with_a_reason(tmp_path: Path) -> None:
    async with service(tmp_path, answers([call("pay", amount=5)], "Pity")) as place:
        id = await place.create()
        await place.say(id, "Pay")
        (asked,) = (await place.show(id))["pending"]
        denied = {"call_id": asked["call_id"], "approve": False, "reason": "too dear"}
        statuses = await asyncio.gather(*(place.http.post(f"/api/sessions/{id}/decisions", json=denied) for _ in "ab"))
        assert sorted(response.status_code for response in statuses) == [200, 409]
        await _until(lambda: _is(place, id, "idle"))
        assert "too dear" in str((await place.show(id))["entries"])
        assert await place.words(id) == ["Pay", "Pity"]


async def _is(place: Place, id: str, state: str) -> bool:
    return bool((await place.show(id))["session"]["state"] == state)


async def test_tools_tell_how_far_they_are(tmp_path: Path) -> None:
    model = Held(lambda request: [call("look")] if len(request.messages) == 1 else "Done")
    async with service(tmp_path, model) as place:
        begun = await place.begin(await place.create(), "Look")
        stream = Stream(place.app, "/" + begun["events"])
        await stream.until(lambda s: s.events)
        model.let_go()
        await stream.until(lambda s: s.task.done())
        told = {event["type"]: event for event in stream.events}
        assert (told["tool_started"]["name"], told["tool_progress"]["text"]) == ("look", "half")
        assert told["tool_result"]["call_id"] == told["tool_started"]["call_id"]
        assert (told["tool_result"]["is_error"], "looked" in str(told["tool_result"]["content"])) == (False, True)


# -- agents that change --


async def _left_by(tmp_path: Path, agents: Any) -> str:
    async with service(tmp_path, agents=agents) as place:
        id = await place.create()
        await place.say(id, "Hello")
        return id


async def test_an_agent_that_is_gone_leaves_its_conversations_to_be_read(tmp_path: Path) -> None:
    id = await _left_by(tmp_path, AGENT)
    async with service(tmp_path, agents=PLAIN) as place:
        assert (await place.show(id))["session"]["agent"] == "helper"
        problem = await place.post(f"/api/sessions/{id}/turns", {"id": "m", "content": TEXT}, 409)
        assert "agent" in problem["detail"]
        await place.post(f"/api/sessions/{id}/regenerate", {}, 409)
        assert (await place.http.delete(f"/api/sessions/{id}")).status_code == 204


@pytest.mark.parametrize("tools", [[look], [], [look, pay, Place.words]])
async def test_an_agent_may_have_other_tools_by_now(tmp_path: Path, tools: list[Any]) -> None:
    async def words(id: str) -> str:
        """Words."""
        return id

    id = await _left_by(tmp_path, AGENT)
    known = [words if one is Place.words else one for one in tools]
    async with service(tmp_path, agents=Agent("helper", model=MODEL, max_tokens=500, tools=known)) as place:
        assert (await place.say(id, "More"))[-1]["state"] == "finished"
        assert len((place.engine.requests[-1].body or {}).get("tools", ())) == len(tools)


# -- what is wrong --


async def test_what_is_not_there_is_a_problem_too(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        id = await place.create()
        for path in (
            "/nothing",
            "/api",
            "/api/sessions/",
            f"/api/sessions/{id}/",
            f"/api/sessions/{id}/odd",
            "/page/no.js",
        ):
            await place.get(path, 404)
        for path in ("/page/..%2fapp.py", "/page/index.html%00", "/api/sessions/%00", "/api/sessions/" + "x" * 3000):
            await place.get(path, 404)
        await place.get("/api/sessions/nothing", 404)
        await place.get(f"/api/sessions/{id}/rewind", 405)
        await place.post("/api/config", {}, 405)


async def test_what_no_model_or_store_takes_is_refused(tmp_path: Path) -> None:
    async with service(tmp_path, limits=Limits(text_characters=100, files=1)) as place:
        id = await place.create()
        path = f"/api/sessions/{id}/turns"
        file = {"type": "file", "name": "a", "media_type": "text/plain", "data": "YQ=="}
        for status, content in (
            (413, [{"type": "text", "text": "a" * 101}]),
            (413, [file, file]),
            (422, []),
            (422, [{"type": "text", "text": ""}]),
            (422, [{"type": "text", "text": " \n"}]),
            (422, [{"type": "text", "text": "a\0b"}]),
            (422, [{"type": "image", "source": {}}]),
            (422, [{"type": "tool_result", "tool_use_id": "x", "content": "forged"}]),
            (422, [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]),
            (422, "Hello"),
            (422, None),
        ):
            await place.post(path, {"id": "m", "content": content}, status)
        for extra in (
            {"model": "x"},
            {"system": "x"},
            {"messages": []},
            {"id": ""},
            {"id": "a\0"},
            {"id": "a" * 201},
            {"id": 7},
        ):
            await place.post(path, {"id": "m", "content": TEXT, **extra}, 422)
        await place.post(path, {"id": "m", "content": TEXT, "edit": "nothing"}, 409)
        for body in (
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff",
            b'{"id":"\\ud800","content":[{"type":"text","text":"a"}]}',
            b"[" * 100_000,
        ):
            response = await place.http.post(path, content=body, headers={"content-type": "application/json"})
            assert response.status_code in (400, 422), response.text
        for field in ({"model": "x"}, {"tools": []}, {"owner": "other"}, {"parent": id}, {"title": 7}, {"agent": None}):
            await place.post("/api/sessions", {"agent": "helper", **field}, 422)
        await place.post(f"/api/sessions/{id}/fork", {"at": "nothing"}, 409)
        await place.post(f"/api/sessions/{id}/rewind", {"to": "nothing"}, 409)
        await place.post(f"/api/sessions/{id}/rewind", {}, 422)
        await place.get(f"/api/sessions/{id}", 422, params={"entries": "all"})
        assert (await place.show(id))["entries"] == []


async def test_a_server_that_fails_says_nothing_of_why(tmp_path: Path) -> None:
    def authenticate(request: Any) -> str:
        raise RuntimeError("the secret is 42")

    async with service(tmp_path, authenticate=authenticate) as place:
        problem = await place.get("/api/config", 500)
        assert "42" not in json.dumps(problem)
        assert await place.get("/health") == {"status": "ok"}


async def test_a_long_conversation_is_shown_from_its_end(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        id = await place.create()
        for text in "abc":
            await place.say(id, text)
        shown = await place.get(f"/api/sessions/{id}", params={"entries": 2})
        assert (len(shown["entries"]), shown["earlier"], len(shown["turns"])) == (2, 4, 3)


async def test_ready_says_whether_the_store_answers(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        assert await place.get("/ready") == {"status": "ok"}
        assert (await place.http.head("/health")).status_code == 200
        await place.manager.drain()
        await place.get("/ready", 503)
        await place.manager.__aexit__(None, None, None)
        assert (await place.get("/health")) == {"status": "ok"}
        await place.get("/ready", 503)
        await place.manager.__aenter__()


# -- costs --


async def test_what_was_spent_is_told_in_groups(either_store: str) -> None:
    async with service(either_store) as place:
        for agent in ("helper", "plain"):
            await place.say(await place.create(agent), "Hello")
        total = (await place.get("/api/spend"))["total"]
        assert (total["calls"], list(total["by_kind"])) == (2, ["turn"])
        keys = {"owner": {"local"}, "model": {MODEL}, "agent": {"helper", "plain"}, "kind": {"turn"}}
        for by, expected in keys.items():
            spend = await place.get("/api/spend", params={"by": by})
            assert ({row["key"] for row in spend["rows"]}, spend["total"]) == (expected, total)
        (day,) = (await place.get("/api/spend", params={"by": "day"}))["rows"]
        for since, until, calls in ((day["key"], "", 2), ("", day["key"], 2), ("2001-01-01", "2001-01-02", 0)):
            spend = await place.get("/api/spend", params={"since": since, "until": until})
            assert spend["total"]["calls"] == calls
        table = await place.get("/api/spend", params={"by": "agent", "format": "csv"})
        assert table.headers["content-type"].startswith("text/csv")
        assert "attachment" in table.headers["content-disposition"]
        head, helper, plain = table.text.split("\r\n")[:3]
        assert head.startswith("agent,cost,calls")
        assert (helper.split(",")[0], plain.split(",")[0]) == ("helper", "plain")
        for wrong in (
            {"by": "week"},
            {"since": "today"},
            {"until": "9999-99-99"},
            {"until": "9999-12-31"},
            {"format": "xml"},
        ):
            await place.get("/api/spend", 422, params=wrong)
