"""GitHub Actions' filter patterns, by the cheat sheet's own table and by comparison with a plain regex."""

import contextlib
import itertools
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pushtrain.core.text.patterns import MAX_LENGTH, PatternError, compiled, literal, selects

# Workflow syntax for GitHub Actions, "Filter pattern cheat sheet": patterns, and what they match.
CHEAT_SHEET = [
    ("feature/*", ["feature/my-branch", "feature/your-branch"], ["feature/a/b", "feature", "my/feature/x"]),
    (
        "feature/**",
        ["feature/beta-a/my-branch", "feature/your-branch", "feature/mona/the/octocat"],
        ["feature"],
    ),
    ("main", ["main"], ["main2", "my-main", "Main"]),
    ("releases/mona-the-octocat", ["releases/mona-the-octocat"], ["releases/mona"]),
    ("*", ["main", "releases", "README.md", "server.rb"], ["path/with/slash"]),
    ("**", ["all/the/branches", "every/tag", "main", "all/the/files.md"], []),
    ("*feature", ["mona-feature", "feature", "ver-10-feature"], ["feature-x", "a/feature"]),
    ("v2*", ["v2", "v2.0", "v2.9"], ["v1", "v2/x"]),
    ("v[12].[0-9]+.[0-9]+", ["v1.10.1", "v2.0.0"], ["v3.0.0", "v1.x.1", "v1..1", "v1.10.1-rc"]),
    ("*.jsx?", ["page.js", "page.jsx"], ["page.jsxx", "src/page.js", "page.j"]),
    ("*.js", ["app.js", "index.js"], ["src/app.js", "appxjs"]),
    ("**.js", ["index.js", "js/index.js", "src/js/app.js"], ["index.jsx"]),
    ("docs/*", ["docs/README.md", "docs/file.txt"], ["docs/a/b", "docs"]),
    ("docs/**", ["docs/README.md", "docs/mona/octocat.txt"], ["a/docs/README.md"]),
    (
        "docs/**/*.md",
        ["docs/README.md", "docs/mona/hello-world.md", "docs/a/markdown/file.md"],
        ["docs/a.txt"],
    ),
    (
        "**/docs/**",
        ["docs/hello.md", "dir/docs/my-file.txt", "space/docs/plan/space.doc"],
        ["mydocs/hello.md", "docs"],
    ),
    ("**/README.md", ["README.md", "js/README.md"], ["js/OTHER.md", "xREADME.md"]),
    ("**/*src/**", ["a/src/app.js", "my-src/code/js/app.js"], ["a/source/app.js"]),
    ("**/*-post.md", ["my-post.md", "path/their-post.md"], ["post.md"]),
    (
        "**/migrate-*.sql",
        ["migrate-10909.sql", "db/migrate-v1.0.sql", "db/sept/migrate-v1.sql"],
        ["db/migrate.sql"],
    ),
    ("Octo*", ["Octocat"], ["octocat"]),
    ("[CB]at", ["Cat", "Bat"], ["Rat", "at"]),
    ("[1-2]00", ["100", "200"], ["300"]),
    ("[0-9a-z]", ["7", "q"], ["Q", "-", "77"]),
]


@pytest.mark.parametrize(("pattern", "names", "others"), CHEAT_SHEET, ids=lambda value: str(value)[:20])
def test_the_cheat_sheets_patterns_match_what_github_says(
    pattern: str, names: list[str], others: list[str]
) -> None:
    for name in names:
        assert selects([pattern], name), name
    for name in others:
        assert not selects([pattern], name), name


@pytest.mark.parametrize(
    ("patterns", "name", "selected"),
    [
        (["*.md", "!README.md"], "hello.md", True),
        (["*.md", "!README.md"], "README.md", False),
        (["*.md", "!README.md"], "docs/hello.md", False),
        (["*.md", "!README.md", "README*"], "hello.md", True),
        (["*.md", "!README.md", "README*"], "README.md", True),
        (["*.md", "!README.md", "README*"], "README.doc", True),
        (["!README.md", "*.md"], "README.md", True),
        (["releases/**", "!releases/**-alpha"], "releases/10", True),
        (["releases/**", "!releases/**-alpha"], "releases/beta/3-alpha", False),
        ([], "anything", False),
    ],
)
def test_patterns_are_taken_in_order_and_the_last_that_matches_decides(
    patterns: list[str], name: str, selected: bool
) -> None:
    assert selects(patterns, name) is selected


@pytest.mark.parametrize(
    ("pattern", "name", "selected"),
    [
        ("a!b", "a!b", True),
        (r"\!file", "!file", True),
        (r"feature\+x", "feature+x", True),
        (r"feature\+x", "featurex", False),
        (r"a\\b", r"a\b", True),
        ("a.b", "axb", False),
        ("colou?r", "color", True),
        ("go+gle", "gooogle", True),
        ("go+gle", "ggle", False),
        ("[0-9]?x", "x", True),
        (r"\*+", "***", True),
        ("a**/b", "a/b", True),
        ("a**/b", "ab", False),
        ("***", "a/b", True),
        ("[a-a]", "a", True),
        ("**", "", True),
    ],
)
def test_special_characters_outside_the_table(pattern: str, name: str, selected: bool) -> None:
    assert selects([pattern], name) is selected


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "empty"),
        ("!", "empty"),
        ("?x", "needs a character before it"),
        ("*+", "needs a character before it"),
        ("a++", "needs a character before it"),
        ("[abc", "never closed"),
        ("[]", "is not a set"),
        ("[z-a]", "is not a set"),
        ("[a-Z]", "is not a set"),
        ("[a-]", "is not a set"),
        ("[^a]", "is not a set"),
        ("[ä]", "is not a set"),
        ("trailing\\", "nothing follows"),
        ("x" * (MAX_LENGTH + 1), "at most"),
    ],
)
def test_a_malformed_pattern_says_what_to_write_instead(pattern: str, problem: str) -> None:
    with pytest.raises(PatternError, match=problem):
        compiled(pattern)


def test_a_hostile_pattern_takes_linear_time() -> None:
    # A backtracking matcher would need far more steps than the universe has seconds.
    assert not selects(["*a" * 200 + "b"], "a" * 4000)


NAMES = st.text(alphabet="ab/.-", max_size=12)


@given(NAMES.filter(bool))
def test_a_literal_pattern_matches_exactly_its_name(name: str) -> None:
    assert selects([literal(name)], name)
    assert not selects([literal(name)], name + "x")
    assert not selects([literal(name)], "x" + name)


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_a_quoted_name_matches_only_itself(name: str, other: str) -> None:
    assert selects([literal(name)], other) is (name == other)


PIECES = st.sampled_from(["a", "b", "/", ".", "-", "*", "**", "[ab]", "a?", "b+", r"\."])
REGEX = {"*": "[^/]*", "**": ".*", "[ab]": "[ab]", "a?": "a?", "b+": "b+", r"\.": r"\.", ".": r"\."}


@given(st.lists(PIECES, min_size=1, max_size=8), NAMES)
def test_matching_agrees_with_a_plain_regular_expression(pieces: list[str], name: str) -> None:
    together = list(itertools.pairwise(pieces))
    assume(not any(one[0] == "*" and other[0] == "*" for one, other in together))  # `*` `*` would be `**`
    assume(("**", "/") not in together)  # stands for folders, see below
    pattern = "".join(pieces)
    expected = re.fullmatch("".join(REGEX.get(piece, piece) for piece in pieces), name, re.DOTALL)
    assert selects([pattern], name) is (expected is not None)


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4))
def test_folders_wildcard_stands_for_any_number_of_folders(parts: list[str]) -> None:
    assert selects(["**/c"], "/".join([*parts, "c"]))
    assert selects(["**/c"], "c")


@given(st.lists(st.text(max_size=6), max_size=4), st.text(max_size=6))
def test_any_text_either_is_a_pattern_or_raises_pattern_error(patterns: list[str], name: str) -> None:
    with contextlib.suppress(PatternError):
        selects(patterns, name)
