"""`GET /v1/models`: what the simulated API tells about the models it serves."""

from __future__ import annotations

from typing import Any

from sessions.core.profiles import MODELS, Profile
from sessions.simulator.checks.refusal import Refusal

_EPOCH = "1970-01-01T00:00:00Z"


def models(path: str) -> tuple[int, dict[str, Any]]:
    """Status and body for `/v1/models` or `/v1/models/{id}`."""
    name = path.removeprefix("/v1/models").strip("/")
    if not name:
        data = [_row(profile) for profile in MODELS.values()]
        return 200, {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}
    if name not in MODELS:
        return 404, Refusal(f"model: {name}", status=404).envelope("req_models")
    return 200, _row(MODELS[name])


def _row(profile: Profile) -> dict[str, Any]:
    """The facts a client may ask for; prices and cache minimums are not among them."""
    return {
        "type": "model",
        "id": profile.name,
        "display_name": profile.name.replace("-", " ").title(),
        "created_at": _EPOCH,
        "lifecycle": "active",
        "max_input_tokens": profile.window,
        "max_tokens": profile.max_output,
    }
