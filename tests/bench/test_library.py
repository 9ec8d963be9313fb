"""A small library: that search and analytics are asked as people ask them, and give what is there."""

from __future__ import annotations

import pytest

from chassis.tests.servers import PostgresServer, postgres_server
from tests.bench.library import PER_MEETING, analytics, library_of, lists, page, searches

__all__ = ["postgres_server"]

MEETINGS = 8


@pytest.mark.req("R-API-1")
@pytest.mark.req("R-API-4")
async def test_a_small_library_is_searched_and_added_up(postgres_server: PostgresServer) -> None:
    async with library_of(postgres_server, MEETINGS * PER_MEETING) as (library, door):
        found = {asked.what: asked for asked in await searches(library, door, 2)}
        listed = await lists(library, door, 2)
        figures = await analytics(library, door, 2)
        assert [asked.found for asked in listed] == [MEETINGS // 2, MEETINGS // 2, 1]
        assert found["a common word (every meeting has it)"].found == MEETINGS // 2
        assert found["a common word, account with 1 % of all"].found == 1
        assert figures[0].found == MEETINGS // 2
        assert f"{MEETINGS * PER_MEETING:,} segments" in page(library, list(found.values()), listed, figures)
