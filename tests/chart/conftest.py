"""Without Helm there is nothing to test here: say so and pass over it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chart import rendering


@pytest.fixture(autouse=True)
def chart_can_be_rendered(request: pytest.FixtureRequest) -> Iterator[None]:
    """Skip what needs Helm where it is not on the PATH and cannot be built."""
    if "helmless" not in request.keywords and rendering.helm() is None:
        pytest.skip("Helm is not on the PATH, and there is no Go to build it with")
    yield
