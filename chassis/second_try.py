"""When a call may be made a second time: the only retry between services, and the callers of a peer have none."""

from __future__ import annotations

import functools

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

_BROKEN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_SUCCESSES_FOR_ONE = 10
_MOST = 10 * _SUCCESSES_FOR_ONE


class SecondTry:
    """Lets a read that met a broken connection, or a replica just gone, be asked once more: another may answer.

    Only methods that their contract calls NO_SIDE_EFFECTS, and at most one for ten that succeeded, so that those that
    are left are not asked twice as much when many are gone.
    """

    def __init__(self) -> None:
        self._budget = _MOST

    def earn(self) -> None:
        """Note that a call succeeded at once."""
        self._budget = min(_MOST, self._budget + 1)

    def allows(self, method: str, status: grpc.StatusCode) -> bool:
        """Tell whether to try again, and count it as tried. `method` is `/package.Service/Method`."""
        if status not in _BROKEN or self._budget < _SUCCESSES_FOR_ONE or not _has_no_side_effects(method):
            return False
        self._budget -= _SUCCESSES_FOR_ONE
        return True


@functools.cache
def _has_no_side_effects(method: str) -> bool:
    try:
        described = descriptor_pool.Default().FindMethodByName(method.strip("/").replace("/", "."))
    except KeyError:
        return False
    return bool(described.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS)
