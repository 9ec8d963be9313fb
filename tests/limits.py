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
