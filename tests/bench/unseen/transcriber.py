"""The transcriber without metrics and traces. `python -m tests.bench.unseen.transcriber`."""

from __future__ import annotations

from tests.bench.unseen import blind

blind()

from services.transcriber.__main__ import main  # noqa: E402 - blind first

if __name__ == "__main__":
    main()
