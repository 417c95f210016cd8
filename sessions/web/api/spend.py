"""Endpoints of the ledger: what was spent, by day, owner, model, agent or kind; as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response

from sessions import Cost
from sessions.web import shown
from sessions.web.access import owner_of
from sessions.web.api.endpoints import Endpoint, query
from sessions.web.models import Spend, SpendBy, SpendRow
from sessions.web.problems import Refused
from sessions.web.service import Service

_KINDS = ("turn", "park", "refresh", "prewarm", "compact", "batch", "probe")
_COLUMNS = (
    *("cost", "calls", "unpriced", "input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "hit_rate"),
    *("lost", *_KINDS),
)


class Spending:
    """What is asked of the ledger. An operator sees everybody's, others their own."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def endpoints(self) -> list[Endpoint]:
        asks = {
            "by": "day (UTC), owner, model, agent or kind of call",
            "owner": "of one owner; operators only",
            "since": "the first day, such as 2026-11-30 (UTC)",
            "until": "the last day",
            "format": "csv, or json",
        }
        return [Endpoint("GET", "/api/spend", self.spend, "What was spent", Spend, query=asks)]

    async def spend(self, request: Request) -> Spend | Response:
        by: Any = query(request, "by") or "day"
        if by not in get_args(SpendBy):
            raise Refused(422, f"by must be one of {', '.join(get_args(SpendBy))}")
        if (form := query(request, "format") or "json") not in ("csv", "json"):
            raise Refused(422, "format must be csv or json")
        costs = await self._service.manager.costs(
            by,
            owner=self._whose(request),
            since=_day(request, "since"),
            until=_day(request, "until", after=1),
        )
        rows = sorted(costs.items(), key=lambda row: row[0] or "")
        if form == "csv":
            return _csv(by, rows)
        total = sum(costs.values(), start=Cost())
        return Spend(
            by=by,
            rows=[SpendRow(key=key, **shown.cost(cost).model_dump()) for key, cost in rows],
            total=shown.cost(total),
        )

    def _whose(self, request: Request) -> str | None:
        """The owner whose calls are added up; `None`: everybody's."""
        asked, owner = query(request, "owner"), owner_of(request)
        if self._service.is_operator(owner):
            return asked
        if asked not in (None, owner):
            raise Refused(403, "only operators see what others have spent")
        return owner


def _day(request: Request, name: str, after: int = 0) -> float | None:
    """The beginning of a day (UTC) of the query, in seconds since the epoch; `after` days later. Raises `Refused`."""
    text = query(request, name)
    try:
        day = None if text is None else datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        return None if day is None else (day + timedelta(days=after)).timestamp()
    except (ValueError, OverflowError):
        raise Refused(422, f"{name} must be a day such as 2026-11-30") from None


def _csv(by: str, rows: list[tuple[str | None, Cost]]) -> Response:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\r\n")
    table.writerow([by, *_COLUMNS])
    for key, cost in rows:
        used = cost.usage
        table.writerow(
            [
                _cell(key or ""),
                f"{cost.total:f}",
                cost.calls,
                cost.unpriced,
                used.input,
                used.cache_read,
                used.cache_write_5m,
                used.cache_write_1h,
                used.output,
                f"{used.hit_rate:.4f}",
                f"{cost.loss.cost:f}",
                *(f"{cost.by_kind.get(kind, Decimal(0)):f}" for kind in _KINDS),
            ]
        )
    name = f'attachment; filename="spend-by-{by}.csv"'
    return Response(text.getvalue(), media_type="text/csv", headers={"Content-Disposition": name})


def _cell(text: str) -> str:
    """What a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
