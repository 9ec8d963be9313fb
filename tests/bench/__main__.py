"""Measure the live path beside the raw limits of the same machine in the same minutes.

python -m tests.bench [--sessions 1,50,200,400] [--seconds 15] [--out docs/performance.md]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import uvloop

from tests.bench.figures import page
from tests.bench.run import machine, run


def main() -> None:
    """Print the figures, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--sessions", default="1,50,200,400")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--out", type=Path, help="where the page is written")
    chosen = parser.parse_args()
    counts = [int(count) for count in chosen.sessions.split(",")]
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user when we are root
        nats_server = os.environ.get("VERBATIM_NATS_SERVER") or None
        rounds, broker = uvloop.run(run(counts, chosen.seconds, Path(name) / "stack", nats_server))
    text = page(rounds, broker, machine())
    print(f"\n{text}")
    if chosen.out:
        chosen.out.write_text(text)


if __name__ == "__main__":
    main()
