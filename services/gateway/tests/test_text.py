"""What is left of the words that people send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from services.gateway.text import plain, plain_or_invalid

MARKUP = st.text(alphabet=st.sampled_from("<>&;/ablt#60x3script\"'= \n\x00\u202e\u00a0é"), max_size=60)


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("Planning", "Planning"),
        ("  two \t lines\r\nhere ", "two lines here"),
        ("a < b & c > d", "a < b & c > d"),
        ("I <3 you", "I <3 you"),
        ("AT&T", "AT&T"),
        ("R&eacute;sum\u00e9", "R\u00e9sum\u00e9"),
        ("<b>bold</b>", "bold"),
        ("<script>alert(1)</script>hi", "hi"),
        ("<img src=x onerror=alert(1)>hi", "hi"),
        ("&lt;script&gt;alert(1)&lt;/script&gt;hi", "hi"),
        ("&amp;amp;lt;b&amp;amp;gt;hi", "hi"),
        ("<<b>i>hi", "hi"),
        ("nul\x00 and \x1b[31mcolour", "nul and [31mcolour"),
        ("left\u202eright", "left right"),
        ("\U0001f469\u200d\U0001f680 café", "\U0001f469\u200d\U0001f680 café"),
    ],
)
def test_markup_and_control_characters_go_and_words_stay(sent: str, kept: str) -> None:
    assert plain(sent) == kept


@pytest.mark.req("R-VAL-1")
@given(MARKUP | st.text(max_size=60))
def test_what_is_plain_stays_as_it_is(sent: str) -> None:
    once = plain(sent)
    assert plain(once) == once
    assert len(once) <= len(sent)
    assert "<script" not in once


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize("sent", [" ", "<b></b>", "\x00", "&nbsp;", "<script>x</script>"])
def test_text_with_nothing_in_it_is_invalid(sent: str) -> None:
    with pytest.raises(PydanticCustomError):
        plain_or_invalid(sent)
