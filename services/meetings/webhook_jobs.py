"""The job of a delivery: sign, post, see what is answered."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chassis import telemetry
from chassis.errors import AppError, Kind
from chassis.worker import Effect, Postponed, Refused, Run
from services.meetings import metrics
from services.meetings.deliveries_store import DeliveriesStore, Outgoing
from services.meetings.posting import Poster
from services.meetings.targets import target
from services.meetings.webhooks import TEST, Secrets

log = telemetry.logger(__name__)

GONE = 410
# One that is slow holds up its own deliveries, not those of others.
_AT_ONCE_TO_ONE = 4
_NO_PLACE_S = 1.0


class WebhookJobs:
    """Handles jobs of the kind `webhook`; the key is the delivery's id, which is also the `webhook-id`.

    A delivery may come more than once (a process died between the answer and the commit), always under the same id.
    """

    def __init__(
        self,
        store: DeliveriesStore,
        poster: Poster,
        secrets: Secrets,
        clock: Callable[[], dt.datetime],
        *,
        allow_http: bool = False,
    ) -> None:
        self._store = store
        self._poster = poster
        self._secrets = secrets
        self._clock = clock
        self._allow_http = allow_http
        self._under_way: Counter[str] = Counter()

    async def handle(self, run: Run) -> Effect:
        """Deliver. Raises Refused if there is nothing to deliver any more, AppError for an attempt that failed."""
        out = await self._store.outgoing(run.job.key)
        if out is None:
            raise Refused("The webhook or the meeting is not there any more.")
        if not out.webhook.enabled and out.event != TEST:
            await self._store.gave_up(out, 0, "")
            raise AppError(Kind.FORBIDDEN, "The webhook is disabled.")
        with self._place(out.webhook.id):
            try:
                status = await self._post(out)
            except AppError as fault:
                await self._note(out, fault, last=run.job.last_attempt)
                raise
        metrics.WEBHOOK_DELIVERIES.labels("delivered").inc()
        return lambda connection: self._store.delivered(connection, out, status)

    async def _post(self, out: Outgoing) -> int:
        at = self._clock()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"Verbatim-Webhooks/{telemetry.VERSION}",
            "webhook-id": out.id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._secrets.signatures(out.webhook, out.id, at, out.body),
        }
        try:
            to = target(out.webhook.url, allow_http=self._allow_http)
        except ValueError:  # it was allowed when it was made
            raise AppError(Kind.BAD_GATEWAY, "Its URL is not allowed here any more.") from None
        with metrics.WEBHOOK_SECONDS.time():
            answer = await self._poster.post(to, headers, out.body)
        if answer.good:
            return answer.status
        raise _Answered(answer.status, answer.retry_after_s)

    async def _note(self, out: Outgoing, fault: AppError, *, last: bool) -> None:
        """Note an attempt that failed, as the last one if it was or if no other can succeed."""
        status = fault.status if isinstance(fault, _Answered) else 0
        if not last and fault.codes.retryable:
            await self._store.failed(out, status)
            metrics.WEBHOOK_DELIVERIES.labels("failed").inc()
            return
        metrics.WEBHOOK_DELIVERIES.labels("dead").inc()
        if await self._store.gave_up(out, status, fault.message, gone=status == GONE):
            metrics.WEBHOOKS_DISABLED.inc()
            log.warning("webhook disabled", webhook=out.webhook.id, account=out.webhook.owner_id)

    @contextmanager
    def _place(self, webhook_id: str) -> Iterator[None]:
        """Hold one of the places of a webhook. Raises Postponed if there is none."""
        if self._under_way[webhook_id] >= _AT_ONCE_TO_ONE:
            raise Postponed(_NO_PLACE_S)
        self._under_way[webhook_id] += 1
        try:
            yield
        finally:
            self._under_way[webhook_id] -= 1
            if not self._under_way[webhook_id]:
                del self._under_way[webhook_id]


class _Answered(AppError):
    """It answered, and not that it has taken the delivery."""

    def __init__(self, status: int, retry_after_s: float | None) -> None:
        # What is gone does not come back by asking again.
        kind = Kind.NOT_FOUND if status == GONE else Kind.BAD_GATEWAY
        words = f"It answered {status}."
        if 300 <= status < 400:
            words = f"It answered {status}: redirects are not followed."
        super().__init__(kind, words, retry_after_s=retry_after_s)
        self.status = status
