"""Plays a recorded conversation: a model that answers as recorded, tools that take as long, prompts of recorded size.

The simulator counts four bytes as a token, recordings were counted by a real tokenizer and hold no system prompt. So
filler makes up the difference: a system prompt for the first request, a text block with the user's words or with the
last tool result for each later one. Where the recorder shortened its history (it cleared old tool results, or the user
went back) by more than `SHORTENED` tokens, a new session begins, as after a compaction.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from anthropic.lib.tools import ToolError

from sessions.core.cache import THINKING
from sessions.core.profiles import MODELS, Profile
from sessions.importers.records import Block, RecordedConversation, RecordedStep, RecordedTurn
from sessions.results import NOTHING
from sessions.simulator import Engine, Request, Scripted, count, filler

DEFAULT_MODEL = "claude-sonnet-5-5"
"""Answers where the recording names no model that has a profile."""
CHARACTERS_PER_TOKEN = 2.75
"""Recorded output counters are often placeholders: the characters tell (measured on the recordings, 2026)."""
SHORTENED = 4000
"""Tokens by which a recorded prompt must be shorter than ours for a new session to begin."""
_WORDS = 500
"""Tokens that are left for words where a later prompt is shorter than the first."""
_LEAST = 8
"""Tokens; a smaller difference is left as it is."""
_SAYABLE = ("text", "image", "document", "search_result")
_THINKING_BUDGET = 16_000


class TurnedClock(Protocol):
    """The clock of a replay: `sessions.testing.ManualClock`."""

    def now(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...
    async def advance(self, seconds: float) -> None: ...


async def turn_to(clock: TurnedClock, moment: float) -> None:
    """Turns the clock forward to a moment (epoch seconds); one that is past already is now."""
    if moment > clock.now():
        await clock.advance(moment - clock.now())


def later(segments: Sequence[RecordedConversation], seconds: float) -> list[RecordedConversation]:
    """The recording moved in time."""
    return [
        replace(
            segment,
            turns=tuple(
                replace(
                    turn,
                    at=turn.at + seconds,
                    steps=tuple(replace(step, at=step.at + seconds) for step in turn.steps),
                )
                for turn in segment.turns
            ),
        )
        for segment in segments
    ]


def model_of(recording: Sequence[RecordedConversation]) -> str:
    """The model that made most of the replies, as recorded; `DEFAULT_MODEL` where no profile knows it."""
    models = Counter(step.model or segment.model for segment in recording for step in segment.steps)
    name, _ = models.most_common(1)[0]
    return name if name in MODELS else DEFAULT_MODEL


def settings_for(recording: Sequence[RecordedConversation], player: Player) -> dict[str, Any]:
    """What `SessionManager.create` takes to play every segment with one system prompt and one set of tools."""
    profile = player.profile
    model = profile.name
    thinks = any(block["type"] in THINKING for segment in recording for step in segment.steps for block in step.blocks)
    tools = _tools(recording, player)
    bare: dict[str, Any] = {"model": model, "max_tokens": profile.max_output, "tools": tools}
    if thinks and profile.thinking_default is None:
        adaptive = "adaptive" in profile.thinking_types
        budget = {"type": "enabled", "budget_tokens": _THINKING_BUDGET}
        bare["thinking"] = {"type": "adaptive"} if adaptive else budget
    system = next((segment.system for segment in recording if segment.system), None)
    return {**bare, "system": system or _system(recording, head_tokens(bare))}


@dataclass(slots=True)
class _Playing:
    """A call of the present step: what it gives, and when (epoch seconds)."""

    call: Block
    content: Any
    is_error: bool
    ends: float

    @property
    def tokens(self) -> int:
        """The size of the result."""
        return count({"type": "tool_result", "content": self.content})


class Player:
    """The model's script and the tools of one recording, on a turned clock."""

    def __init__(self, clock: TurnedClock, profile: Profile) -> None:
        self._clock = clock
        self.profile = profile
        self._steps: deque[RecordedStep] = deque()
        self._until = 0.0
        self._playing: list[_Playing] = []
        self._size = 0
        self._thought = 0
        self._is_fresh = True
        self._carried: list[Block] = []
        self.unrecorded = 0
        """How often the model was asked although nothing more was recorded."""

    @property
    def next(self) -> RecordedStep | None:
        """The step that answers the next request."""
        return self._steps[0] if self._steps else None

    @property
    def stops(self) -> bool:
        """After these tool results the session is left: the turn was interrupted here, or goes on in a new session."""
        return not self._steps or bool(self._carried)

    @property
    def rest(self) -> RecordedTurn | None:
        """What of the present turn goes on in a new session, the latest tool results as its words."""
        if not self._carried:
            return None
        return RecordedTurn(self._steps[0].at, tuple(self._carried), "compact", tuple(self._steps))

    def start(self, head_tokens: int) -> None:
        """A new session begins; its system prompt and tools are `head_tokens`."""
        self._size, self._thought, self._is_fresh = head_tokens, 0, True

    def needs_new_session(self, turn: RecordedTurn) -> bool:
        """Whether the recorder shortened its history before this turn."""
        return not self._is_fresh and _missing(turn.steps[0], self._size_with(turn)) < -SHORTENED

    def words(self, turn: RecordedTurn, until: float) -> list[Block]:
        """What to send for a turn, filled up to the recorded size. The next turn begins at `until` (epoch seconds)."""
        self._steps, self._until, self._carried, self._is_fresh = deque(turn.steps), until, [], False
        self._size = self._size_with(turn)
        self._thought = self._thought if self.profile.keeps_thinking else 0
        return [*turn.content, *self._filler(turn.steps[0])]

    async def script(self, request: Request, prompt_tokens: int) -> Scripted:
        """The simulated model: the next recorded reply, after the recorded time."""
        if not self._steps:
            self.unrecorded += 1
            return Scripted("(nothing more was recorded)")
        step = self._steps.popleft()
        blocks = [block for block in step.blocks if request.thinking or block["type"] not in THINKING]
        self._thought += sum(_tokens(block) for block in blocks if block["type"] in THINKING)
        self._size = prompt_tokens + sum(_tokens(block) for block in blocks)
        until = self._steps[0].at if self._steps else self._until
        ended = min(step.at + step.seconds, until)
        self._playing = self._results(step, ended, until)
        await turn_to(self._clock, ended)
        return Scripted([_unsigned(block) for block in blocks], output_tokens=output_tokens(step))

    async def call(self, name: str, given: object) -> Any:
        """A tool: the recorded result of the call of that name and input, at the recorded time.

        Raises:
            ToolError: the recorded result was an error.
        """
        named = [playing for playing in self._playing if playing.call["name"] == name]
        recorded = next((playing for playing in named if playing.call["input"] == given), named[0] if named else None)
        if recorded is None:
            raise ToolError(f"no call of {name} was recorded here")
        self._playing.remove(recorded)
        await turn_to(self._clock, recorded.ends)
        if recorded.is_error:
            raise ToolError(recorded.content)
        return recorded.content

    def _results(self, step: RecordedStep, ended: float, until: float) -> list[_Playing]:
        """The step's calls. They end as recorded, and the last of them when the next request began."""
        playing = [
            _Playing(call, result.get("content") or NOTHING, bool(result.get("is_error")), min(ended + seconds, until))
            for call, result, seconds in zip(step.calls, step.results, step.durations, strict=True)
        ]
        if not playing:
            return playing
        carrier = next((result for result in reversed(playing) if not result.is_error), playing[-1])
        if step.extra and not carrier.is_error:
            carrier.content = [*_as_list(carrier.content), *step.extra]
        self._size += sum(result.tokens for result in playing)
        if self._steps:
            max(playing, key=lambda result: result.ends).ends = until
            self._lead_to(self._steps[0], playing, carrier)
        return playing

    def _lead_to(self, step: RecordedStep, playing: Sequence[_Playing], carrier: _Playing) -> None:
        """Makes the prompt of the next step as long as recorded: by filler in one result, or by a new session."""
        if _missing(step, self._size) < -SHORTENED:
            blocks = [block for result in playing for block in _as_list(result.content)]
            self._carried = [block for block in blocks if block["type"] in _SAYABLE]
        elif _missing(step, self._size) >= _LEAST:
            before, carrier.content = carrier.tokens, _as_list(carrier.content)
            self._size += carrier.tokens - before
            carrier.content += self._filler(step)

    def _size_with(self, turn: RecordedTurn) -> int:
        """Tokens of the prompt when these words have been added; some models now strip the thinking before them."""
        stripped = 0 if self.profile.keeps_thinking else self._thought
        return self._size - stripped + sum(count(block) for block in turn.content)

    def _filler(self, step: RecordedStep) -> list[Block]:
        missing = _missing(step, self._size)
        if missing < _LEAST:
            return []
        self._size += missing
        return [{"type": "text", "text": filler(missing)}]


class RecordedTool:
    """A tool object as the SDK has them, whose calls a `Player` answers. Any input is taken."""

    def __init__(self, definition: Mapping[str, Any], player: Player) -> None:
        self.name = str(definition["name"])
        self._definition = dict(definition)
        self._player = player

    def to_dict(self) -> dict[str, Any]:
        """The definition as it is sent."""
        return self._definition

    async def call(self, given: object) -> Any:
        """Runs it."""
        return await self._player.call(self.name, given)


def output_tokens(step: RecordedStep) -> int:
    """What the reply is charged: the recorded counter, or what its characters make where that is more."""
    recorded = step.usage.output if step.usage else 0
    return max(1, recorded, round(sum(_characters(block) for block in step.blocks) / CHARACTERS_PER_TOKEN))


def _missing(step: RecordedStep, size: int) -> int:
    """Tokens by which a prompt of that size is shorter than the recorded one of this step."""
    return step.usage.total_input - size if step.usage and step.usage.total_input else 0


def _characters(block: Block) -> int:
    if block["type"] in ("text", "thinking"):
        return len(block[block["type"]])
    return len(json.dumps(block.get("input") or "", ensure_ascii=False))


def _tokens(block: Block) -> int:
    """Tokens of a recorded reply's block in the next prompt. Thinking is signed anew: its signature is left out."""
    if block["type"] in THINKING:
        return count({"type": "text", "text": block.get("thinking") or block.get("data") or ""})
    return count(block)


def _unsigned(block: Block) -> Block:
    return {"type": "thinking", "thinking": block["thinking"]} if block["type"] == "thinking" else block


def _as_list(content: Any) -> list[Block]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _tools(recording: Sequence[RecordedConversation], player: Player) -> list[Any]:
    """The recorded definitions, or one that takes anything for each tool that was called."""
    known = next((segment.tools for segment in recording if segment.tools), ())
    names = {call["name"] for segment in recording for step in segment.steps for call in step.calls}
    missing = sorted(names - {tool["name"] for tool in known})
    plain = [{"name": name, "description": "Recorded.", "input_schema": {"type": "object"}} for name in missing]
    return [
        RecordedTool(definition, player) if "input_schema" in definition else dict(definition)
        for definition in [*known, *plain]
    ]


def head_tokens(settings: Mapping[str, Any]) -> int:
    """Tokens of the system prompt and the tools of a session with these settings."""
    tools = [tool.to_dict() if isinstance(tool, RecordedTool) else tool for tool in settings["tools"]]
    body = {"model": settings["model"], "messages": [{"role": "user", "content": "."}], "tools": tools}
    if settings.get("system"):
        body["system"] = settings["system"]
    headers = {"x-api-key": "k", "anthropic-version": "2026-10-21"}
    counted = Engine().count_tokens(body, headers, 0.0)
    return int(counted.result["input_tokens"]) - count(".") if counted.result else 0


def _system(recording: Sequence[RecordedConversation], tools: int) -> str | None:
    """Filler that, with the tools and the first words, makes the smallest first prompt of any segment (no prompt of the
    recording may be too short for it)."""
    room = [
        _missing(step, sum(count(block) for block in turn.content) if step is segment.steps[0] else _WORDS)
        for segment in recording
        for turn in segment.turns
        for step in turn.steps
        if step.usage and step.usage.total_input
    ]
    missing = min(room, default=0) - tools
    return filler(missing) if missing >= _LEAST else None
