"""Accounts: who may be one, and what is known of them."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from enum import StrEnum

from email_validator import EmailNotValidError, validate_email

from services.meetings.checks import Checks

PASSWORD_SHORTEST = 8
PASSWORD_LONGEST = 1024
EMAIL_LONGEST = 254
_USERNAME = re.compile(r"[A-Za-z0-9._-]{3,32}")
_NO_USERNAME = re.compile(r"[^A-Za-z0-9._-]+")
_USERNAME_LONGEST = 32
_IDENTITY_LONGEST = 512


class Role(StrEnum):
    """What an account may do: what is its own, or look after the platform too."""

    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may come in, unless disabled. `role` is one of Role."""

    id: str
    email: str
    username: str
    role: str
    created_at: dt.datetime
    disabled: bool = False
    version: int = 1

    @property
    def is_active_admin(self) -> bool:
        """Whether it looks after the platform."""
        return self.role == Role.ADMIN and not self.disabled


@dataclass(frozen=True, slots=True)
class AccountChange:
    """What an admin changes; None stays as it is."""

    role: str | None = None
    disabled: bool | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody as another issuer knows them. Address and name are what it says of them, in a form that we can keep."""

    issuer: str
    subject: str
    email: str
    username: str


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
    _check_password(checks, "password", password)
    checks.done()
    return Registration(normal or "", username, password)


def new_password(password: str) -> str:
    """Check a password that somebody wants from now on. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    _check_password(checks, "new_password", password)
    checks.done()
    return password


def _check_password(checks: Checks, field: str, password: str) -> None:
    # Length is what makes a password strong; rules on its characters make people choose worse ones. Nothing is cut
    # off: each character counts.
    if len(password) < PASSWORD_SHORTEST:
        checks.fail(field, f"must have at least {PASSWORD_SHORTEST} characters")
    if len(password) > PASSWORD_LONGEST:
        checks.fail(field, f"must have at most {PASSWORD_LONGEST} characters")


def account_change(role: str | None, disabled: bool | None) -> AccountChange:
    """Check what an admin wants changed. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    if role is not None:
        checks.choice("role", role, tuple(Role))
    checks.done()
    return AccountChange(role, disabled)


def identity(issuer: str, subject: str, email: str, username: str) -> Identity:
    """Check who somebody is to another issuer; of address and name keep what we can, for people to read.

    Raises AppError(VALIDATION_FAILED) for an issuer or a subject that cannot be kept.
    """
    checks = Checks()
    for field, value in (("issuer", issuer), ("subject", subject)):
        if not value or len(value) > _IDENTITY_LONGEST or not value.isprintable():
            checks.fail(field, "cannot be kept")
    checks.done()
    address = normal_email(email) or ""
    name = _NO_USERNAME.sub("-", username or address.partition("@")[0]).strip("-.")[:_USERNAME_LONGEST]
    return Identity(issuer, subject, address, name if _USERNAME.fullmatch(name) else "member")


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
