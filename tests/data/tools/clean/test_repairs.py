"""What is mended in a text, and what is left alone."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseq_plugin.data.tools.clean.repairs import DEBRIS, UNSEEN, repaired
from tests.data.trained import real_texts

B = "\\"
MENDED = {
    "a new line escaped three times": (f"one{B * 4}nTwo", "one\nTwo", ["backslashes"]),
    "a carriage return and a new line": (f"one{B * 8}r{B * 8}nTwo", "one\n\nTwo", ["backslashes"]),
    "a tab": (f"one{B * 5}t2", "one\t2", ["backslashes"]),
    "quotes": (f'say {B * 7}"yes{B * 7}"', 'say "yes"', ["backslashes"]),
    "a slash": (f"and{B * 4}/or", "and/or", ["backslashes"]),
    "a code": (f"caf{B * 4}u00e9", "café", ["backslashes"]),
    "half of a pair": (f"x{B * 4}ud83d", f"x{B}ud83d", ["backslashes"]),
    "a code of ASCII": (f"x{B * 4}u005c", f"x{B}u005c", ["backslashes"]),
    "perhaps a command": (f"{B * 4}noindent", f"{B}noindent", ["backslashes"]),
    "a run alone": (f"a {B * 64} b", f"a {B} b", ["backslashes"]),
    "line ends": ("a\r\nb\rc\x85d\u2028e\ff", "a\nb\nc\nd\ne\nf", ["white space"]),
    "control characters": ("a\x00b\x1b[0m\x7f\ufeffc\u200bd", "ab[0mcd", ["characters"]),
    "blanks": ("a\u00a0b\u2003c\u202fd", "a b c d", ["white space"]),
    "ends of lines": ("a  \nb\t\n", "a\nb", ["white space"]),
    "empty lines": ("\n\na\n\n \n\n\nb\n", "a\n\nb", ["white space"]),
    "a gap": ("a" + " " * 65 + "b" + "\t" * 70 + "c", "a b c", ["white space"]),
    "all of them": (f"a\x00 \r\n{B * 4}nB", "a\n\nB", ["characters", "backslashes", "white space"]),
}
LEFT_ALONE = [
    f"print({B}'a{B}n{B}')",
    f"C:{B * 2}folder and {B * 2}server",
    f"a & b {B * 3}hline",
    "def f():\n        return 1\n\n\tx",
    "a" + " " * 64 + "b",
    "क्‍ष and می‌خواهم and 👩‍👩‍👧",  # joiners
    "日本語\u3000日本語",
]


@pytest.mark.parametrize("name", MENDED)
def test_debris_is_mended(name: str) -> None:
    text, mended, kinds = MENDED[name]
    assert repaired(text) == (mended, tuple(kinds))


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_may_be_meant_is_left_alone(text: str) -> None:
    assert repaired(text) == (text, ())


@pytest.mark.parametrize(
    "piece", [" ", "\t", "\n", "\r\n", "\n ", "\n\u3000", B, B * 4 + "u", "\u200b"]
)
def test_time_grows_with_length_only(piece: str) -> None:
    """Seconds for half a million pieces between two words would be minutes if it grew with the square."""
    started = time.process_time()
    repaired("\n" + piece * 500_000 + "x")
    assert time.process_time() - started < 10


def test_sources_keep_their_lines() -> None:
    for text in real_texts():
        mended = repaired(text).text
        assert [line.rstrip() for line in text.split("\n") if line.strip()] == [
            line for line in mended.split("\n") if line
        ]


@settings(max_examples=400, derandomize=True, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=5),
            st.sampled_from([B, B * 4, "n", "t", "u", "00e9", "200b", "\n", "\r", " ", "\t", '"', "\u00a0", "\u200b"]),
        ),
        max_size=25,
    ).map("".join)
)  # fmt: skip
def test_a_mended_text_is_not_changed_again(text: str) -> None:
    mended = repaired(text).text
    assert repaired(mended) == (mended, ())
    assert not DEBRIS.search(mended)
    assert not UNSEEN.search(mended)
    assert "\n\n\n" not in mended
    assert mended == mended.strip("\n")
    assert all(line == line.rstrip(" \t\u00a0") for line in mended.split("\n"))
