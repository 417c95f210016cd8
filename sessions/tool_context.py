"""What a tool may know of the call that it runs for: parameters annotated `ToolContext` are filled in with it.

Such a parameter is no part of the tool's schema, and what the model sends never reaches it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import re
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ForwardRef, Union, get_args, get_origin

import sniffio

from sessions.errors import ConfigurationError

log = logging.getLogger("sessions")

WAITING = 100
"""Texts of a tool's progress that wait for the event loop; where it says more at once, the oldest are left out."""
_NAMED = r"(None ?\| ?)?((\w+\.)*Optional\[)?(\w+\.)*ToolContext\]?( ?\| ?None)?"


def _nobody(text: str) -> None:
    """Where nobody listens."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """The call that a tool runs for. A parameter annotated `ToolContext` is filled in, whatever its name.

    `call_id`: names this call and no other, and is the same when the call runs again after a restart: hand it
    downstream as an idempotency key. `metadata`: a copy of the session's. `tell`: where `progress` goes; only who makes
    a context by hand, for a test, has a use for it.
    """

    session_id: str
    owner: str | None
    metadata: dict[str, Any] = field(hash=False)
    turn_id: str
    call_id: str
    tell: Callable[[str], None] = field(default=_nobody, repr=False, compare=False)

    def progress(self, text: str) -> None:
        """Tells those who follow the turn how far the tool is; nothing is stored. From any thread or task.

        It neither raises nor waits. What is said after the call has ended is ignored.
        """
        try:
            self.tell(str(text).encode("utf-8", "replace").decode())
        except Exception:
            log.exception("the progress of a tool could not be told")

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
        """No schema has it: somebody else than `tool` makes one of the function. Raises `TypeError`."""
        raise TypeError(
            "a ToolContext is filled in for parameters annotated ToolContext or ToolContext | None, "
            "and only where the tool is made with sessions.tool"
        )


@contextmanager
def listening(context: ToolContext) -> Iterator[ToolContext]:
    """The context for a call that runs in this block: its progress may come from any thread, until the block ends."""
    progress = _Progress(context.tell)
    try:
        yield replace(context, tell=progress.tell)
    finally:
        progress.end()


class _Progress:
    """Carries texts from whatever thread to the one of the event loop, in order."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._thread, self._post = tell, threading.get_ident(), _poster()
        self._texts: deque[str] = deque(maxlen=WAITING)
        self._is_posted = self._has_ended = False

    def tell(self, text: str) -> None:
        self._texts.append(text)
        if threading.get_ident() == self._thread:
            self._deliver()
        elif not self._is_posted:
            self._is_posted = True
            with suppress(RuntimeError):  # the event loop is gone: so is whoever listened
                self._post(self._deliver)

    def _deliver(self) -> None:
        self._is_posted = False  # first: a text that comes while these are told is posted again
        while self._texts and not self._has_ended:
            try:
                self._tell(self._texts.popleft())
            except Exception:  # raised into Trio's own tasks, it would end the event loop
                log.exception("the progress of a tool could not be told")

    def end(self) -> None:
        self._deliver()
        self._has_ended = True


def _poster() -> Callable[[Callable[[], None]], object]:
    """A function that lets another run in this event loop, from any thread."""
    if sniffio.current_async_library() == "trio":
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
    return asyncio.get_running_loop().call_soon_threadsafe


class Filled:
    """A function some of whose parameters (`names`) are filled in with the context of the call."""

    def __init__(self, function: Callable[..., Any], names: tuple[str, ...]) -> None:
        self._function, self._names, self._signature = function, names, inspect.signature(function)

    def shown(self) -> Callable[..., dict[str, Any]]:
        """What the schema is made of, and the input is checked by: it gives the arguments by name."""
        others = [one for name, one in self._signature.parameters.items() if name not in self._names]
        signature = self._signature.replace(parameters=others)

        def arguments(*args: Any, **kwargs: Any) -> dict[str, Any]:
            if given := sorted(kwargs.keys() & set(self._names)):  # into `**kwargs` anything is let
                raise ValueError(f"{given[0]!r} is not the caller's to give")
            return signature.bind(*args, **kwargs).arguments

        shown: Any = functools.update_wrapper(arguments, self._function, updated=())
        del shown.__wrapped__  # the SDK would take what a generator is wrapped in for a context manager
        shown.__signature__ = signature
        shown.__annotations__ = {one.name: one.annotation for one in others if one.annotation is not one.empty}
        return arguments

    def call(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Calls the function with what `shown` gave, and the context."""
        bound = self._signature.bind_partial()
        bound.arguments.update(arguments, **dict.fromkeys(self._names, context))
        return self._function(*bound.args, **bound.kwargs)


def filled(function: Callable[..., Any]) -> Filled | None:
    """The function with its parameters for the context, or `None` where it has none.

    Raises `ConfigurationError` where such a parameter may be something else too.
    """
    parameters = inspect.signature(function).parameters.values()
    names = tuple(one.name for one in parameters if _is_context(one, _globals(function)))
    return Filled(function, names) if names else None


def _globals(function: Any) -> dict[str, Any]:
    """The names that a function's annotations may use."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(inspect.unwrap(function), "__globals__", {})


def _is_context(parameter: inspect.Parameter, names: dict[str, Any]) -> bool:
    kinds = _kinds(parameter.annotation, names)
    if ToolContext not in kinds:
        return False
    if object not in kinds and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return True
    raise ConfigurationError(
        f"parameter {parameter.name!r} of a tool cannot be filled in: annotate it ToolContext or ToolContext | None"
    )


def _kinds(annotation: Any, names: dict[str, Any]) -> set[type]:
    """What an annotation allows: `ToolContext`, none, and `object` for all else.

    Of a text that cannot be evaluated here, only the name `ToolContext` is known.
    """
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        try:
            return _kinds(eval(annotation, names), names)
        except Exception:  # imported for the type checker alone, or local to a function
            return {ToolContext if re.fullmatch(_NAMED, annotation) else object}
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0], names)
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(_kinds(one, names) for one in get_args(annotation)))
    return {annotation if annotation is ToolContext or annotation is type(None) else object}
