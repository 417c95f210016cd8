"""Usage, prices and profiles: figures with their source."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

import pytest
from anthropic.types import Model
from hypothesis import given
from hypothesis import strategies as st

from sessions.core.prices import Prices, cost, multiplier, prices_for
from sessions.core.profiles import ENDPOINTS, MODELS, bare_name, endpoint_name, nearest_models, profile_for
from sessions.core.usage import Usage

counts = st.integers(0, 10**7)
usages = st.builds(Usage, counts, counts, counts, counts, counts, st.booleans())


# -- usage ---------------------------------------------------------------------------------------------------------


@given(usages, usages)
def test_usage_adds_up(one: Usage, other: Usage) -> None:
    both = one + other
    assert both.total_input == one.total_input + other.total_input
    assert both.cache_write == one.cache_write + other.cache_write
    assert both.counters == (one.counters and other.counters)
    assert 0.0 <= both.hit_rate <= 1.0


USAGES: list[tuple[dict[str, Any], Usage]] = [
    ({}, Usage(counters=False)),
    ({"input_tokens": 5, "output_tokens": 2}, Usage(5, output=2, counters=False)),
    ({"input_tokens": None, "cache_read_input_tokens": 0}, Usage()),
    ({"cache_creation_input_tokens": 9}, Usage(cache_write_5m=9)),
    (
        {"cache_creation_input_tokens": None, "cache_creation": {"ephemeral_5m_input_tokens": 4}},
        Usage(cache_write_5m=4),
    ),
    (
        {"cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 4}},
        Usage(cache_write_5m=5, cache_write_1h=4),
    ),
    (
        {"cache_creation_input_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 4}},
        Usage(cache_write_5m=0, cache_write_1h=4),
    ),
    (
        {"input_tokens": 1, "iterations": [{"input_tokens": 5}, {"cache_read_input_tokens": 7}]},
        Usage(5, 7, counters=False),
    ),
]


@pytest.mark.parametrize(("given_", "usage"), USAGES)
def test_a_usage_object_is_read_field_by_field(given_: dict[str, Any], usage: Usage) -> None:
    assert Usage.from_api(given_) == usage


def test_the_hit_rate_of_nothing_is_nothing() -> None:
    assert Usage().hit_rate == 0.0
    assert Usage(1, 3).hit_rate == 0.75


# -- prices (docs/provider.md, 4: pricing pages of September and October 2026) ---------------------------------------

PRICES = [
    ("claude-fable-5-2", "8 0.20 10 16 40"),
    ("claude-mythos-5-2", "8 0.20 10 16 40"),
    ("claude-fable-5-1", "10 0.25 12.50 20 50"),
    ("claude-mythos-5-1", "10 0.25 12.50 20 50"),
    ("claude-fable-5", "10 1 12.50 20 50"),
    ("claude-mythos-5", "10 1 12.50 20 50"),
    ("claude-opus-5-5", "4 0.20 5 8 20"),
    *[(f"claude-opus-{v}", "5 0.50 6.25 10 25") for v in ("5", "4-8", "4-7", "4-6", "4-5", "4-5-20251101")],
    ("claude-sonnet-5-5", "2 0.10 2.50 4 10"),
    ("claude-sonnet-5", "2 0.20 2.50 4 10"),
    *[(f"claude-sonnet-{v}", "3 0.30 3.75 6 15") for v in ("4-6", "4-5", "4-5-20250929")],
    ("claude-haiku-5-5", "0.10 0.01 0.125 0.20 0.50"),
    *[(f"claude-haiku-{v}", "1 0.10 1.25 2 5") for v in ("4-5", "4-5-20251001")],
]


@pytest.mark.parametrize(("model", "row"), PRICES)
def test_prices_are_the_published_ones(model: str, row: str) -> None:
    assert prices_for(profile_for(model)) == Prices(*map(Decimal, row.split()))


@pytest.mark.parametrize(("size", "plain"), [(0, "0.1"), (100_000, "0.1"), (100_001, "0.5"), (900_000, "0.5")])
def test_a_long_prompt_is_priced_on_the_second_card_whole(size: int, plain: str) -> None:
    found = prices_for(profile_for("claude-haiku-5-5"), size)
    assert found is not None
    assert found.input == Decimal(plain)


def test_shares_of_the_input_price() -> None:
    found = prices_for(profile_for("claude-fable-5-1"))
    assert found is not None
    assert (found.read, found.write_5m, found.write_1h) == (0.025, 1.25, 2.0)
    free = Prices(*[Decimal(0)] * 5)
    assert (free.read, free.write_5m, free.write_1h) == (0.0, 1.0, 1.0)


def test_an_unpublished_price_is_unknown_not_zero() -> None:
    assert prices_for(profile_for("claude-mythos-preview")) is None
    assert cost(Usage(1), profile_for("claude-mythos-preview")) is None
    assert prices_for(profile_for("no-such-model-at-all")) is None
    assert prices_for(profile_for("whisper-1")) is None  # listed, not priced


def test_a_bucket_that_is_not_priced_apart_costs_as_plain_input() -> None:
    found = prices_for(profile_for("deepseek-chat", "deepseek"))
    assert found is not None
    assert found.cache_write_1h == found.cache_write_5m == found.input > found.cache_read


@pytest.mark.parametrize("region", ["us.", "eu.", "apac.", "jp.", "au.", "ca.", "mars-north.", ""])
@pytest.mark.parametrize(
    "model", ["claude-sonnet-4-5-20250929", "claude-opus-5", "claude-sonnet-5-5", "claude-fable-5-2"]
)
def test_a_region_of_bedrock_costs_a_tenth_more(region: str, model: str) -> None:
    first_party = prices_for(profile_for(model))
    assert first_party is not None
    for endpoint in ("bedrock", "https://gateway.example"):
        for name in (
            f"{region}anthropic.{model}",
            f"arn:aws:bedrock:us-east-1:1:inference-profile/{region}anthropic.{model}",
        ):
            found = prices_for(profile_for(name, endpoint))
            assert found is not None
            assert [float(getattr(found, field)) for field in PRICE_FIELDS] == pytest.approx(
                [1.1 * float(getattr(first_party, field)) for field in PRICE_FIELDS]
            )


PRICE_FIELDS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")


@pytest.mark.parametrize(
    "model", ["claude-sonnet-4-5-20250929", "claude-opus-5", "claude-sonnet-5-5", "claude-haiku-5-5"]
)
def test_all_the_regions_together_cost_what_the_api_does(model: str) -> None:
    there, size = f"global.anthropic.{model}", 150_000
    assert prices_for(profile_for(there, "bedrock"), size) == prices_for(profile_for(model), size)
    assert cost(Usage(1000, 10), profile_for("global.anthropic.claude-unheard-of", "bedrock")) is None


def test_prices_by_the_hour_change_while_a_process_lives() -> None:
    profile = profile_for("deepseek-chat", "deepseek")
    by_day, by_night = (prices_for(profile, 1000, at=datetime(2025, 8, 1, hour, tzinfo=UTC)) for hour in (12, 20))
    assert by_day is not None
    assert by_night is not None
    assert by_day.input > by_night.input
    assert prices_for(profile, 1000, at=datetime(2025, 8, 2, 12, tzinfo=UTC)) == by_day


def test_cost_is_the_sum_of_five_buckets() -> None:
    profile = profile_for("claude-sonnet-5-5")
    usage = Usage(1_000_000, 1_000_000, 1_000_000, 1_000_000, 1_000_000)
    assert cost(usage, profile) == Decimal("18.6")
    assert cost(usage, profile, {"inference_geo": "us", "speed": "fast"}) == Decimal("18.6") * Decimal("2.2")


def test_modifiers_multiply() -> None:
    assert multiplier(None) == 1
    assert multiplier({"speed": "standard"}, batch=True) == Decimal("0.5")


# -- profiles ------------------------------------------------------------------------------------------------------


def test_every_model_of_the_sdk_has_a_profile() -> None:
    named = {name for one in get_args(Model) for name in get_args(one)}
    assert named
    assert named <= set(MODELS)


MINIMUMS = [  # docs/provider.md, 3
    (512, "fable-5-2 mythos-5-2 fable-5-1 mythos-5-1 fable-5 mythos-5 opus-5-5 opus-5 sonnet-5-5 haiku-5-5"),
    (1024, "opus-4-8 sonnet-5 sonnet-4-6 sonnet-4-5 sonnet-4-5-20250929"),
    (2048, "opus-4-7 mythos-preview"),
    (4096, "opus-4-6 opus-4-5 opus-4-5-20251101 haiku-4-5 haiku-4-5-20251001"),
]


def test_minimums_thinking_and_binding_are_those_documented() -> None:
    minimums = {f"claude-{name}": least for least, names in MINIMUMS for name in names.split()}
    assert {name: profile.minimum_tokens for name, profile in MODELS.items()} == minimums
    strips = {name for name, profile in MODELS.items() if not profile.keeps_thinking}
    assert strips == {name for name in MODELS if name.startswith(("claude-haiku-4-5", "claude-sonnet-4-5"))}
    bound = {name.removeprefix("claude-") for name, profile in MODELS.items() if profile.binds_thinking}
    assert bound == {"fable-5-2", "mythos-5-2", "fable-5-1", "opus-5-5", "sonnet-5-5", "haiku-5-5"}
    prefill = {name for name, profile in MODELS.items() if profile.prefill}
    assert prefill == {name for name in MODELS if "-4-5" in name}
    assert all(profile.source for profile in MODELS.values())


@pytest.mark.parametrize(
    ("given_", "name"),
    [
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5-20251101"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5-20250929"),
        ("anthropic/claude-sonnet-4.5", "claude-sonnet-4-5"),
        ("anthropic/claude-opus-4.5:beta", "claude-opus-4-5"),
        ("claude-opus-5-latest", "claude-opus-5"),
        ("claude-opus-5-20990101-fast", "claude-opus-5"),
        ("claude-unheard-of", "claude-unheard-of"),
        ("gpt", "gpt"),
    ],
)
def test_platform_names_are_read(given_: str, name: str) -> None:
    assert bare_name(given_) == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (None, "anthropic"),
        ("https://api.anthropic.com", "anthropic"),
        ("https://aws-external-anthropic.us-east-1.api.aws", "aws"),
        ("https://bedrock-mantle.us-east-1.api.aws/anthropic", "bedrock"),
        ("https://bedrock-runtime.us-east-1.amazonaws.com", "bedrock"),
        ("https://us-east5-aiplatform.googleapis.com/v1", "google"),
        ("https://x.services.ai.azure.com/anthropic", "foundry"),
        ("https://openrouter.ai/api", "openrouter"),
        ("https://api.deepseek.com/anthropic", "deepseek"),
        ("https://api.moonshot.ai/anthropic", "moonshot"),
        ("https://api.z.ai/api/anthropic", "zai"),
        ("https://api.minimax.io/anthropic", "minimax"),
        ("https://evil-deepseek.com.example", "compatible"),
        ("http://localhost:8000", "compatible"),
        ("vllm", "vllm"),
        ("llama.cpp", "llama.cpp"),
    ],
)
def test_an_endpoint_is_told_by_its_host(url: str | None, name: str) -> None:
    assert endpoint_name(url) == name


def test_an_unknown_model_is_taken_cautiously() -> None:
    found = profile_for("claude-unheard-of")
    assert not found.known
    assert (found.minimum_tokens, found.collapses_tools, found.prewarms, found.ttls) == (4096, False, False, ("5m",))
    assert profile_for("qwen", "vllm").known
    assert not profile_for("qwen", "bedrock").known


@pytest.mark.parametrize(
    ("model", "ttls"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", ("5m", "1h")),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", ("5m", "1h")),
        ("global.anthropic.claude-opus-4-5", ("5m", "1h")),
        ("us.anthropic.claude-opus-4-6-v1:0", ("5m",)),
        ("anthropic.claude-opus-5", ("5m",)),
        ("claude-sonnet-5-5", ("5m",)),
    ],
)
def test_bedrock_has_an_hour_for_the_models_that_it_is_documented_for(model: str, ttls: tuple[str, ...]) -> None:
    assert profile_for(model, "https://bedrock-runtime.us-east-1.amazonaws.com").ttls == ttls
    assert profile_for(bare_name(model)).ttls == ("5m", "1h")


def test_a_misspelt_name_is_near_the_one_that_was_meant() -> None:
    assert nearest_models("claude-sonet-5-5")[0] == "claude-sonnet-5-5"
    assert nearest_models("us.anthropic.claude-opus-5-v1:0")[0] == "claude-opus-5", "whatever a platform calls it"
    assert nearest_models("llama") == []


def test_endpoints_change_what_they_change() -> None:
    for name in ENDPOINTS:
        found = profile_for("claude-opus-5", name)
        assert found.name == "claude-opus-5"
        assert found.collapses_tools == (name in ("anthropic", "aws"))
        assert found.markers != found.automatic
        assert found.markers or found.ttls == ("5m",)
        assert found.markers or (found.prewarms, found.prewarm_max_tokens) == (True, 1)
        assert found.caches_unasked != found.markers
    assert profile_for("us.anthropic.claude-opus-5", "bedrock").minimum_tokens == 512
