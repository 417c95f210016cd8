"""`warmline import`: recorded conversations become sessions that can be gone on with."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.markup import escape

from sessions import Session, SessionManager
from sessions.cli.exit_codes import Code
from sessions.cli.options import MODEL, STORE, JsonOption, StoreOption
from sessions.cli.recorded import MAX_MIB, FilesArgument, MaxMibOption, StrictOption, read_file
from sessions.cli.terminal import console, errors, print_json, report
from sessions.core.profiles import MODELS
from sessions.errors import ConfigurationError, InvalidHistory, InvalidImport, SessionNotFound, SessionsError
from sessions.importers import RecordedConversation


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options say of every session: `None` where the recording decides."""

    model: str | None
    title: str | None
    owner: str | None
    max_tokens: int
    thinking: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """A conversation that is a session now. `filler`: only sizes were recorded, so every text in it is made up."""

    id: str
    file: str
    conversation: str
    model: str
    messages: int
    filler: bool


def import_files(
    files: FilesArgument,
    model: Annotated[
        str | None, typer.Option("--model", help=f"For all sessions; else the recorded one where known, or {MODEL}.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="For all sessions; else the recorded id.")] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Whose the sessions are.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="The longest answer, in tokens.")] = 8192,
    thinking: Annotated[
        bool, typer.Option("--thinking/--no-thinking", help="Whether recorded thinking is kept.")
    ] = True,
    strict: StrictOption = False,
    max_mib: MaxMibOption = MAX_MIB,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Make a session of each recorded conversation, without calling the model.

    An API accepts only thinking that it has signed: where another one answers from now on, leave it out
    (`--no-thinking`). A conversation that cannot be taken is told, and the others are imported.
    """
    importing = _Importing(Wishes(model, title, owner, max_tokens, thinking), as_json)
    try:
        recorded = list(importing.read(files, strict, max_mib))
        if recorded:
            anyio.run(importing.store, store, recorded)
    finally:
        if as_json:
            print_json(importing.stored)
    if importing.failed is not None:
        raise typer.Exit(importing.failed)


class _Importing:
    """What has been stored, and the exit code of the first thing that could not be."""

    def __init__(self, wishes: Wishes, silent: bool) -> None:
        self._wishes, self._silent = wishes, silent
        self.stored: list[Stored] = []
        self.failed: Code | None = None

    def read(self, files: Sequence[Path], strict: bool, max_mib: int) -> Iterator[tuple[Path, RecordedConversation]]:
        """Each conversation of each file that can be read."""
        for file in files:
            try:
                found = read_file(file, strict, max_mib).conversations
            except InvalidImport as error:
                self._tell(error)
                continue
            if filler := sum(conversation.filler for conversation in found):
                told = f"{file}: only sizes were recorded, so every text of its {filler} conversations is filler"
                errors.print(f"[yellow]{escape(told)}[/]", soft_wrap=True)
            yield from ((file, conversation) for conversation in found)

    async def store(self, store: str, recorded: Iterable[tuple[Path, RecordedConversation]]) -> None:
        """Makes a session of each. Raises what the store raises: that is wrong with all of them."""
        async with SessionManager(store) as manager:
            for file, conversation in recorded:
                try:
                    session, messages = await stored(manager, conversation, self._wishes)
                except (ConfigurationError, InvalidHistory) as error:
                    self._tell(error, f"{file}, conversation {conversation.id}")
                else:
                    self._note(file, conversation, session, messages)

    def _note(self, file: Path, conversation: RecordedConversation, session: Session, messages: int) -> None:
        model = session.settings.model
        self.stored.append(Stored(session.id, str(file), conversation.id, model, messages, conversation.filler))
        if not self._silent:
            about = escape(f"{messages} messages, {model}  {conversation.id}")
            console.print(f"[bold]{escape(session.id)}[/]  {about}", soft_wrap=True)

    def _tell(self, error: SessionsError, place: str = "") -> None:
        code = report(error, place)
        self.failed = self.failed or code


async def stored(manager: SessionManager, conversation: RecordedConversation, wishes: Wishes) -> tuple[Session, int]:
    """A session with the conversation's messages, and how many they are; or an error and no session."""
    if conversation.filler or not wishes.thinking:  # nobody has signed what is made up
        conversation = conversation.without_thinking()
    messages, system = conversation.messages, conversation.system
    id = uuid.uuid4().hex
    try:
        session = await manager.create(
            id=id,
            model=wishes.model or _model_of(conversation),
            max_tokens=wishes.max_tokens,
            system=list(system) if isinstance(system, tuple) else system,
            tools=list(conversation.tools or ()),
            title=wishes.title or conversation.id,
            owner=wishes.owner,
        )
        await session.append(messages)
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(SessionNotFound):
            await manager.delete(id)
        raise
    return session, len(messages)


def _model_of(conversation: RecordedConversation) -> str:
    """The model that made most of the replies, if it is one that can be asked; else the usual one."""
    models = Counter(step.model or conversation.model for step in conversation.steps)
    return next((name for name, _ in models.most_common() if name in MODELS), MODEL)
