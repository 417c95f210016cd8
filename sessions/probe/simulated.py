"""The probe on the simulator of this process, on a turned clock: the default run, and what a real one will cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from sessions import simulator
from sessions.clock import SystemClock
from sessions.core.profiles import MODELS, Profile
from sessions.core.usage import Usage
from sessions.model.profile_file import SIMULATOR
from sessions.probe.run import Probe, documented
from sessions.simulator import Engine
from sessions.testing import ManualClock


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the same requests are billed on the simulator. `cost`: USD, `None` where no price is known."""

    requests: int
    usage: Usage
    cost: Decimal | None


def simulated_probe(model: str, *, engine: Engine | None = None, **settings: Any) -> Probe:
    """A probe of the simulator (of `engine`, where given). Waiting takes no time; `settings` are those of `Probe`."""
    clock, facts = ManualClock(SystemClock().now()), documented(model)
    served = engine or Engine(profile=None if model in MODELS else facts)
    client = simulator.client(engine=served, clock=clock, max_retries=0)
    base: Profile = settings.pop("base", facts)
    return Probe(client, model, endpoint=SIMULATOR, base=base, clock=clock, wait=clock.advance, **settings)


async def estimate(model: str, *, other: str | None, quick: bool, minimum: int = 0) -> Estimate:
    """What probing this model will send and cost where all is as documented.

    `minimum`: where nothing shorter than that many tokens is cached, which makes most requests longer.
    """
    facts = documented(model)
    facts = replace(facts, minimum_tokens=max(minimum, facts.minimum_tokens))
    probe = simulated_probe(model, engine=Engine(profile=facts), other=other, quick=quick)
    await probe.run()
    return Estimate(probe.requests, probe.usage, probe.spent)
