"""What was measured, and the page that says so beside the limits and the targets."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.bench.load import Load, quantile_ms
from tests.bench.processes import Usage

PATH = ("gateway", "transcriber")


@dataclass(frozen=True)
class Figures:
    """One load on one thing. Memory is bytes; `audio_bytes` of it is audio that the platform must hold."""

    load: Load
    seconds: float
    used: dict[str, Usage]
    grown_bytes: dict[str, int]
    audio_bytes: float = 0.0
    relay_s: list[float] = field(default_factory=list)

    def cpu_s(self, *names: str) -> float:
        """CPU seconds per hour of audio."""
        return sum(self.used[name].cpu_s for name in names) / (self.load.sessions * self.seconds / 3600)

    @property
    def cores(self) -> float:
        """How many cores all that was measured kept busy."""
        return sum(usage.cpu_s for usage in self.used.values()) / self.seconds

    def per_core(self, *names: str) -> float:
        """Sessions that would keep one core busy, extrapolated from the CPU of these."""
        return 3600 / self.cpu_s(*names)

    def memory_mb(self, *names: str) -> float:
        """Megabytes per session beyond the audio."""
        grown = sum(self.grown_bytes[name] for name in names) - self.audio_bytes
        return grown / self.load.sessions / 1e6


@dataclass(frozen=True)
class Broker:
    """JetStream alone: milliseconds and messages per second, one by one, and messages per second `window` at a time."""

    p50_ms: float
    p99_ms: float
    serial: float
    windowed: float
    window: int


@dataclass(frozen=True)
class Round:
    """The platform and the bare socket under the same load."""

    platform: Figures
    bare: Figures


def line(one: Round) -> str:
    """Return a round in short."""
    ours, bare = one.platform, one.bare
    cpu = ", ".join(f"{name} {ours.cpu_s(name):.2f}" for name in ours.used)
    load, acks, segments, relayed = ours.load, ours.load.acks_s, ours.load.segments_s, ours.relay_s
    held_mb = ours.audio_bytes / load.sessions / 1e6
    return (
        f"{load.sessions:>4} sessions: ack p50 {quantile_ms(acks, 0.5):.0f} p99 {quantile_ms(acks, 0.99):.0f} ms · "
        f"segment p50 {quantile_ms(segments, 0.5):.1f} p95 {quantile_ms(segments, 0.95):.1f} ms · "
        f"relay p50 {quantile_ms(relayed, 0.5):.2f} p99 {quantile_ms(relayed, 0.99):.2f} ms · "
        f"CPU s per audio hour: {cpu}, bare socket {bare.cpu_s('limit'):.2f} · "
        f"memory {ours.memory_mb(*PATH):.3f} MB per session and {held_mb:.2f} of audio"
        f" · dropped {load.dropped}, generator late at most {1000 * load.late_s_max:.0f} ms"
    )


def page(rounds: list[Round], broker: Broker, machine: str) -> str:
    """Return the document."""
    targets = [_targets(one, broker) for one in rounds if one.platform.load.sessions > 1] or [
        _targets(rounds[-1], broker)
    ]
    parts = [_HEAD, *targets, _loads(rounds), _broker(broker), _HOW.format(machine=machine)]
    return "\n".join(parts)


_HEAD = """# Performance

`make bench` wrote this page. The whole live path runs as it ships: gateway, transcriber, meetings, NATS with every
append on disk, Postgres; only the speech API is replaced, by a server that answers at once. Beside it, in the same run,
runs a *bare socket*: an ASGI endpoint under the same uvicorn that acknowledges every frame and does nothing else.
"""


def _targets(last: Round, broker: Broker) -> str:
    ours, bare = last.platform, last.bare
    acks, bare_acks = ours.load.acks_s, bare.load.acks_s
    waits = f"socket {quantile_ms(bare_acks, 0.99):.1f}, JetStream {broker.p99_ms:.1f}; gathering is 200 on purpose"
    rows = [
        (
            "CPU seconds per audio hour, gateway + transcriber",
            ours.cpu_s(*PATH),
            6.0,
            3.0,
            f"{bare.cpu_s('limit'):.2f}",
        ),
        ("sessions per core, from that CPU", ours.per_core(*PATH), -600.0, -1000.0, f"{bare.per_core('limit'):.0f}"),
        ("durable `ack` p99, ms", quantile_ms(acks, 0.99), 350.0, 250.0, waits),
        (
            "end of speech to `segment` p95, ms, less the silence that ends it",
            *(quantile_ms(ours.load.segments_s, 0.95), 60.0, 25.0),
            f"JetStream {broker.p99_ms:.1f}",
        ),
        (
            "gateway to transcriber and back p50, ms",
            *(quantile_ms(ours.relay_s, 0.5), 2.0, 2.0),
            f"{quantile_ms(bare_acks, 0.5):.2f}",
        ),
        (
            "gateway to transcriber and back p99, ms",
            *(quantile_ms(ours.relay_s, 0.99), 5.0, 2 * quantile_ms(bare_acks, 0.99)),
            f"{quantile_ms(bare_acks, 0.99):.2f}",
        ),
        ("MB per session beyond the audio held", ours.memory_mb(*PATH), 0.2, 0.1, f"{bare.memory_mb('limit'):.3f}"),
    ]
    lines = [
        f"## At {ours.load.sessions} sessions",
        "",
        f"All processes together, load and speech API among them, kept {ours.cores:.1f} cores busy.",
        "",
        "| what | measured | limit, same run | target | moonshot | |",
        "|---|---|---|---|---|---|",
    ]
    for what, value, target, moonshot, limit in rows:
        lines.append(
            f"| {what} | **{_number(value)}** | {limit} | {_bound(target)} | {_bound(moonshot)} "
            f"| {_verdict(value, target, moonshot)} |"
        )
    return "\n".join([*lines, ""])


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _bound(bound: float) -> str:
    """Say what is allowed: at most, or for a negative bound at least."""
    return f">= {-bound:g}" if bound < 0 else f"<= {bound:.3g}"


def _verdict(value: float, target: float, moonshot: float) -> str:
    def holds(bound: float) -> bool:
        return value >= -bound if bound < 0 else value <= bound

    return "moonshot" if holds(moonshot) else "met" if holds(target) else "**missed**"


def _loads(rounds: list[Round]) -> str:
    names = list(rounds[0].platform.used)
    lines = [
        "## By load",
        "",
        f"| sessions | ack p50 / p99 ms | segment p50 / p95 ms | relay p50 / p99 ms | CPU s per audio hour: "
        f"{', '.join(names)} | bare socket: CPU s, ack p50 / p99 ms | MB per session, audio held | dropped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rounds:
        ours, bare = one.platform, one.bare
        lines.append(
            f"| {ours.load.sessions} | {_pair(ours.load.acks_s, 0.99)} | {_pair(ours.load.segments_s, 0.95)} "
            f"| {_pair(ours.relay_s, 0.99)} | {', '.join(f'{ours.cpu_s(name):.2f}' for name in names)} "
            f"| {bare.cpu_s('limit'):.2f}, {_pair(bare.load.acks_s, 0.99)} "
            f"| {ours.memory_mb(*PATH):.3f}, {ours.audio_bytes / ours.load.sessions / 1e6:.2f} | {ours.load.dropped} |"
        )
    return "\n".join(lines)


def _pair(values_s: list[float], high: float) -> str:
    return f"{_number(quantile_ms(values_s, 0.5))} / {_number(quantile_ms(values_s, high))}"


def _broker(broker: Broker) -> str:
    return (
        f"\nJetStream alone, messages of 6.4 kB, each on disk before it is acknowledged: one by one p50 "
        f"{broker.p50_ms:.2f} ms, p99 {broker.p99_ms:.2f} ms, {broker.serial:,.0f}/s; {broker.window} under way "
        f"{broker.windowed:,.0f}/s."
    )


_HOW = """
## How it is measured

- Every session plays the bundled meeting in real time, 3200 bytes each 100 ms, from a place of its own: a segment every
  3.7 s, which is more than most meetings have. Partial texts are off.
- CPU is that of whole processes, user and system, from `/proc`; `load` is the generator's, which shares the machine as
  the replaced speech API does. When they keep all cores busy, what is measured is how long things wait for one: those
  rows say where the machine ends, not what the platform needs.
- `ack`: from the sending of a frame to the acknowledgement that covers it. `segment`: from the sending of the frame
  that completes the half second of silence, by which an utterance is known to be over, to its segment; the speech
  API's answer is in it. `relay`: a frame that leaves a hole, to the error that says so.
- Memory is the growth of resident memory of gateway and transcriber since before the first session, less the audio
  that the transcriber holds (`session_buffer_bytes`).
- Sessions per core are extrapolated: 3600 divided by the CPU seconds per audio hour.
- {machine}
"""
