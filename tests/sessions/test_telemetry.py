"""Spans and metrics, as the real OpenTelemetry SDK exports them; each in a process, for its providers are global."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "traced.py"


@functools.cache
def exported(configured: str, backend: str = "asyncio") -> dict[str, Any]:
    command = [sys.executable, "-W", "error", str(PROGRAM), configured, backend]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def named(name: str, backend: str = "asyncio") -> list[dict[str, Any]]:
    return [span for span in exported("both", backend)["spans"] if span["name"] == name]


def total(name: str, **attributes: str) -> float:
    """The sum of a metric over the points with these attributes; dots in their names are written as underscores."""
    wanted = attributes.items()
    points = [(point, point["attributes"].items()) for point in exported("both")["metrics"][name]]
    return sum(point["value"] for point, given in points if wanted <= {(k.replace(".", "_"), v) for k, v in given})


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_calls_lie_in_turns_and_the_sdks_own_spans_in_calls(backend: str) -> None:
    turns, calls = named("warmline.turn", backend), named("warmline.call", backend)
    assert Counter(one["parent"] for one in turns) == {None: 6}
    kinds = Counter((one["attributes"]["warmline.call.kind"], one["parent"]) for one in calls)
    assert kinds == {("prewarm", None): 1, ("turn", "warmline.turn"): 7, ("compact", None): 1}
    sdk = [one for one in exported("both", backend)["spans"] if one["scope"] == "com.anthropic.sdk.python"]
    assert len(sdk) == len(calls)
    assert {one["parent"] for one in sdk} == {"warmline.call"}
    assert [one["parent"] for one in named("look", backend)] == ["warmline.turn"]


def test_a_span_says_what_failed_and_no_word_that_the_api_quotes() -> None:
    failed = [one for one in exported("both")["spans"] if one["scope"] == "warmline" and one["status"] == "ERROR"]
    said = "the API answered 529 overloaded_error (try again later: resume() goes on)"
    assert [one["said"] for one in failed[:2]] == [said, f"ModelError: {said}"]
    assert "the-secret" not in json.dumps(failed)


def test_a_turn_tells_what_it_used() -> None:
    look, again, fail, *_ = named("warmline.turn")
    told = look["attributes"]
    assert (told["gen_ai.operation.name"], told["gen_ai.conversation.id"]) == ("invoke_agent", "s")
    assert (told["warmline.turn.number"], told["warmline.turn.state"], told["warmline.turn.calls"]) == (
        1,
        "finished",
        2,
    )
    assert told["gen_ai.response.finish_reasons"] == ["end_turn"]
    assert told["warmline.cost"] > 0
    calls = [one["attributes"] for one in named("warmline.call") if one["parent"]][:2]
    for name in ("gen_ai.usage.input_tokens", "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.output_tokens"):
        assert told[name] == sum(one[name] for one in calls)
    assert again["attributes"]["warmline.misses"] == 1
    assert (fail["status"], fail["attributes"]["warmline.turn.state"]) == ("ERROR", "interrupted")


def test_a_call_tells_its_cache_its_price_and_its_miss() -> None:
    prewarm, first, second, missed, failed, *_ = named("warmline.call")
    told = second["attributes"]
    assert told["gen_ai.usage.input_tokens"] >= told["gen_ai.usage.cache_read.input_tokens"] > 900
    assert told["warmline.expected.cache_read"] == told["gen_ai.usage.cache_read.input_tokens"]
    assert 0.9 < told["warmline.cache.hit_rate"] <= 1
    assert told["gen_ai.response.id"].startswith("msg_")
    assert "warmline.miss.cause" not in told
    assert prewarm["attributes"]["gen_ai.usage.cache_write.input_tokens"] > 900
    assert first["status"] == "UNSET"
    assert missed["attributes"]["warmline.miss.cause"] == "evicted"
    assert missed["attributes"]["warmline.miss.tokens"] > 900
    assert failed["status"] == "ERROR"


def test_no_words_and_no_owner_go_out() -> None:
    ours = [span for span in exported("both")["spans"] if span["scope"] == "warmline"]
    assert ours
    assert "lorem" not in json.dumps(ours)


def test_metrics_add_up_to_the_spans() -> None:
    calls = [one["attributes"] for one in named("warmline.call")]
    usage = "gen_ai.client.inference.usage"
    for metric, attribute in (
        ("input_tokens", "input_tokens"),
        ("output_tokens", "output_tokens"),
        ("cache_read.input_tokens", "cache_read.input_tokens"),
        ("cache_write.input_tokens", "cache_write.input_tokens"),
    ):
        assert total(f"{usage}.{metric}") == sum(one[f"gen_ai.usage.{attribute}"] for one in calls)
    assert total(f"{usage}.cache_write.input_tokens", warmline_cache_ttl="1h") == 0
    assert total("warmline.cost") == pytest.approx(sum(one.get("warmline.cost", 0) for one in calls))
    assert total("warmline.misses", warmline_miss_cause="evicted") == 1
    assert total("warmline.miss.tokens") == sum(one.get("warmline.miss.tokens", 0) for one in calls)
    assert total("warmline.miss.cost") > 0
    assert "warmline.gate.wait" in exported("both")["metrics"]
    assert total("warmline.cache.hit_rate") == pytest.approx(
        sum(one["warmline.cache.hit_rate"] for one in calls if one["gen_ai.usage.input_tokens"])
    )


def test_either_may_be_set_up_alone() -> None:
    traces, metrics = exported("traces"), exported("metrics")
    assert (len(traces["spans"]), traces["metrics"]) == (len(exported("both")["spans"]), {})
    assert (metrics["spans"], sorted(metrics["metrics"])) == ([], sorted(exported("both")["metrics"]))


def test_nothing_is_loaded_where_nothing_is_set_up() -> None:
    assert exported("nothing") == {"spans": [], "metrics": {}, "loaded": []}
