"""`warmline chat`: a conversation at the terminal. The prompt waits in the main thread, all else in the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

import typer
from anyio.from_thread import BlockingPortal, start_blocking_portal
from rich.markup import escape
from rich.status import Status

from sessions import Conflict, Entry, Reply, ReplyStream, Session, SessionManager
from sessions.cli.branches import entry_named
from sessions.cli.costs import print_cost
from sessions.cli.exit_codes import code_of
from sessions.cli.interrupts import quiet
from sessions.cli.lookup import claude, session_named
from sessions.cli.options import MODEL, STORE, ModelOption, OwnerOption, StoreOption
from sessions.cli.terminal import console, dollars, report
from sessions.cli.transcript import below, has_words
from sessions.cli.typed import Typed
from sessions.core.settings import make_settings
from sessions.errors import ConfigurationError, SessionsError
from sessions.translate import caller_errors

HELP = """\
/fork [ENTRY]    go on in a branch that starts here, or at an entry of this session
/rewind [ENTRY]  take back the last turn, or all behind an entry; it stays stored
/regenerate      take back the last answer and ask again
/cost            what this conversation has cost so far
/help            this
/quit            leave (so does Ctrl-D); `warmline chat ID` comes back
Ctrl-C           stop an answer and keep what there is of it
\\                at the end of a line: the message goes on in the next one
Pasted lines are one message, and text: a command in them is not obeyed."""


def chat(
    context: typer.Context,
    session: Annotated[str | None, typer.Argument(help="The session to go on with; a new one without it.")] = None,
    store: StoreOption = STORE,
    model: ModelOption = MODEL,
    system: Annotated[str | None, typer.Option("--system", help="The system prompt of a new session.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="The longest answer, in tokens.")] = 8192,
    owner: OwnerOption = None,
) -> None:
    """Talk with Claude; the conversation is kept and can be resumed by its id.

    At a terminal, pasted lines are one message, and a line that ends in a backslash goes on in the next one. From a
    pipe or a file, each line is a message.
    """
    if session is not None:
        _check_new(context)
        session = session_named(store, session, owner)
    with ExitStack() as stack:
        with quiet():  # a portal that is interrupted while it starts would be waited for, for ever
            portal = stack.enter_context(start_blocking_portal())
        client = stack.enter_context(portal.wrap_async_context_manager(claude()))
        manager = stack.enter_context(portal.wrap_async_context_manager(SessionManager(store, client=client)))
        found = None
        if session is not None:
            found = portal.call(partial(manager.open, session, owner=owner))
            known = f"[bold]{escape(found.id)}[/] with {escape(found.settings.model)}"
            console.print(f"Session {known}. /help tells the commands.")
        else:
            with caller_errors():  # what is wrong is said before the first message
                manager.runtime.endpoint.check(make_settings(model=model, max_tokens=max_tokens, system=system))
            console.print(f"A new session with {escape(model)}. /help tells the commands.")
        create = partial(manager.create, model=model, max_tokens=max_tokens, system=system, owner=owner)
        talk = Chat(portal, create, found)
        talk.run()
        if talk.failed is not None:
            raise typer.Exit(code_of(talk.failed))


def _check_new(context: typer.Context) -> None:
    """Raises `BadParameter` for what only a new session can be given."""
    for name in ("model", "system", "max_tokens"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} is for a new session; this one keeps its own settings: leave it out")


class Chat:
    """The terminal's side of one conversation; `session` changes when the user forks.

    A new one is created with its first message: who leaves before that leaves nothing behind.
    """

    def __init__(
        self, portal: BlockingPortal, create: Callable[[], Awaitable[Session]], session: Session | None
    ) -> None:
        self._portal, self._create, self._session = portal, create, session
        self.failed: SessionsError | None = None
        """What the last turn ended with, if it failed."""
        self._commands: dict[str, Callable[[str], None]] = {
            "/fork": self._fork,
            "/rewind": self._rewind,
            "/regenerate": self._regenerate,
            "/cost": self._cost,
            "/help": self._help,
        }

    @property
    def session(self) -> Session:
        """The conversation. Raises `Conflict` while there is none."""
        if self._session is None:
            raise Conflict("nothing has been said yet in this conversation")
        return self._session

    def run(self) -> None:
        """Asks and answers until the user leaves."""
        if self._session is not None:
            self._do(self._finish_interrupted)
        typed = Typed()
        while (message := self._ask(typed)) is not None:
            command, _, rest = message.partition(" ")
            if command.startswith("/") and "\n" not in message:
                self._do(partial(self._commands.get(command, self._unknown), rest.strip()))
            else:
                if self._session is None:
                    self._session = self._portal.call(self._create)
                self._do(partial(self._turn, message))
        if self._session is not None:
            console.print(f"[dim]Go on with: warmline chat {escape(self._session.id)}[/]")

    def _do(self, action: Callable[[], None]) -> None:
        """What goes wrong is told; the conversation goes on."""
        try:
            action()
        except SessionsError as error:
            report(error)

    def _ask(self, typed: Typed) -> str | None:
        """The next message or command, `None` when the user leaves."""
        while True:
            try:
                message = typed.message()
            except KeyboardInterrupt:
                message = None
            except ConfigurationError as error:
                if not typed.is_terminal:
                    raise
                report(error)
                continue
            if message is None:
                console.print()
            return None if message == "/quit" else message

    def _turn(self, words: str | list[dict[str, Any]]) -> None:
        try:
            self._answered(words)
        except SessionsError as error:
            self.failed = error
            raise
        self.failed = None

    def _answered(self, words: str | list[dict[str, Any]]) -> None:
        stream = self.session.stream(words)
        answer: Future[Reply] = self._portal.start_task_soon(self._answer, stream)
        try:
            reply = answer.result()
        except KeyboardInterrupt:
            self._portal.call(stream.cancel)
            reply = answer.result()
        self._below(reply)

    async def _answer(self, stream: ReplyStream) -> Reply:
        with console.status("[dim]thinking[/]") as waiting:
            async with stream:
                await self._show(stream, waiting)
                reply = await stream.get_final_reply()
        console.print()
        return reply

    async def _show(self, stream: ReplyStream, waiting: Status) -> None:
        async for text in stream.text_stream:
            waiting.stop()
            console.print(text, end="", markup=False, soft_wrap=True)

    def _below(self, reply: Reply) -> None:
        if reply.stop_reason not in ("end_turn", "stop_sequence"):
            console.print(f"[yellow]The answer ended early: {escape(str(reply.stop_reason))}.[/]")
        console.print(below(reply.usage, dollars(reply.cost)))

    def _finish_interrupted(self) -> None:
        reply = self._portal.call(self.session.resume)
        if reply is not None:
            console.print(f"[yellow]The last turn had been interrupted; it is resumed:[/]\n{escape(reply.text)}")
            self._below(reply)

    def _fork(self, at: str) -> None:
        self._session = self._portal.call(self.session.fork, entry_named(self.session, at) if at else None)
        console.print(f"A branch: session [bold]{escape(self.session.id)}[/].")

    def _rewind(self, to: str) -> None:
        last = None if to else self._last_words()
        self._portal.call(self.session.rewind, entry_named(self.session, to) if last is None else last.parent)
        console.print(f"Back at {len(self.session.entries)} entries. What was can still be reached: /fork ENTRY.")

    def _regenerate(self, _: str) -> None:
        last = self._last_words()
        pinned = len(self.session.settings.context) if last.parent is None else 0
        words = [block for block in last.content[pinned:] if block["type"] != "tool_result"]
        self._portal.call(self.session.rewind, last.parent)
        self._turn(words)

    def _last_words(self) -> Entry:
        """The newest message of the user with words in it."""
        found = next((entry for entry in reversed(self.session.entries) if has_words(entry)), None)
        if found is None:
            raise Conflict("nothing has been said yet in this conversation")
        return found

    def _cost(self, _: str) -> None:
        print_cost(self._portal.call(self.session.cost))

    def _help(self, _: str) -> None:
        console.print(HELP, markup=False)

    def _unknown(self, _: str) -> None:
        console.print(f"There is no such command.\n{HELP}", markup=False)
