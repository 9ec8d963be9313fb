"""Limits for tests: a whole test run is one address, and often one account."""

from __future__ import annotations

RAISED = {
    "RATE_LIMITS_IP": "1000000/min 10000000/h",
    "RATE_LIMITS_ACCOUNT": "1000000/min 10000000/h",
    "RATE_LIMITS_STARTS": "100000/h",
    "RATE_LIMITS_ROUTES": "",
    "CONNECTIONS_PER_IP_MAX": "10000",
    "LOAD_MAX": "2000",
}

# The same of the meetings service: many people who come from one address.
OPEN_TO_MANY = {"REGISTRATIONS_PER_HOUR": "10000", "LOGIN_TRIES": "1000"}

# As little work as a password may cost: a test run logs in a thousand times.
QUICK_PASSWORDS = {"PASSWORD_HASH_MIB": "19", "PASSWORD_HASH_PASSES": "2"}

# One process of the embedded engine where it has little to do: each takes two seconds of a processor to start.
ONE_ENGINE = {"EMBEDDED_WORKERS": "1"}

# Receivers of webhooks that tests run on this machine.
WEBHOOKS_HERE = {"WEBHOOK_ALLOW_HTTP": "true", "WEBHOOK_ALLOWED_NETWORKS": '["127.0.0.0/8"]'}
