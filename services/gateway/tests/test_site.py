"""The web page's files as the gateway serves them."""

from __future__ import annotations

import gzip
import re

import pytest

from services.gateway.site import Site
from services.gateway.tests.conftest import Gateway

pytestmark = [pytest.mark.req("R-UI-1", "R-SVC-1"), pytest.mark.asyncio(loop_scope="module")]

GZIP_MAX_BYTES = 60_000


async def test_what_the_page_names_is_there_and_may_be_kept_for_ever(gateway: Gateway) -> None:
    page = await gateway.client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    named = re.findall(r'(?:src|href)="(/assets/[^"]+)"', page.text)
    assert {path.rpartition(".")[2] for path in named} == {"js", "css", "svg"}
    for path in named:
        answer = await gateway.client.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    script = next(path for path in named if path.endswith(".js"))
    text = (await gateway.client.get(script)).text
    worklets = re.findall(r"/assets/worklet-[\w-]+\.js", text)
    assert worklets
    assert (await gateway.client.get(worklets[0])).headers["content-type"].startswith("text/javascript")


async def test_who_takes_it_gets_it_compressed(gateway: Gateway) -> None:
    page = await gateway.client.get("/", headers={"Accept-Encoding": "gzip"})
    assert page.headers["content-encoding"] == "gzip"
    plain = await gateway.client.get("/", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == page.text
    assert {page.headers["vary"], plain.headers["vary"]} == {"Accept-Encoding"}


@pytest.mark.parametrize("path", ["/assets/nothing.js", "/assets/..%2findex.html", "/assets/", "/index.html"])
async def test_what_is_not_part_of_the_page_is_not_there(gateway: Gateway, path: str) -> None:
    assert (await gateway.client.get(path)).status_code == 404


async def test_the_page_is_small() -> None:
    site = Site.read()
    files = [site.page, *site.assets.values()]
    assert sum(len(one.compressed) for one in files) < GZIP_MAX_BYTES
    assert all(gzip.decompress(one.compressed) == one.plain for one in files)
