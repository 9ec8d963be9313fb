"""What is done to the edge by those who want too much: bursts, guessed passwords, storms of logins."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter

import psutil

from tests.chaos.platform import PASSWORD, until
from tests.chaos.rawhttp import Answer, Tally, ask, burst, together
from tests.chaos.scene import Scene

BURST = 1000
LIMIT = 100
LIMITED = "/api/webhooks"
"""Asked for without a credential: who is let through gets a 401, who is not a 429."""
LIMITS = {"gateway": {"RATE_LIMITS_ROUTES": f"GET {LIMITED}={LIMIT}/h"}}
WITHOUT_REDIS_MAX = 1.2
_AT_ONCE = 50

TRIES = 1000
TRIES_OF_ADDRESS, TRIES_OF_ACCOUNT = 5, 20
AS_SHIPPED = {"meetings": {"LOGIN_TRIES": str(TRIES_OF_ADDRESS), "LOGIN_TRIES_OF_ACCOUNT": str(TRIES_OF_ACCOUNT)}}
HOME, ELSEWHERE, ATTACKER = "127.77.0.1", "127.78.0.1", "127.66.0.1"
HASHING_BYTES_MAX = (2 * 64 + 64) << 20
"""What a storm of logins may cost one meetings service: two hashes at once, and some room."""
_STORM_AT_ONCE = 200
_LOOK_EVERY_S = 0.05


# -- row 14 --------------------------------------------------------------------------------------------------------


async def bursts(scene: Scene) -> None:
    """Send ten times what is allowed to two gateways: with Redis, while it goes, and without; then it is back."""
    with_redis = await _burst(scene, "127.50.0.1", "with Redis")
    _expect(scene, "with Redis", with_redis, LIMIT - 1, LIMIT + 1)

    going = Tally()
    sending = asyncio.create_task(_burst(scene, "127.50.0.2", "while Redis goes", going))
    await until(lambda: len(going.answers) >= LIMIT // 2 or sending.done(), scene.settle_s, "half of what is allowed")
    scene.kill("redis")
    _expect(scene, "while Redis goes", await sending, LIMIT - 1, int(LIMIT * WITHOUT_REDIS_MAX))

    await _all_gateways(scene, "redis_fallback_active", 1.0)
    away = await _burst(scene, "127.50.0.3", "without Redis")
    _expect(scene, "without Redis", away, int(LIMIT * 0.9), int(LIMIT * WITHOUT_REDIS_MAX))

    await scene.restart("redis")
    await _all_gateways(scene, "redis_fallback_active", 0.0)
    await _all_gateways(scene, "redis_fallback_journal_size", 0.0)
    for number in (1, 2, 3):
        after = Tally()
        await burst(_ports(scene), f"127.50.0.{number}", LIMITED, 20, at_once=2, tally=after)
        let_in = 20 - after.statuses[429]
        if let_in > (LIMIT * 0.1 if number == 3 else 1):
            scene.breaches.append(f"burst {number} was forgotten: {let_in} more came through when Redis was back")


async def _burst(scene: Scene, source: str, when: str, tally: Tally | None = None) -> Tally:
    tally = tally if tally is not None else Tally()
    scene.mark()
    await burst(_ports(scene), source, LIMITED, BURST, at_once=_AT_ONCE, tally=tally)
    let_in = tally.statuses[401]
    scene.notes.append(
        f"{when}: {let_in} of {len(tally.answers)} let in (limit {LIMIT}), {_AT_ONCE} at once, "
        f"p50 {tally.percentile_s(0.5) * 1000:.0f} ms, p99 {tally.percentile_s(0.99) * 1000:.0f} ms"
    )
    return tally


def _expect(scene: Scene, when: str, tally: Tally, least: int, most: int) -> None:
    let_in, denied = tally.statuses[401], tally.statuses[429]
    if not least <= let_in <= most:
        scene.breaches.append(f"{when}: {let_in} of {BURST} were let in, not {least} to {most}")
    if let_in + denied != BURST or tally.cut:
        scene.breaches.append(f"{when}: answered {dict(tally.statuses)}, {tally.cut} not at all")
    if tally.helpless:
        scene.breaches.append(f"{when}: {tally.helpless} answers do not say when to come back")


def _ports(scene: Scene) -> list[int]:
    return [port for _, port in scene.platform.gateways.values()]


async def _all_gateways(scene: Scene, metric: str, value: float) -> None:
    """Wait until each gateway says so. Raises TimeoutError."""
    async with asyncio.timeout(scene.settle_s):
        for name in scene.platform.gateways:
            while await scene.platform.figure(name, metric) != value:
                await asyncio.sleep(0.05)


# -- row 15 --------------------------------------------------------------------------------------------------------


async def passwords_guessed(scene: Scene) -> None:
    """Guess a password a thousand times from one address and from a thousand networks; its owner gets in."""
    ports = itertools.cycle(_ports(scene))
    email = await _account(scene, "victim")
    device = _device(await _login(next(ports), HOME, email, PASSWORD))

    scene.mark()
    guesses = [_login(next(ports), ATTACKER, email, f"guess {n}") for n in range(TRIES)]
    _judge(scene, "one address", await together(guesses, at_once=_AT_ONCE), TRIES_OF_ADDRESS)
    scene.mark()
    guesses = [_login(next(ports), f"127.{100 + n // 250}.{n % 250}.9", email, f"guess {n}") for n in range(TRIES)]
    _judge(scene, "1,000 networks", await together(guesses, at_once=_AT_ONCE), TRIES_OF_ACCOUNT)

    for where, place, fields in (
        ("with her device, from elsewhere", ELSEWHERE, {"Cookie": device}),
        ("from the network of before", HOME, {}),
    ):
        answer = await _login(next(ports), place, email, PASSWORD, fields)
        if answer.status != 200:
            scene.breaches.append(f"the victim is locked out {where}: {answer.status} {answer.code}")
    scene.notes.append("the victim was let in, with her device from elsewhere and from her network")


def _judge(scene: Scene, whence: str, answers: list[Answer], most: int) -> None:
    statuses = Counter(one.status for one in answers)
    if statuses[401] > most:
        scene.breaches.append(f"{whence}: {statuses[401]} of {len(answers)} guesses were looked at, not {most}")
    _must_be(scene, whence, answers)
    scene.notes.append(f"{whence}: {statuses[401]} of {len(answers)} guesses were looked at")


def _must_be(scene: Scene, whence: str, answers: list[Answer]) -> None:
    wrong = Counter(one.status for one in answers if one.status not in {401, 429, 503, 504})
    helpless = sum(one.helpless for one in answers)
    if wrong or helpless:
        scene.breaches.append(f"{whence}: answered {dict(wrong)}, {helpless} without when to come back")


async def login_storm(scene: Scene) -> None:
    """Let a thousand people from as many networks log in at once: hashing keeps its measure, others are served."""
    ports = itertools.cycle(_ports(scene))
    email = await _account(scene, "regular")
    names = scene.platform.plan.names("meetings")
    before = {name: _memory_bytes(scene, name) for name in names}
    scene.mark()
    logins = [
        _login(next(ports), f"127.{110 + n // 250}.{n % 250}.9", f"nobody{n}@verbatim.example", "guess")
        for n in range(TRIES)
    ]
    storm = asyncio.create_task(together(logins, at_once=_STORM_AT_ONCE))
    grown = dict.fromkeys(names, 0)
    while not storm.done():
        await asyncio.wait([storm], timeout=_LOOK_EVERY_S)
        for name in names:
            grown[name] = max(grown[name], _memory_bytes(scene, name) - before[name])
    answers = await storm
    statuses = Counter(one.status for one in answers)
    _must_be(scene, "storm", answers)
    if max(grown.values()) > HASHING_BYTES_MAX:
        scene.breaches.append(f"the storm cost a meetings service {max(grown.values()) >> 20} MiB")
    after = await _login(next(ports), HOME, email, PASSWORD)
    if after.status != 200:
        scene.breaches.append(f"behind the storm nobody gets in: {after.status} {after.code}")
    put_off = sum(statuses[one] for one in (429, 503, 504))
    scene.notes.append(
        f"{statuses[401]} of {TRIES} were looked at, {put_off} put off; at most {max(grown.values()) >> 20} MiB more "
        f"in a meetings service"
    )


async def _account(scene: Scene, who: str) -> str:
    name = f"{who}-{secrets.token_hex(4)}"
    wish = {"email": f"{name}@verbatim.example", "username": name, "password": PASSWORD}
    answer = await ask(_ports(scene)[0], HOME, "POST", "/api/auth/register", body=wish)
    assert answer.status == 201, answer.body
    return wish["email"]


async def _login(port: int, source: str, email: str, password: str, fields: dict[str, str] | None = None) -> Answer:
    wish = {"email": email, "password": password}
    return await ask(port, source, "POST", "/api/auth/login", body=wish, fields=fields)


def _device(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return answer.fields["set-cookie"].partition(";")[0]


def _memory_bytes(scene: Scene, name: str) -> int:
    pid = scene.platform.stack.runner.pid(name)
    return int(psutil.Process(pid).memory_info().rss) if pid is not None else 0
