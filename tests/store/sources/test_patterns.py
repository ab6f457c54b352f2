"""Braces and globs mean what they mean in a shell."""

from __future__ import annotations

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.sources.patterns import GlobPattern, expand_braces


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("plain", ["plain"]),
        ("{a,b}.jpg", ["a.jpg", "b.jpg"]),
        ("x{,y}", ["x", "xy"]),
        ("{000..003}.tar", ["000.tar", "001.tar", "002.tar", "003.tar"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{a,b{1,2}}c", ["ac", "b1c", "b2c"]),
        ("{{1..2},x}", ["1", "2", "x"]),
        ("{a,a}", ["a", "a"]),
        ("{a}", ["{a}"]),
        ("{", ["{"]),
        ("{a,b", ["{a,b"]),
        ("{a}{b,c}", ["{a}b", "{a}c"]),
        ("{a{b,c}}", ["{ab}", "{ac}"]),
    ],
)
def test_braces_stand_for_their_words(pattern, words):
    assert expand_braces(pattern) == words


@pytest.mark.slow
def test_a_brace_that_would_fill_the_memory_is_refused():
    with pytest.raises(ConfigError, match="more than 200,000 names"):
        expand_braces("{0..99999999}.tar")


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.jpg", "a.jpg", True),
        ("*.jpg", "a.JPG", False),
        ("*.jpg", "d/a.jpg", False),
        ("*/a.jpg", "d/a.jpg", True),
        ("**/*.jpg", "a.jpg", True),
        ("**/*.jpg", "d/e/a.jpg", True),
        ("**", "d/e/a.jpg", True),
        ("d/**/e/*.jpg", "d/e/a.jpg", True),
        ("d/**/e/*.jpg", "d/x/y/e/a.jpg", True),
        ("d/**/e/*.jpg", "d/x/y/a.jpg", False),
        ("img_?[0-9].png", "img_x7.png", True),
        ("*", ".hidden", False),
        ("**/*", ".git/a.jpg", False),
        (".*/*", ".git/a.jpg", True),
        ("**/*", "a/../b/./c.jpg", True),
        ("*/*", "../a.jpg", True),
        ("**/*", "a/.../b.jpg", False),
    ],
)
def test_globs_fit_names(pattern, path, fits):
    assert GlobPattern.parse(pattern).matches(tuple(path.split("/"))) is fits


@pytest.mark.parametrize(
    ("pattern", "folder", "may"),
    [
        ("*.jpg", "d", False),
        ("*/a.jpg", "d", True),
        ("*/a.jpg", "d/e", False),
        ("x*/y/*", "z", False),
        ("x*/y/*", "x1/y", True),
        ("**/*.jpg", "any/depth/at/all", True),
        ("**/*.jpg", ".git", False),
    ],
)
def test_a_folder_is_visited_only_where_something_in_it_may_fit(pattern, folder, may):
    assert GlobPattern.parse(pattern).may_descend(tuple(folder.split("/"))) is may
