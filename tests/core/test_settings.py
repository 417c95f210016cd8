"""What is no setting is named, before anything is stored."""

from __future__ import annotations

from typing import Any

import pytest

from sessions.core.settings import make_settings
from sessions.core.transcript import Malformed


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (3, "params must be a dict of request fields, not 3"),
        ([("betas", [])], "params must be a dict of request fields"),
        ({1: 2}, "the keys of params must be str, not 1"),
        ({"model": "x"}, "params may not hold model"),
        ({"betas": "x"}, r"params\['betas'\] must be a list of str"),
    ],
)
def test_params_that_are_no_request_fields_are_named(params: Any, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        make_settings(model="claude-sonnet-5-5", max_tokens=10, params=params)
