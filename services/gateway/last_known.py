"""What was answered last, for when the one who knows is away: kept in Redis, which replicas share, and in memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

from chassis.cache import Asking, Cache
from chassis.redis_lane import BEGIN, Away

LIFE_S = 86_400
_ANSWER_BYTES_MAX = 128 * 1024
_MEMORY_BYTES_MAX = 8 * 1024 * 1024

# KEYS: the lane, the answer. ARGV: the answer, its life.
_KEEP = BEGIN + "redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2]) return 1"
_GET = BEGIN + "return redis.call('GET', KEYS[2])"


class LastKnown:
    """Keeps the last answer to each question of an account, for a day and in bounded memory.

    Nothing here ever fails a request: what cannot be kept is not, and what is not there is None.
    """

    scripts: Mapping[str, str]

    def __init__(self, cache: Cache, kind: str) -> None:
        self._cache = cache
        self._kind = kind
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self.scripts = {f"{kind}-keep": _KEEP, f"{kind}-get": _GET}
        cache.join(self)

    async def keep(self, account_id: str, question: str, answer: bytes) -> None:
        """Keep an answer in place of the one before."""
        if len(answer) > _ANSWER_BYTES_MAX:
            return
        key = self._key(account_id, question)
        self._bytes += len(answer) - len(self._answers.pop(key, b""))
        self._answers[key] = answer
        while self._bytes > _MEMORY_BYTES_MAX:
            self._bytes -= len(self._answers.popitem(last=False)[1])
        await self._ask("keep", key, answer, LIFE_S)

    def forget(self) -> None:
        """Forget what is in memory here. What Redis has goes when the next answer is kept."""
        self._answers.clear()
        self._bytes = 0

    async def get(self, account_id: str, question: str) -> bytes | None:
        """Return the last answer, whichever replica gave it; None if nobody knows it."""
        key = self._key(account_id, question)
        told = await self._ask("get", key)
        return bytes(told) if isinstance(told, bytes) else self._answers.get(key)

    def pending(self) -> int:
        """Nothing is counted here."""
        return 0

    async def give_back(self, ask: Asking) -> None:
        """Nothing is owed to Redis."""

    async def _ask(self, what: str, key: str, *arguments: object) -> object:
        try:
            answer: object = await self._cache.reply_of(
                await self._cache.start(f"{self._kind}-{what}", (key,), arguments)
            )
        except Away:
            return None
        return answer

    def _key(self, account_id: str, question: str) -> str:
        return f"{self._kind}:{account_id}:{hashlib.sha256(question.encode()).hexdigest()[:32]}"
