"""Lines for people hang under their own beginning, and a command in them can be copied."""

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.cli.screen.hanging import broken, hang
from pushtrain.plumbing.isolation.namespaces import profile

WORDS = st.lists(
    st.text("abcdefgh", min_size=1, max_size=12)
    | st.text("abc ", min_size=1, max_size=30).map("`{}`".format),
    min_size=1,
    max_size=30,
)


@given(WORDS, st.integers(40, 130), st.integers(1, 15))
def test_no_line_is_wider_than_the_terminal_and_no_command_is_broken(
    words: list[str], width: int, head: int
) -> None:
    lines = hang("·" * head + " ", " ".join(words), width=width)
    shown = "\n".join(lines)
    for word in words:
        assert word in shown or word[1:-1] in lines or f"  {word[1:-1]}" in lines
    assert all(len(line) <= width for line in lines)
    assert all(line.startswith(" " * min(2, head + 1)) for line in lines[1:])


def test_text_hangs_under_its_first_word() -> None:
    assert hang("· key    ", "none yet; it is made when it is needed first", width=40) == [
        "· key    none yet; it is made when it is",
        "         needed first",
    ]


def test_a_command_that_is_too_long_stands_alone_and_can_be_copied_whole() -> None:
    command = profile()
    lines = hang("      → ", f"Allow it: `{command}`.", width=80)
    assert lines == ["      → Allow it:", f"  {command}"]
    assert hang("      → ", f"`{command}`", width=80) == ["      →", f"  {command}"]


def test_what_is_no_terminal_gets_one_line() -> None:
    assert hang("· ", "word " * 100, width=None) == ["· " + "word " * 100]


@given(WORDS, st.integers(20, 130), st.sampled_from(["", "  ", "name   ", "two words  "]))
def test_a_line_is_broken_between_words_alone_and_nothing_of_it_is_lost(
    words: list[str], width: int, head: str
) -> None:
    line = head + " ".join(words)
    parts = broken(line, width)
    assert "".join(line[start:end] for _, start, end in parts).replace(" ", "") == line.replace(" ", "")
    for number, (indent, start, end) in enumerate(parts):
        part = line[start:end]
        assert part.count("`") % 2 == 0
        alone = part.removeprefix(head).strip() in words if number == 0 else part.strip() in words
        assert indent + len(part.rstrip()) <= width or alone
    assert len(broken(line, len(line))) == 1
