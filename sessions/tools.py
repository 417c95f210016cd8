"""Tools that the model may call: functions of ours, the SDK's tool objects, server tools, and tools the caller runs.

Whatever a tool does, its result goes back to the model: an error, a timeout and an unknown name become results with
`is_error`, never a failed turn.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import logging
import math
from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MethodType
from typing import Any, TypeAlias, TypeVar, overload
from weakref import WeakValueDictionary

from sessions.clock import Clock
from sessions.core.acceptable import TOOL_NAME
from sessions.core.cache import without_marks
from sessions.core.steps import ToolCall, result_block
from sessions.core.transcript import plain
from sessions.errors import ConfigurationError
from sessions.jobs import in_thread, outcome
from sessions.results import MAX_RESULT, Content, content_of, gathered, taken, told
from sessions.tool_context import Filled, filled, listening
from sessions.tool_context import ToolContext as ToolContext

F = TypeVar("F", bound=Callable[..., Any])
NeedsApproval: TypeAlias = bool | Callable[[dict[str, Any], ToolContext], bool | Awaitable[bool]]
log = logging.getLogger("sessions")


@dataclass(frozen=True, slots=True)
class _Options:
    """What `tool` was given beside the function; `None` is what was not. Raises `ConfigurationError`."""

    name: str | None = None
    idempotent: bool | None = None
    timeout: float | None = None
    max_result: int | None = None
    needs_approval: NeedsApproval | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not (isinstance(self.name, str) and TOOL_NAME.fullmatch(self.name)):
            raise ConfigurationError(f"a tool's name must be 1 to 128 letters, digits, _ and -, not {self.name!r:.80}")
        if self.idempotent is not None and not isinstance(self.idempotent, bool):
            raise ConfigurationError(f"a tool's idempotent must be True or False, not {self.idempotent!r:.80}")
        if self.timeout is not None and not _is_positive(self.timeout):
            raise ConfigurationError(f"a tool's timeout must be a positive number of seconds, not {self.timeout!r:.80}")
        if self.max_result is not None and not (_is_positive(self.max_result) and isinstance(self.max_result, int)):
            text = "a tool's max_result must be a whole number of characters, 1 or more"
            raise ConfigurationError(f"{text}, not {self.max_result!r:.80}")
        if not _is_switch(self.needs_approval):
            text = "a tool's needs_approval must be True, False or a function of the input and the context"
            raise ConfigurationError(f"{text}, not {self.needs_approval!r:.80}")

    def over(self, other: _Options) -> _Options:
        """These, and the other's where nothing was given."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(other, **{name: value for name, value in given.items() if value is not None})


def _is_positive(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) and value > 0
    except OverflowError:  # an int beyond all floats
        return False


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool) or callable(value)


class Tool:
    """A function that the model may call. Made by `tool`; calling it calls the function.

    `idempotent`: running it twice is harmless, so a call that a crash interrupted is simply run again. `timeout`:
    seconds after which a call is given up and reported to the model as an error. `max_result`: characters of text that
    a result may have; a longer one is cut, with a note. `approval`: whether a human must agree to a call before it
    runs, or the function that is asked.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        idempotent: bool | None = None,
        timeout: float | None = None,
        max_result: int | None = None,
        needs_approval: NeedsApproval | None = None,
    ) -> None:
        options = _Options(name, idempotent, timeout, max_result, needs_approval)
        self._runner, own, self._filled = _runner_of(function, name)
        functools.update_wrapper(self, own)
        self.function = own
        self.definition = dict(without_marks(plain(self._runner.to_dict())))
        self.name = str(self.definition.get("name") or self._runner.name)
        self.idempotent, self.max_result = False, MAX_RESULT
        self.timeout: float | None = None
        self.approval: NeedsApproval = False
        _adjust(self, options)

    @classmethod
    def of_sdk(cls, runner: Any) -> Tool:
        """Wraps one of the SDK's tool objects (`beta_tool`, `beta_async_tool`, memory and other built-in tools)."""
        return cls(runner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    async def needs_approval(self, given: Any, context: ToolContext) -> bool:
        """Whether a human must agree to a call with this input, as the model sent it. In doubt, yes."""
        if isinstance(self.approval, bool):
            return self.approval
        try:
            # A copy: the input is part of the conversation, whatever the function does with it.
            answer: Any = self.approval(copy.deepcopy(given), context)
            answer = await answer if inspect.isawaitable(answer) else answer
        except (Exception, SystemExit):
            log.exception("needs_approval of tool %r failed: the call waits for approval", self.name)
            return True
        if not isinstance(answer, bool):
            log.warning("needs_approval of tool %r gave no bool: the call waits for approval", self.name)
            return True
        return answer

    async def run(self, call: ToolCall, clock: Clock, context: ToolContext) -> dict[str, Any]:
        """Runs the call and gives its `tool_result` block. Raises nothing but cancellation and the process's Ctrl-C."""
        if self._filled is None:
            return await self._run(call, clock, context)
        with listening(context) as own:
            return await self._run(call, clock, own)

    async def _run(self, call: ToolCall, clock: Clock, context: ToolContext) -> dict[str, Any]:
        ended = await outcome(lambda: self._content(call.input, context), clock, self.timeout, f"tool {self.name!r}")
        if ended.is_late:
            return result_block(call, f"timed out after {self.timeout:g} seconds", is_error=True)
        if ended.error is None:
            return result_block(call, ended.value)
        if isinstance(ended.error, asyncio.CancelledError):
            return result_block(call, "the tool was cancelled from within", is_error=True)
        return result_block(call, told(ended.error, self.max_result), is_error=True)

    @property
    def _is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function if self._filled else self._runner.call)

    async def _content(self, given: Any, context: ToolContext) -> Content:
        value = await self._value(given, context)
        if inspect.isawaitable(value):
            value = await value
        if isinstance(value, AsyncIterable):
            value = await gathered(value, self.max_result)
        return content_of(value, self.max_result)

    async def _value(self, given: Any, context: ToolContext) -> Any:
        if not self._is_async:
            # Items are taken in the thread too: a generator runs its function's code at each.
            return await in_thread(lambda: taken(self._called(given, context), self.max_result))
        value = await self._called(given, context)
        return await in_thread(lambda: taken(value, self.max_result)) if isinstance(value, Iterator) else value

    def _called(self, given: Any, context: ToolContext) -> Any:
        if self._filled is None:
            return self._runner.call(given)
        return self._filled.call(self._runner.call(given), context)


def _is_of_sdk(given: Any) -> bool:
    return hasattr(given, "to_dict") and hasattr(given, "call")


def is_tool(given: Any) -> bool:
    """Whether it is one tool already: made by `tool`, or by the SDK."""
    return isinstance(given, Tool | ToolMethod) or _is_of_sdk(given)


def _runner_of(given: Any, name: str | None) -> tuple[Any, Callable[..., Any], Filled | None]:
    """The SDK's tool object, which reads the schema from the function, the function itself, and what is filled in."""
    if _is_of_sdk(given):
        return given, getattr(given, "func", given.call), None
    from anthropic import beta_async_tool, beta_tool  # the SDK is imported where it is needed (`client`)

    try:
        own = filled(given)
        wrap = beta_async_tool if own is None and inspect.iscoroutinefunction(given) else beta_tool
        shown = own.shown() if own else given
        return wrap(shown, name=name) if name else wrap(shown), given, own
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"cannot make a tool of {given!r}: {error}") from error


def _adjust(tool: Tool, options: _Options) -> None:
    """Gives it the options that were given, and leaves the others."""
    if options.name is not None and options.name != tool.name:
        if (kind := tool.definition.get("type", "custom")) != "custom":
            raise ConfigurationError(f"name: a tool of type {kind!r} is named by the API: leave the name out")
        tool.name, tool.definition = options.name, {**tool.definition, "name": options.name}
    tool.idempotent = tool.idempotent if options.idempotent is None else options.idempotent
    tool.timeout = tool.timeout if options.timeout is None else options.timeout
    tool.max_result = tool.max_result if options.max_result is None else options.max_result
    tool.approval = tool.approval if options.needs_approval is None else options.needs_approval


def _adjusted(tool: Tool, options: _Options) -> Tool:
    """The same function with other options; the tool given stays as it is."""
    adjusted = copy.copy(tool)
    _adjust(adjusted, options)
    return adjusted


class ToolMethod:
    """A tool that was made in a class body: its schema leaves the object out, `agent.search` is the `Tool` itself."""

    def __init__(self, method: Any, options: _Options) -> None:
        self._method, self._options = method, options
        functools.update_wrapper(self, getattr(method, "__func__", method))

    @overload
    def __get__(self, instance: None, owner: type) -> Tool | ToolMethod: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Tool: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Tool | ToolMethod:
        bound = self._method.__get__(instance, owner)
        return self if bound is self._method else _tool(bound, self._options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._method(*args, **kwargs)

    def adjusted(self, options: _Options) -> ToolMethod:
        """The same method with other options; this one stays as it is."""
        return ToolMethod(self._method, options.over(self._options))


@overload
def tool(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    idempotent: bool | None = None,
    timeout: float | None = None,
    max_result: int | None = None,
    needs_approval: NeedsApproval | None = None,
) -> Callable[[F], Tool]: ...
@overload
def tool(
    fn: Any,
    /,
    *,
    name: str | None = None,
    idempotent: bool | None = None,
    timeout: float | None = None,
    max_result: int | None = None,
    needs_approval: NeedsApproval | None = None,
) -> Tool: ...
def tool(
    fn: Any = None,
    /,
    *,
    name: str | None = None,
    idempotent: bool | None = None,
    timeout: float | None = None,
    max_result: int | None = None,
    needs_approval: NeedsApproval | None = None,
) -> Any:
    """Makes a tool of a sync or async function; its schema comes from the signature and the docstring.

    `idempotent`: a call interrupted by a crash may simply run again. `timeout`: seconds. `max_result`: characters of
    text in a result (a million where not given); a longer one is cut, with a note. `needs_approval`: a human must agree
    to a call before it runs; or a function that says so from the call's input, as the model sent it, and its
    `ToolContext` (asked on the event loop: one that waits should be async). An SDK tool object or a `Tool` becomes a
    new `Tool` with the options given. In a class body it leaves `self` out: give `agent.search`. A parameter annotated
    `ToolContext` is filled in. Raises `ConfigurationError` where no schema can be made of the function, and for options
    that make no sense.
    """
    options = _Options(name, idempotent, timeout, max_result, needs_approval)
    return functools.partial(_tool_or_method, options=options) if fn is None else _tool_or_method(fn, options)


def _tool(given: Any, options: _Options) -> Tool:
    return Tool(
        given,
        name=options.name,
        idempotent=options.idempotent,
        timeout=options.timeout,
        max_result=options.max_result,
        needs_approval=options.needs_approval,
    )


def _tool_or_method(given: Any, options: _Options) -> Tool | ToolMethod:
    if isinstance(given, Tool | ToolMethod) and options == _Options():
        return given
    if isinstance(given, Tool):
        return _adjusted(given, options)
    if isinstance(given, ToolMethod):
        return given.adjusted(options)
    if _is_of_sdk(given):
        return _tool(given, options)
    if isinstance(given, MethodType) and isinstance(given.__func__, ToolMethod):
        return given.__func__.__get__(given.__self__)  # of a class method, from Python 3.13
    if isinstance(given, classmethod | staticmethod) or _takes_self(given):
        return ToolMethod(given, options)
    if not callable(given):
        raise ConfigurationError(f"a tool must be a function, an SDK tool object or a dict, not {type(given).__name__}")
    return _tool(given, options)


def _takes_self(given: Any) -> bool:
    return inspect.isfunction(given) and next(iter(inspect.signature(given).parameters), None) in ("self", "cls")


def tool_of(given: Any) -> Tool:
    """A `Tool` of a function, of an SDK tool object, or the `Tool` given."""
    bound = _tool_or_method(given, _Options())
    if isinstance(bound, ToolMethod):
        name = getattr(given, "__name__", "method")
        raise ConfigurationError(f"{given!r} is the method of a class: give it with its object, as agent.{name}")
    return bound


_bound: WeakValueDictionary[Any, Tool] = WeakValueDictionary()
"""The tools of open sessions by what was given: many sessions with one function share its schema."""


def _shared(given: Any) -> Tool:
    if isinstance(given, Tool) or not isinstance(given, Hashable):
        return tool_of(given)
    shared = _bound.get(given)
    if shared is None:
        shared = _bound[given] = tool_of(given)
    return shared


class Toolbox:
    """The tools bound to an open session: definitions as sent, and the functions among them by name."""

    def __init__(self, given: Iterable[Any] = ()) -> None:
        self.definitions: list[dict[str, Any]] = []
        self.functions: dict[str, Tool] = {}
        for function in given:
            if isinstance(function, Mapping):  # a definition: a server tool, or one that the caller runs
                self.definitions.append(dict(function))
                continue
            tool = _shared(function)
            if tool.name in self.functions:
                raise ConfigurationError(f"two tools are named {tool.name!r}: rename one with tool(name=…)")
            self.functions[tool.name] = tool
            self.definitions.append(tool.definition)
        names = [str(definition["name"]) for definition in self.definitions if "name" in definition]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ConfigurationError(f"two tools are named {repeated[0]!r}: rename one")
        self.may_need_approval = any(tool.approval is not False for tool in self.functions.values())
        """Whether `needs_approval` can say yes at all."""

    def is_idempotent(self, name: str) -> bool:
        """Whether a call of this tool may run again after a crash. A name nobody knows has no effect at all."""
        return self.functions[name].idempotent if name in self.functions else True

    async def needs_approval(self, call: ToolCall, context: ToolContext) -> bool:
        """Whether a human must agree before this call runs. A name nobody knows has no effect at all."""
        tool = self.functions.get(call.name)
        return tool is not None and await tool.needs_approval(call.input, context)

    async def run(self, call: ToolCall, clock: Clock, context: ToolContext) -> dict[str, Any]:
        """The result of one call; an unknown name or an input that is no object is an error result."""
        tool = self.functions.get(call.name)
        if tool is None:
            offered = ", ".join(sorted(self.functions)) or "none"
            return result_block(call, f"there is no tool named {call.name!r}; offered: {offered}", is_error=True)
        return await tool.run(call, clock, context)
