"""The servicers of accounts, put together: stores, guards, signers, and what the settings say of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

from verbatim.meetings.v1.accounts_pb2_grpc import add_AccountsServiceServicer_to_server
from verbatim.meetings.v1.api_keys_pb2_grpc import add_ApiKeysServiceServicer_to_server
from verbatim.meetings.v1.logins_pb2_grpc import add_LoginsServiceServicer_to_server

from chassis.idempotency import IdempotencyKeys
from chassis.postgres import Database
from services.meetings.accounts_api import AccountsApi, ApiKeysApi, LoginsApi
from services.meetings.accounts_store import AccountsStore
from services.meetings.api_keys_store import ApiKeysStore
from services.meetings.devices import Devices
from services.meetings.guards import Rules, Slowing, Window
from services.meetings.guards_store import Guards
from services.meetings.login import Login, utc_now
from services.meetings.logins_store import Lives, LoginsStore
from services.meetings.paging import Cursors
from services.meetings.passwords import Passwords
from services.meetings.settings import Settings
from services.meetings.tokens import AccessTokens, RefreshTokens, derived

Registered = tuple[Callable[[Any, Any], None], object]


def account_servicers(
    settings: Settings, database: Database, cursors: Cursors, hashing: Passwords, keys: IdempotencyKeys
) -> Iterator[Registered]:
    """Yield each servicer with the generated function that registers it. Opens no connection."""
    key = settings.service_auth_key.get_secret_value()
    accounts, logins = AccountsStore(database, cursors), LoginsStore(database, _lives(settings))
    devices = Devices(derived(key, "devices"), utc_now)
    guards = Guards(database, _rules(settings), derived(key, "tries"), devices, utc_now)
    signing = AccessTokens(settings.auth_private_key.get_secret_value(), settings.access_token_life_s)
    renewing = RefreshTokens(derived(key, "refresh tokens"))
    login = Login(accounts, logins, hashing, guards, signing, renewing, registration_open=settings.registration_open)
    yield add_AccountsServiceServicer_to_server, AccountsApi(login, accounts, utc_now)
    api_keys = ApiKeysApi(ApiKeysStore(database, cursors), accounts, keys, derived(key, "api keys"), utc_now)
    yield add_ApiKeysServiceServicer_to_server, api_keys
    yield add_LoginsServiceServicer_to_server, LoginsApi(logins, database, utc_now)


def _lives(settings: Settings) -> Lives:
    return Lives(
        refresh=dt.timedelta(seconds=settings.refresh_token_life_s),
        login=dt.timedelta(seconds=settings.login_life_s),
        grace=dt.timedelta(seconds=settings.refresh_grace_s),
    )


def _rules(settings: Settings) -> Rules:
    quarter, hour = dt.timedelta(minutes=15), dt.timedelta(hours=1)
    return Rules(
        address=Window(settings.login_tries, quarter),
        pair=Slowing(
            settings.login_tries,
            first=dt.timedelta(seconds=settings.login_pause_s),
            longest=dt.timedelta(seconds=settings.login_pause_max_s),
        ),
        account=Window(settings.login_tries_of_account, quarter),
        device=Window(settings.login_tries, quarter),
        registration=Window(settings.registrations_per_hour, hour),
        guess=Window(settings.login_tries, quarter),
    )
