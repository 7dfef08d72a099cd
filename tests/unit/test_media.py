"""What is taken for a photo or a sound."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.form.media import BadMedia, inspect
from tests import media


@pytest.mark.parametrize("media_type", media.GOOD)
def test_a_plain_picture_or_sound_is_taken(media_type: Any) -> None:
    inspect(media.GOOD[media_type], media_type)


@pytest.mark.parametrize("name", media.BAD)
def test_what_carries_more_or_is_something_else_is_refused(name: str) -> None:
    media_type, data, code = media.BAD[name]
    with pytest.raises(BadMedia) as refused:
        inspect(data, media_type)  # type: ignore[arg-type]
    assert refused.value.code == code


@given(st.sampled_from(list(media.GOOD.items())), st.data())
def test_no_damage_breaks_the_look(good: tuple[Any, bytes], data: st.DataObject) -> None:
    """Cut anywhere, or with any bytes changed, it is taken or refused, in no time; never an error of another kind."""
    media_type, whole = good
    changed = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(whole)), st.integers(0, 255)), max_size=5)):
        if at < len(changed):
            changed[at] = byte
    with contextlib.suppress(BadMedia):
        inspect(bytes(changed), media_type)
