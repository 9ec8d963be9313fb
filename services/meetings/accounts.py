"""Accounts: who may be one, and what is known of them."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from email_validator import EmailNotValidError, validate_email

from services.meetings.checks import Checks

PASSWORD_SHORTEST = 8
PASSWORD_LONGEST = 1024
EMAIL_LONGEST = 254
_USERNAME = re.compile(r"[A-Za-z0-9._-]{3,32}")


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may log in. `role` is `user` or `admin`."""

    id: str
    email: str
    username: str
    role: str
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Registration:
    """A request for an account that keeps the rules; the e-mail address is in its normal form."""

    email: str
    username: str
    password: str


def registration(email: str, username: str, password: str) -> Registration:
    """Check a request for an account. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    normal = normal_email(email)
    if normal is None:
        checks.fail("email", "must be an e-mail address")
    if not _USERNAME.fullmatch(username):
        checks.fail("username", "must have 3 to 32 letters, digits, dots, underscores or hyphens")
    # Length is what makes a password strong; rules on its characters make people choose worse ones. Nothing is cut
    # off: each character counts.
    if len(password) < PASSWORD_SHORTEST:
        checks.fail("password", f"must have at least {PASSWORD_SHORTEST} characters")
    if len(password) > PASSWORD_LONGEST:
        checks.fail("password", f"must have at most {PASSWORD_LONGEST} characters")
    checks.done()
    return Registration(normal or "", username, password)


def normal_email(email: str) -> str | None:
    """Return the form under which an address is kept and compared, or None if it is none.

    Upper and lower case are the same, also before the @: no provider in use tells them apart. Domains of a local
    network are allowed, since the platform may live in one.
    """
    if len(email) > EMAIL_LONGEST:
        return None
    try:
        valid = validate_email(email.strip(), check_deliverability=False, globally_deliverable=False)
    except EmailNotValidError:
        return None
    return valid.normalized.lower()
