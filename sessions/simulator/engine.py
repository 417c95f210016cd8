"""A Claude that bills and refuses as the real one does: pure, no I/O, no await; time enters as an argument.

One request goes through `receive` (validate, find the hit), `ask` (the script), `answer` (compose), `begin` (the first
event: entries become readable, the prompt is charged), `generated` and `end`. `doors/delivery.py` drives this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from sessions.core import cache
from sessions.core.prices import cost
from sessions.core.profiles import MODELS, Profile, Ttl, profile_for
from sessions.core.usage import Usage
from sessions.simulator.answers.assistant import assistant
from sessions.simulator.answers.reply import Composer, Limits, Reply
from sessions.simulator.answers.script import Answer, Request, Script
from sessions.simulator.answers.wire import events, message
from sessions.simulator.batch import ITEM, Batch
from sessions.simulator.bill import Bill
from sessions.simulator.checks import compaction, editing, thinking, validation
from sessions.simulator.checks.context import Context
from sessions.simulator.checks.refusal import Refusal
from sessions.simulator.checks.settings import check_batched
from sessions.simulator.exchange import Exchange
from sessions.simulator.exchanges import Exchanges
from sessions.simulator.faults import Fault, Faults, fault_for
from sessions.simulator.fingerprints import Fingerprints, fingerprint, tier_sizes
from sessions.simulator.prompt import Prompt, charge, cumulative, indexes, usage_of
from sessions.simulator.prompt_cache import PromptCache
from sessions.simulator.signing import Seal, digest, sign
from sessions.simulator.tokens import count


class Engine:
    """A simulated Messages API with its model, cache, signatures and bill.

    `script`: what the model answers (default: a small rule-based assistant). `faults`: what goes wrong, by request
    index. `profile`: replaces the model's own facts, for planted deviations (another look-back, minimum, no counters,
    …); any model name is then accepted. `parks_survive=False`, or a profile without `parks`: a 1h entry on top of a 5m
    entry ends with it. `refreshes_shorter`: a read also refreshes the live entries at the request's earlier marks (not
    documented; recorded usage shows it: docs/provider.md, 18). `grants_hours=False`: what is marked for an hour is
    written for 5 minutes, and billed so. `seed`: makes ids and the signing key; engines of one seed accept each other's
    signatures. `blocks`: further content block types to accept. `keep`: how many exchanges are kept, `keep_messages`
    how many messages in their bodies.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        faults: Faults | None = None,
        profile: Profile | None = None,
        parks_survive: bool = True,
        refreshes_shorter: bool = True,
        grants_hours: bool = True,
        seed: int = 0,
        blocks: Iterable[str] = (),
        keep: int = 10_000,
        keep_messages: int = 50_000,
    ) -> None:
        self.script: Script = script or assistant
        self.faults, self.profile = faults, profile
        self.refreshes_shorter, self.grants_hours = refreshes_shorter, grants_hours
        self.cache = PromptCache(parks_survive and (profile is None or profile.parks))
        self._exchanges = Exchanges(keep, keep_messages)
        self.requests = self._exchanges.kept
        self.batches: dict[str, Batch] = {}
        self.blocks = frozenset(blocks)
        self._seed = seed
        self._key = hashlib.blake2b(f"warmline simulator {seed}".encode(), digest_size=32).digest()
        self._count = 0
        self._ids = 0
        self._bill = Bill()
        self._open: set[Exchange] = set()
        self._fingerprints = Fingerprints()
        self._turns = thinking.Turns()

    # -- one request ---------------------------------------------------------------------------------------------------

    def receive(self, body: Any, headers: Mapping[str, str], now: float, *, path: str = "/v1/messages") -> Exchange:
        """Takes a request that starts at `now`. Never raises: a refused exchange has `status` and `error`."""
        exchange = self._taken(path, now, body if isinstance(body, dict) else None)
        try:
            self._identify(exchange, headers)
            if path in ("/v1/messages", ITEM):
                self._plan_fault(exchange, fault_for(self.faults, exchange.index))
            if exchange.state == "open":
                self._accept(exchange, body, headers)
        except Refusal as refusal:
            self.refuse(exchange, refusal)
        return exchange

    def visit(self, path: str, headers: Mapping[str, str], now: float) -> Exchange:
        """Takes a request that asks no model: who sends it, and what is planned to go wrong with it."""
        exchange = self._taken(path, now)
        try:
            self._identify(exchange, headers)
            self._plan_fault(exchange, fault_for(self.faults, exchange.index))
        except Refusal as refusal:
            self.refuse(exchange, refusal)
        return exchange

    def reject(self, refusal: Refusal, path: str, now: float) -> Exchange:
        """Takes a request that cannot even be read, and refuses it."""
        exchange = self._taken(path, now)
        self.refuse(exchange, refusal)
        return exchange

    def ask(self, exchange: Exchange) -> Answer | Awaitable[Answer]:
        """Asks the script; what comes back may have to be awaited before it goes into `answer`."""
        assert exchange.request is not None
        body = exchange.request.body
        return "" if body["max_tokens"] == 0 or body.get("compaction") else self.script(exchange.request)

    def answer(self, exchange: Exchange, answer: Answer) -> bool:
        """Composes the reply: events for a stream, a message otherwise; False if a fault took its place.

        A script may answer with a `Fault`.
        """
        prompt = exchange.prompt
        assert prompt is not None
        if isinstance(answer, Fault):
            self._plan_fault(exchange, answer)
            answer = ""
        scripted_fault = getattr(answer, "fault", None)
        if scripted_fault is not None:
            self._plan_fault(exchange, scripted_fault)
        if exchange.state != "open":
            return False
        reply = self._compose(exchange, prompt, answer)
        exchange.reply = reply
        if exchange.stream:
            exchange.events = events(prompt.head, reply, exchange.fault)
        else:
            exchange.result = message(prompt.head, reply)
        return True

    def begin(self, exchange: Exchange, now: float) -> None:
        """The response begins: its entries become readable and the prompt is charged, whatever happens next."""
        prompt = exchange.prompt
        assert prompt is not None
        exchange.began = now
        for name in (*prompt.renewed, *([] if prompt.read is None else [prompt.read])):
            self.cache.refresh(name, "5m", exchange.started)
        for name, ttl in prompt.writes:
            self.cache.write(name, ttl, exchange.started, base=prompt.read)
        exchange.usage = prompt.usage
        self._open.add(exchange)

    def generated(self, exchange: Exchange, tokens: int) -> None:
        """`tokens` more output tokens have been generated."""
        if exchange.usage is not None:
            exchange.usage = replace(exchange.usage, output=exchange.usage.output + tokens)

    def end(self, exchange: Exchange, now: float, *, cut: bool = False) -> None:
        """The response ended. A whole one is charged its full output, a cut one what was generated so far."""
        if exchange.state != "open":
            return
        exchange.ended, exchange.state = now, "cut" if cut else "complete"
        self._open.discard(exchange)
        prompt, reply = exchange.prompt, exchange.reply
        if exchange.usage is None or prompt is None or reply is None:
            return
        if not cut:
            exchange.usage = replace(exchange.usage, output=reply.output_tokens)
            exchange.stop_reason = reply.stop_reason
            self._turns.remember(reply)
        exchange.cost = _cost(exchange, exchange.usage, prompt)
        self._bill = self._bill.plus(exchange.usage, exchange.cost)

    def count_tokens(self, body: Any, headers: Mapping[str, str], now: float) -> Exchange:
        """`POST /v1/messages/count_tokens`: validated as a message is, not charged."""
        exchange = self.receive(body, headers, now, path="/v1/messages/count_tokens")
        if exchange.ok and exchange.prompt is not None:
            exchange.result, exchange.state = {"input_tokens": exchange.prompt.total}, "complete"
        return exchange

    def bill(self) -> Bill:
        """Everything charged so far; responses still under way count with what they have generated."""
        bill = self._bill
        for exchange in self._open:
            assert exchange.usage is not None
            assert exchange.prompt is not None
            bill = bill.plus(exchange.usage, _cost(exchange, exchange.usage, exchange.prompt))
        return bill

    def evict(self) -> int:
        """Empties the cache before its time; tells how many entries were dropped."""
        return self.cache.evict()

    def sign(self, body: Mapping[str, Any], *, organization: str = "simulated") -> list[dict[str, Any]]:
        """The messages of `body` with every thinking block signed as if this engine had written it (for imports)."""
        return thinking.sign_history(body, self._key, organization)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _identify(self, exchange: Exchange, headers: Mapping[str, str]) -> None:
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not key:
            raise Refusal("x-api-key header is required", status=401)
        organization, _, workspace = key.partition("/")
        exchange.organization = organization
        exchange.workspace = headers.get("anthropic-workspace-id") or workspace or "default"
        exchange.betas = frozenset(b.strip() for b in headers.get("anthropic-beta", "").split(",") if b.strip())
        if "anthropic-version" not in headers:
            raise Refusal("anthropic-version: header is required")

    def _accept(self, exchange: Exchange, body: Any, headers: Mapping[str, str]) -> None:
        context = Context(
            version=headers["anthropic-version"],
            betas=exchange.betas,
            counting=exchange.path.endswith("count_tokens"),
            blocks=self.blocks,
            paused=self._turns.paused,
        )
        validation.shape(body, context)
        if exchange.path == ITEM:
            check_batched(body)
        body = _filled(body)
        exchange.model = body["model"]
        profile = self._profile(body["model"])
        marks = [(at, ttl if self.grants_hours else "5m") for at, ttl in validation.rules(body, profile, context)]
        compaction.verify(body, self._key)
        account, drops = exchange.organization, exchange.path == ITEM
        checked = thinking.check(body, profile, self._key, account, self._turns, context.betas, dropping=drops)
        exchange.prompt = self._prompt(exchange, profile, marks, checked)
        exchange.request = Request(body, exchange.index, checked.on)

    def _profile(self, model: str) -> Profile:
        if self.profile is not None:
            return replace(self.profile, name=model)
        if model not in MODELS:
            raise Refusal(f"model: {model}", status=404)
        return profile_for(model)

    def _prompt(
        self, exchange: Exchange, profile: Profile, marks: Sequence[tuple[cache.Where, Ttl]], checked: thinking.Checked
    ) -> Prompt:
        body = checked.body
        seen, cleared = editing.edited(body)
        points, sizes = self.measure(exchange, seen, profile)
        total = sizes[-1] if sizes else 0
        self._fits(profile, body, total)
        marked = indexes(points, editing.left(checked.moved(marks), body, seen), profile)
        marked = [(at, ttl) for at, ttl in marked if sizes[at] >= profile.minimum_tokens]
        now = exchange.started
        hit, usage = charge(points, sizes, marked, self.cache, now, profile)
        if profile.automatic and not profile.markers:
            usage = Usage(input=total - usage.cache_read, cache_read=usage.cache_read, counters=profile.counters)
        writes = [(points[at].digest, ttl) for at, ttl in marked if hit is None or at > hit]
        shorter = [points[at].digest for at, _ in marked if hit is not None and at < hit]
        renewed = [name for name in shorter if self.refreshes_shorter and self.cache.alive(name, now)]
        exchange.message_id = self.new_id("msg")
        prompt = Prompt(
            body=body,
            profile=profile,
            usage=usage,
            writes=writes,
            renewed=renewed,
            read=points[hit].digest if hit is not None else None,
            head={},
            thinking=checked.on,
            omitted=checked.omitted,
            total=total,
            binding=checked.binding,
            thought=checked.last,
            edits=cleared,
        )
        return replace(prompt, head=self._head(exchange, prompt, checked))

    def measure(
        self, exchange: Exchange, body: Mapping[str, Any], profile: Profile
    ) -> tuple[Sequence[cache.Point], Sequence[int]]:
        """The points of a request that is in order, and the tokens of the prompt up to each."""
        scope = f"{exchange.organization}/{exchange.workspace}"
        points = cache.chain({**body, "betas": sorted(exchange.betas)}, profile, workspace=scope)
        return points, cumulative(body, points)

    def _fits(self, profile: Profile, body: Mapping[str, Any], total: int) -> None:
        if total > profile.window:
            raise Refusal(f"prompt is too long: {total} tokens > {profile.window} maximum")

    def _head(self, exchange: Exchange, prompt: Prompt, checked: thinking.Checked) -> dict[str, Any]:
        """The message as `message_start` shows it."""
        usage = usage_of(prompt)
        head: dict[str, Any] = {
            "id": exchange.message_id,
            "type": "message",
            "role": "assistant",
            "model": exchange.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": compaction.iterations(usage) if prompt.body.get("compaction") else usage,
        }
        diagnostics = self._diagnose(exchange, prompt) if prompt.profile.diagnostics else None
        if "diagnostics" in prompt.body:
            head["diagnostics"] = diagnostics
        if prompt.edits is not None:
            head["context_management"] = {"applied_edits": list(prompt.edits)}
        if checked.transformations is not None:
            head["input_transformations"] = checked.transformations
        return head

    def _diagnose(self, exchange: Exchange, prompt: Prompt) -> dict[str, Any] | None:
        asked = prompt.body.get("diagnostics")
        if asked is None or exchange.path.endswith("count_tokens"):
            return None
        scope = f"{exchange.organization}/{exchange.workspace}"
        now = fingerprint(prompt.body, exchange.betas, tier_sizes(prompt.body, prompt.total))
        assert exchange.message_id is not None
        answer = self._fingerprints.diagnose(scope, asked.get("previous_message_id"), now)
        self._fingerprints.remember(scope, exchange.message_id, now)
        return answer

    def _compose(self, exchange: Exchange, prompt: Prompt, answer: Answer) -> Reply:
        body = prompt.body
        if body["max_tokens"] == 0:
            return Reply(stop_reason="max_tokens")
        if body.get("compaction"):
            block = compaction.compacted(body, self._key, exchange.organization)
            size = count(block)
            return Reply([block], [size], "compaction", output_tokens=size)
        before = prompt.thought

        def seal(block: Mapping[str, Any], size: int) -> str:
            nonlocal before
            text = "" if prompt.omitted or block["type"] != "thinking" else digest(block["thinking"])
            model = thinking.family(exchange.model)
            record = Seal(
                model=model,
                organization=exchange.organization,
                prefix=prompt.binding,
                before=before,
                text=text,
                tokens=max(0, size - 3),
            )
            signature = sign(record, self._key)
            before = digest(signature)
            return signature

        limits = Limits(
            body["max_tokens"], max(1, prompt.profile.window - prompt.total), body.get("stop_sequences") or ()
        )
        composer = Composer(self.new_id, seal, limits, prompt.thinking, prompt.omitted)
        reply = composer.compose(answer)
        return thinking.spoil(reply, exchange.fault.kind) if exchange.fault is not None else reply

    def _plan_fault(self, exchange: Exchange, fault: Fault | None) -> None:
        exchange.fault = fault
        if fault is None:
            return
        if fault.kind == "status":
            exchange.status, exchange.state = fault.status, "failed"
            refusal = Refusal(fault.message, status=fault.status, type=fault.type)
            exchange.error = refusal.envelope(exchange.request_id)
        elif fault.kind == "drop":
            exchange.state = "failed"

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answers with the API's error; nothing is charged."""
        exchange.status, exchange.state = refusal.status, "refused"
        exchange.error = refusal.envelope(exchange.request_id)
        self._bill = replace(self._bill, refused=self._bill.refused + 1)

    def _taken(self, path: str, now: float, body: dict[str, Any] | None = None) -> Exchange:
        """The next exchange, kept."""
        index, self._count = self._count, self._count + 1
        exchange = Exchange(index, self.new_id("req"), now, body, path)
        self._exchanges.add(exchange)
        return exchange

    def new_id(self, kind: str) -> str:
        """The next id of this kind, such as `msg_…`; always the same ones for the same seed."""
        self._ids += 1
        name = hashlib.blake2b(f"{self._seed} {self._ids}".encode(), digest_size=11).hexdigest()
        return f"{kind}_01{name}"


def _cost(exchange: Exchange, usage: Usage, prompt: Prompt) -> Decimal | None:
    return cost(usage, prompt.profile, prompt.body, batch=exchange.path == ITEM)


def _filled(body: dict[str, Any]) -> dict[str, Any]:
    """The body with `content: []` in effort-only system messages that leave it out."""
    if all(message.get("content") is not None for message in body["messages"]):
        return body
    return {**body, "messages": [{**message, "content": message.get("content") or []} for message in body["messages"]]}
