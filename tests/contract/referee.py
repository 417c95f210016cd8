"""A referee: whether what is sent is what the SDK's own parameter types describe, to the last field."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import anthropic.types as plain
import anthropic.types.beta as beta
from anthropic.types.beta.messages import batch_create_params as beta_batch
from anthropic.types.messages import batch_create_params as plain_batch
from typing_extensions import is_typeddict

IN_HEADERS = {"betas", "user_profile_id", "workspace_id"}
"""Arguments of `create` that the SDK sends as headers: in a body they are unknown."""


def faults(value: Any, hint: Any, at: str = "body") -> list[str]:
    """What of `value`, read from JSON, is not as the type says; where several may be meant, of the nearest."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if is_typeddict(hint):
        return _of_fields(value, hint, at)
    if origin in (typing.Union, types.UnionType):
        return _of_choices(value, inner, at)
    if origin is typing.Literal:
        known = any(value == one and type(value) is type(one) for one in inner)
        return [] if known else [f"{at}: {value!r:.40} is none of {inner}"]
    if origin is typing.Annotated or origin in (typing.Required, typing.NotRequired):
        return faults(value, inner[0], at)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if type(value) is not dict:
            return [f"{at}: {value!r:.40} is no object"]
        return [fault for key, one in value.items() for fault in faults(one, inner[1], f"{at}.{key}")]
    if isinstance(origin, type) and issubclass(origin, Iterable):
        if type(value) is not list:
            return [f"{at}: {value!r:.40} is no list"]
        return [fault for index, one in enumerate(value) for fault in faults(one, inner[0], f"{at}[{index}]")]
    if hint in (Any, object) or (hint is float and type(value) is int):
        return []
    return [] if type(value) is hint else [f"{at}: {value!r:.40} is no {getattr(hint, '__name__', hint)}"]


def _of_fields(value: Any, hint: Any, at: str) -> list[str]:
    if type(value) is not dict:
        return [f"{at}: {value!r:.40} is no object"]
    hints, required = _fields(hint)
    for name in set(hints) & set(value) & {"type", "role"}:
        if found := faults(value[name], hints[name], f"{at}.{name}"):
            return found  # another kind of object: what else it has says nothing
    found = [f"{at}.{name} is missing" for name in sorted(required - set(value))]
    for name, one in value.items():
        found += faults(one, hints[name], f"{at}.{name}") if name in hints else [f"{at}.{name} is unknown"]
    return found


@functools.cache
def _fields(hint: Any) -> tuple[dict[str, Any], set[str]]:
    """The types of an object's fields, and which it must have (`__required_keys__` is wrong of postponed hints)."""
    hints = typing.get_type_hints(hint, include_extras=True)
    optional = {name for name, one in hints.items() if typing.get_origin(one) is typing.NotRequired}
    required = {name for name, one in hints.items() if typing.get_origin(one) is typing.Required}
    required |= hint.__required_keys__ - optional
    if {"messages", "requests"} & set(hints):
        hints = {name: one for name, one in hints.items() if name not in IN_HEADERS}
    return hints, required


def _of_choices(value: Any, choices: Sequence[Any], at: str) -> list[str]:
    """The faults under the choice whose own `type` or `role` the value has, else under the one with the fewest."""
    every = []
    for one in choices:
        if not (found := faults(value, one, at)):
            return []
        every.append(found)
    others = (f"{at}: ", f"{at}.type: ", f"{at}.role: ", f"{at}.type is ")
    return min(every, key=lambda found: (any(one.startswith(others) for one in found), len(found)))


TYPES = {
    ("/v1/messages", False): plain.message_create_params.MessageCreateParams,
    ("/v1/messages", True): beta.message_create_params.MessageCreateParams,
    ("/v1/messages/batches", False): plain_batch.BatchCreateParams,
    ("/v1/messages/batches", True): beta_batch.BatchCreateParams,
}

Sent = tuple[str, bool, dict[str, Any]]


def judged(sent: Sent) -> list[str]:
    path, is_beta, body = sent
    return faults(body, TYPES[path, is_beta])
