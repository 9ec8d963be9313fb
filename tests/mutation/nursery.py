"""Runs tests in children of a process that has loaded everything but the code under test: a tenth of the time.

`python -m tests.mutation.nursery SOCKET TESTS...` serves; each connection gets one run in a fork and its exit code as a
byte. `python -S nursery.py SOCKET` is the client, whose exit code is that of the run.
"""

import os
import resource
import signal
import socket
import sys

RUN_S = 600  # of the clock: a busy machine is no test that fails
RUN_CPU_S = 30  # of the processor: a change that loops forever is noticed so
# No plugins but those that are needed, no rewritten assertions: four fifths of a run were spent on those.
OPTIONS = ("-x", "-q", "--tb=no", "--assert=plain", "--noconftest", "-p", "no:cacheprovider",
           "-p", "pytest_asyncio.plugin", "-p", "pytest_timeout")  # fmt: skip


def serve(path: str, tests: list[str]) -> None:
    """Serve until killed, one run at a time."""
    # What takes long to load and is never mutated. The code under test must not be among it.
    import hypothesis.stateful  # noqa: PLC0415
    import prometheus_client  # noqa: F401, PLC0415
    import pytest  # noqa: PLC0415
    import pytest_asyncio.plugin  # noqa: F401, PLC0415
    import pytest_timeout  # type: ignore[import-untyped]  # noqa: F401, PLC0415
    import structlog  # noqa: F401, PLC0415
    import tenacity  # noqa: F401, PLC0415

    from chassis import telemetry  # noqa: F401, PLC0415

    # That it fails is enough: nobody wants to see the shortest way. The same examples for each change: the score is no
    # matter of luck.
    hypothesis.settings.register_profile(
        "mutation", phases=[hypothesis.Phase.generate], max_examples=20, derandomize=True, database=None
    )
    hypothesis.settings.load_profile("mutation")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        while True:
            caller, _ = listening.accept()
            child = os.fork()
            if child == 0:
                signal.alarm(RUN_S)
                resource.setrlimit(resource.RLIMIT_CPU, (RUN_CPU_S, RUN_CPU_S + 5))
                nothing = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(nothing, stream)
                code = pytest.main([*OPTIONS, *tests])
                os._exit(int(code))
            _, status = os.waitpid(child, 0)
            with caller:
                try:
                    caller.sendall(bytes([os.waitstatus_to_exitcode(status) & 0xFF]))
                except OSError:
                    continue  # it was not waited for


def ask(path: str) -> int:
    """Have the tests run and return their exit code."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        return (server.recv(1) or b"\xff")[0]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        serve(sys.argv[1], sys.argv[2:])
    else:
        sys.exit(ask(sys.argv[1]))
