"""Braces and globs mean what they mean in a shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from pseudoris.images.prover import Prover
from pseudoris.schemas.config import SourceConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import storage_at
from pseudoris.store.sources import open_source
from pseudoris.store.sources.patterns import GlobPattern, expand_braces
from pseudoris.store.sources.proven_shard import read_shard
from tests.builders.images import png
from tests.builders.sources import parquet_bytes, plan_of, tar_bytes

WORDS = {
    **{"plain": ["plain"], "{a,b}.jpg": ["a.jpg", "b.jpg"], "x{,y}": ["x", "xy"], "{a,a}": ["a", "a"]},
    **{"{000..003}.tar": ["000.tar", "001.tar", "002.tar", "003.tar"], "{3..1}": ["3", "2", "1"]},
    **{"{08..11}": ["08", "09", "10", "11"], "{a,b}{1..2}": ["a1", "a2", "b1", "b2"], "{{1..2},x}": ["1", "2", "x"]},
    **{"{a,b{1,2}}c": ["ac", "b1c", "b2c"], "{a}{b,c}": ["{a}b", "{a}c"], "{a{b,c}}": ["{ab}", "{ac}"]},
    # Braces that stand for nothing are letters.
    **{"{a}": ["{a}"], "{": ["{"], "{a,b": ["{a,b"]},
}


@pytest.mark.parametrize(("pattern", "words"), WORDS.items())
def test_braces_stand_for_their_words(pattern, words):
    assert expand_braces(pattern) == words


@pytest.mark.slow
def test_a_brace_that_would_fill_the_memory_is_refused():
    with pytest.raises(ConfigError, match="more than 200,000 names"):
        expand_braces("{0..99999999}.tar")


# By pattern: paths that it fits, and paths that it does not.
GLOBS = {
    "*.jpg": (["a.jpg"], ["a.JPG", "d/a.jpg"]),
    "*/a.jpg": (["d/a.jpg"], []),
    "**/*.jpg": (["a.jpg", "d/e/a.jpg"], []),
    "**": (["d/e/a.jpg"], []),
    "d/**/e/*.jpg": (["d/e/a.jpg", "d/x/y/e/a.jpg"], ["d/x/y/a.jpg"]),
    "img_?[0-9].png": (["img_x7.png"], []),
    "*": ([], [".hidden"]),
    "**/*": (["a/../b/./c.jpg"], [".git/a.jpg", "a/.../b.jpg"]),
    ".*/*": ([".git/a.jpg"], []),
    "*/*": (["../a.jpg"], []),
}


@pytest.mark.parametrize(("pattern", "fitting", "others"), [(name, *paths) for name, paths in GLOBS.items()])
def test_globs_fit_names(pattern, fitting, others):
    glob = GlobPattern.parse(pattern)
    assert [path for path in (*fitting, *others) if glob.matches(tuple(path.split("/")))] == fitting


# Each with a name that it would match as a pattern, or would become if it were unquoted.
NAMES = {
    "photo[1]": "photo1",
    "{a,b}": "a",
    "x{0..3}": "x2",
    "a*": "abc",
    "a?": "ab",
    "a%20b": "a b",
    "a%2Fb": "a%2fb",
    "[!x]*{q}?": "aZ{q}b",
    "c::d": "c",
    "e#f": "e",
    "~root": "root",
}
RIGHT, WRONG = png(seed=1), png(seed=2)


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path) -> str:
    if request.param == "disk":
        return str(tmp_path)
    request.getfixturevalue("monkeypatch").setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_server").endpoint_url)
    return f"s3://{request.getfixturevalue('s3_bucket')}/set"


def write(place: str, files: dict[str, bytes]) -> None:
    storage = storage_at(place)
    for path, data in files.items():
        storage.put(path, data)


def images_of(source: str, prover: Prover) -> list[bytes | None]:
    config = load_config("tiny")
    return [
        image.data
        for image in read_shard(
            source, config, plan_of(open_source(source, config.source).list()), prover=prover
        ).images
    ]


@pytest.mark.parametrize(
    ("place", "name"),
    # The names are taken apart before a storage is asked: of a bucket, those that its client might take apart too.
    [*(("disk", name) for name in NAMES), *(("bucket", name) for name in ("[!x]*{q}?", "{a,b}", "a%2Fb", "c::d"))],
    indirect=["place"],
)
def test_what_exists_is_read_and_nothing_that_its_name_would_match(place, name, prover):
    decoy = NAMES[name]
    write(
        place,
        {
            **{f"{each}.png": data for each, data in ((name, RIGHT), (decoy, WRONG))},
            **{f"{each}.tar": tar_bytes([("i.png", data)]) for each, data in ((name, RIGHT), (decoy, WRONG))},
            **{f"{each}.parquet": parquet_bytes({"image": [data]}) for each, data in ((name, RIGHT), (decoy, WRONG))},
            **{f"folder/{each}/{each}.png": data for each, data in ((name, RIGHT), (decoy, WRONG))},
        },
    )
    for source in (f"{name}.png", f"{name}.tar", f"{name}.parquet", f"folder/{name}", f"folder/{name}/{name}.png"):
        assert images_of(f"{place}/{source}", prover) == [RIGHT], source
    if "://" not in place:
        assert images_of(f"file://{place}/{name}.png", prover) == [RIGHT]


def test_a_leading_folder_that_exists_is_literal_and_the_pattern_follows_it(place, prover):
    write(place, {"run[1]/a.png": RIGHT, "run[1]/b.txt": b"", "run1/a.png": WRONG})
    assert images_of(f"{place}/run[1]/*.png", prover) == [RIGHT]
    assert images_of(f"{place}/run[1]/{{a,z*}}.png", prover) == [RIGHT]


def test_a_word_of_braces_that_exists_is_literal(place):
    write(place, {"a[1].png": RIGHT, "a1.png": WRONG, "b1.png": WRONG})
    listed = open_source(f"{place}/{{a[1],b[1]}}.png", SourceConfig()).list()
    assert [item.key for item in listed] == ["a%5B1%5D.png", "b1.png"]


def test_a_tilde_is_the_home_folder_unless_such_a_name_exists(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert storage_at("~/x").uri() == f"{tmp_path}/home/x"
    assert storage_at("~nobody-of-this-name/x").uri() == f"{tmp_path}/~nobody-of-this-name/x"
    Path("~").mkdir()
    assert storage_at("~/x").uri() == f"{tmp_path}/~/x"
