"""Tools that the model may call: functions of ours, the SDK's tool objects, server tools, and tools the caller runs.

Whatever a tool does, its result goes back to the model: an error, a timeout and an unknown name become results with
`is_error`, never a failed turn.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload
from weakref import WeakValueDictionary

import anyio.to_thread
import pydantic_core

from sessions.clock import Clock, within
from sessions.core.cache import without_marks
from sessions.core.steps import ToolCall, result_block
from sessions.core.transcript import is_blank, plain
from sessions.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])
NOTHING = "(no output)"
_busy = 0


def busy() -> int:
    """How many synchronous tools run in worker threads now."""
    return _busy


class Tool:
    """A function that the model may call. Made by `tool`; calling it calls the function.

    `idempotent`: running it twice is harmless, so a call that a crash interrupted is simply run again. `timeout`:
    seconds after which a call is given up and reported to the model as an error.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> None:
        from anthropic import beta_async_tool, beta_tool  # the SDK is imported where it is needed (`client`)

        wrap = beta_async_tool if inspect.iscoroutinefunction(function) else beta_tool
        try:
            self._runner: Any = wrap(function, name=name) if name else wrap(function)
        except Exception as error:
            raise ConfigurationError(f"cannot make a tool of {function!r}: {error}") from error
        self._set_up(function, idempotent, timeout)

    def _set_up(self, function: Callable[..., Any], idempotent: bool, timeout: float | None) -> None:
        if timeout is not None and timeout <= 0:
            raise ConfigurationError(f"a tool's timeout must be a positive number of seconds, not {timeout!r}")
        functools.update_wrapper(self, function)
        self.function, self.idempotent, self.timeout = function, idempotent, timeout
        self.definition = dict(without_marks(plain(self._runner.to_dict())))
        self.name = str(self.definition.get("name") or self._runner.name)

    @classmethod
    def of_sdk(cls, runner: Any) -> Tool:
        """Wraps one of the SDK's tool objects (`beta_tool`, `beta_async_tool`, memory and other built-in tools)."""
        made = cls.__new__(cls)
        made._runner = runner
        made._set_up(getattr(runner, "func", runner.call), False, None)
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    async def run(self, call: ToolCall, clock: Clock) -> dict[str, Any]:
        """Runs the call and gives its `tool_result` block. Raises nothing but cancellation."""
        from anthropic.lib.tools import ToolError

        try:
            value = await within(clock, self.timeout, lambda: self._invoke(call.input))
            return result_block(call, result_content(value))
        except TimeoutError as error:
            late = self.timeout is not None and f"{self.timeout:g} seconds" in str(error)
            text = f"timed out after {self.timeout:g} seconds" if late else _described(error)
            return result_block(call, text, is_error=True)
        except asyncio.CancelledError:
            if _is_ours_cancelled():
                raise
            return result_block(call, "the tool was cancelled from within", is_error=True)
        except ToolError as error:
            return result_block(call, result_content(error.content), is_error=True)
        except Exception as error:  # whatever a tool raises is told to the model
            return result_block(call, _described(error), is_error=True)

    async def _invoke(self, given: Any) -> Any:
        if inspect.iscoroutinefunction(self._runner.call):
            return await self._runner.call(given)
        return await _in_thread(self._runner.call, given)


def _is_ours_cancelled() -> bool:
    """Whether the turn itself is being cancelled, and not something that the tool waited for (asyncio)."""
    task = asyncio.current_task()
    return bool(task and task.cancelling()) or anyio.current_effective_deadline() == -math.inf


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    global _busy
    _busy += 1
    try:
        return await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=True)
    finally:
        _busy -= 1


def _described(error: Exception) -> str:
    cause = error.__cause__
    text = f"{type(error).__name__}: {error}" + (f" ({cause})" if cause else "")
    return text.encode("utf-8", "replace").decode()


def result_content(value: Any) -> str | list[dict[str, Any]]:
    """What a tool returned as the content of a `tool_result`: text and content blocks as they are, the rest as JSON."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() or NOTHING
    if value is None:
        return NOTHING
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        value = [value]
    if isinstance(value, Sequence) and value and all(_is_block(one) for one in value):
        found = [dict(without_marks(plain(one))) for one in value]
        return [block for block in found if not is_blank(block)] or NOTHING
    return pydantic_core.to_json(value, fallback=str, inf_nan_mode="constants").decode()


def _is_block(value: Any) -> bool:
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return kind in ("text", "image", "document", "search_result", "tool_reference")


@overload
def tool(fn: F, /) -> Tool: ...
@overload
def tool(
    fn: None = None, /, *, name: str | None = None, idempotent: bool = False, timeout: float | None = None
) -> Callable[[F], Tool]: ...
def tool(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    idempotent: bool = False,
    timeout: float | None = None,
) -> Any:
    """Makes a tool of a sync or async function; its schema comes from the signature and the docstring.

    `idempotent`: a call interrupted by a crash may simply run again. `timeout`: seconds. Raises `ConfigurationError`
    where no schema can be made of the function.
    """
    if fn is None:
        return functools.partial(tool_of, name=name, idempotent=idempotent, timeout=timeout)
    return tool_of(fn, name=name, idempotent=idempotent, timeout=timeout)


def tool_of(given: Any, *, name: str | None = None, idempotent: bool = False, timeout: float | None = None) -> Tool:
    """A `Tool` of a function, of an SDK tool object, or the `Tool` given."""
    if isinstance(given, Tool):
        return given
    if hasattr(given, "to_dict") and hasattr(given, "call"):
        return Tool.of_sdk(given)
    if not callable(given):
        raise ConfigurationError(f"a tool must be a function, an SDK tool object or a dict, not {type(given).__name__}")
    return Tool(given, name=name, idempotent=idempotent, timeout=timeout)


_bound: WeakValueDictionary[Any, Tool] = WeakValueDictionary()
"""The tools of open sessions by what was given: many sessions with one function share its schema."""


def _shared(given: Any) -> Tool:
    if not isinstance(given, Hashable):
        return tool_of(given)
    found = _bound.get(given)
    if found is None:
        found = _bound[given] = tool_of(given)
    return found


class Toolbox:
    """The tools bound to an open session: definitions as sent, and the functions among them by name."""

    def __init__(self, given: Iterable[Any] = ()) -> None:
        self.definitions: list[dict[str, Any]] = []
        self.functions: dict[str, Tool] = {}
        for one in given:
            if isinstance(one, Mapping):
                self.definitions.append(dict(one))
                continue
            made = _shared(one)
            if made.name in self.functions:
                raise ConfigurationError(f"two tools are named {made.name!r}: rename one with tool(name=…)")
            self.functions[made.name] = made
            self.definitions.append(made.definition)
        names = [str(one["name"]) for one in self.definitions if "name" in one]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ConfigurationError(f"two tools are named {repeated[0]!r}: rename one")

    def is_idempotent(self, name: str) -> bool:
        """Whether a call of this tool may run again after a crash. A name nobody knows has no effect at all."""
        return self.functions[name].idempotent if name in self.functions else True

    async def run(self, call: ToolCall, clock: Clock) -> dict[str, Any]:
        """The result of one call; an unknown name or an input that is no object is an error result."""
        found = self.functions.get(call.name)
        if found is None:
            offered = ", ".join(sorted(self.functions)) or "none"
            return result_block(call, f"there is no tool named {call.name!r}; offered: {offered}", is_error=True)
        return await found.run(call, clock)
