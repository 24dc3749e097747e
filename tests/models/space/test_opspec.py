import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.errors import UsageError
from lgc.models import OpSpec

sizes = st.integers(1, 99_999)
specs = st.builds(
    OpSpec, st.from_regex(r"[a-z0-9_]+", fullmatch=True), sizes, sizes, sizes, sizes, stride=sizes, batch=sizes
)


@given(specs)
def test_string_form_round_trip(spec):
    assert OpSpec.parse(str(spec)) == spec


def test_string_form_matches_documentation():
    assert str(OpSpec("sep_conv_3x3", 16, 16, 90, 120)) == "sep_conv_3x3/c16-16/90x120/s1/b1"


KEY = "sep_conv_3x3/c16-16/90x120/s1/b1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sep_conv_3x3",
        KEY.removesuffix("/b1"),
        KEY + "/",
        KEY + "\n",
        " " + KEY,
        KEY.replace("c16", "16"),
        KEY.replace("90x120", "90X120"),
        KEY.replace("s1", "s0"),
        KEY.replace("c16", "c-16"),
        KEY.replace("c16", "c016"),
        KEY.replace("c16", "c\uff11\uff16"),
        KEY.replace("c16", "c" + "9" * 5000),
        KEY.replace("sep", "Sep"),
    ],
)
def test_invalid_key_error_shows_example(text):
    with pytest.raises(UsageError, match="; example: sep_conv_3x3/c16-16/90x120/s1/b1"):
        OpSpec.parse(text)


@given(st.integers(0, len(KEY) - 1), st.characters())
def test_changed_character_is_rejected_or_valid(place, character):
    text = KEY[:place] + character + KEY[place + 1 :]
    try:
        spec = OpSpec.parse(text)
    except UsageError:
        return
    assert str(spec) == text


def test_coarse_side_is_rounded_up():
    assert OpSpec("conv_3x3", 3, 8, 769, 1537, stride=2).coarse == (385, 769)
    assert OpSpec("conv_3x3", 3, 8, 769, 1537, stride=1).coarse == (769, 1537)
