"""A check that somebody is a person, by a service of the operator's choice."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

import httpx2

from chassis import telemetry
from chassis.errors import AppError, Kind, Problem

log = telemetry.logger(__name__)

WHERE = ("register", "login")

_WITHIN_S = 5.0
_ANSWER_BYTES_MAX = 64 * 1024


class Captcha(Protocol):
    """Tells people from programs."""

    async def check(self, where: str, response: str | None, address: str) -> None:
        """Return if a person is there. `where` is one of WHERE, `response` what the page got from the widget.

        Raises AppError: VALIDATION_FAILED if not; UNAVAILABLE if it cannot be told: then nobody comes in this way.
        """


class NoCaptcha:
    """Everybody may be a program."""

    async def check(self, where: str, response: str | None, address: str) -> None:
        pass


class SiteVerifyCaptcha:
    """The protocol that reCAPTCHA, hCaptcha and Turnstile share: POST of `secret`, `response` and `remoteip`, answered
    with JSON that has `success`."""

    def __init__(self, http: httpx2.AsyncClient, url: str, secret: str, where: Collection[str]) -> None:
        self._http = http
        self._url = url
        self._secret = secret
        self._where = frozenset(where)

    async def check(self, where: str, response: str | None, address: str) -> None:
        if where not in self._where:
            return
        if not response:
            raise _refused("Solve the CAPTCHA")
        form = {"secret": self._secret, "response": response, "remoteip": address}
        try:
            async with asyncio.timeout(_WITHIN_S):
                answer = await self._http.post(self._url, data=form)
            answer.raise_for_status()
            body = answer.json() if len(answer.content) <= _ANSWER_BYTES_MAX else None
        except (httpx2.HTTPError, TimeoutError, ValueError) as fault:
            log.warning("captcha not checked", fault=repr(fault))
            raise AppError(Kind.UNAVAILABLE, "The CAPTCHA cannot be checked now.", retry_after_s=5.0) from fault
        if not isinstance(body, dict) or body.get("success") is not True:
            raise _refused("Solve the CAPTCHA again")


def _refused(problem: str) -> AppError:
    return AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(Problem("captcha", problem),))
