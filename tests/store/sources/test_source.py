"""SOURCE in all its forms: what is listed, in which order, under which keys, and what braces and globs mean."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from pseudoris.files.location import storage_at
from pseudoris.images.prover import Prover
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import SourceConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.sources import open_source
from pseudoris.store.sources.patterns import GlobPattern, expand_braces
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.store.sources.source import absolute_source
from tests.builders.images import png
from tests.builders.sources import parquet_bytes, plan_of, tar_bytes, write_files

AUTO = SourceConfig()


def keys(source, config=AUTO, **options) -> list[str]:
    return [item.key for item in open_source(str(source), config, **options).list()]


def fill(folder, *names) -> None:
    write_files(folder, dict.fromkeys(names, b"x"))


def test_a_run_below_source_is_skipped_with_a_notice(tmp_path, caplog):
    fill(
        tmp_path, "a.jpg", "b/c.jpg", "b/out/gallery/d.webp", "b/out/_plan/g0001/part.parquet", "b/out/A.jpg", "e/f.jpg"
    )
    (tmp_path / "b/out/_run.json").write_bytes(b'{"version": 1, "plan_parts": [], "identity": {}}')
    # A file that is only named like a header.
    (tmp_path / "e/_run.json").write_bytes(b'{"version": 1}')
    assert keys(tmp_path) == ["a.jpg", "b/c.jpg", "e/f.jpg"]
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"{tmp_path}/b/out holds a run of pseudoris. It is skipped; its images are not listed."]
    assert keys(tmp_path / "b" / "out" / "gallery") == ["d.webp"]


@pytest.mark.parametrize("kind", ["disk", "s3", "fsspec"])
def test_tiles_below_source_are_skipped_with_a_notice_but_for_a_glob(kind, tmp_path, request, caplog):
    place = str(tmp_path) if kind == "disk" else f"memory://tiles-{uuid.uuid4().hex}/set"
    if kind == "s3":
        request.getfixturevalue("monkeypatch").setenv(
            "AWS_ENDPOINT_URL", request.getfixturevalue("s3_server").endpoint_url
        )
        place = f"s3://{request.getfixturevalue('s3_bucket')}/set"
    storage = storage_at(place)
    for path in ("a.jpg", "deep/b.jpg", "deep/tiles/.tiles.json", "tiles.json/c.jpg"):
        storage.put(path, b"x")
    storage.put("deep/tiles/.tiles/left_out.json", b"[]")
    storage.put("deep/tiles/tiles-000000-1.tar", tar_bytes([("d.png", png())]))
    assert keys(place) == ["a.jpg", "deep/b.jpg", "tiles.json/c.jpg"]
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.endswith(
        "/deep/tiles holds tiles, which are a SOURCE of their own. It is skipped; its images are not listed."
    )
    assert keys(f"{place}/deep/tiles") == ["tiles-000000-1.tar!d.png"]
    assert keys(f"{place}/*/tiles/*.tar") == ["deep/tiles/tiles-000000-1.tar!d.png"]


def test_hidden_names_are_not_listed_unless_spelled_out(tmp_path):
    fill(tmp_path, "a.jpg", ".b.jpg", ".git/c.jpg", "._a.jpg")
    assert keys(tmp_path) == ["a.jpg"]
    assert keys(tmp_path / ".b.jpg") == [".b.jpg"]
    assert keys(tmp_path / ".git") == ["c.jpg"]
    assert keys(tmp_path / ".*.jpg") == ["._a.jpg", ".b.jpg"]


def test_overlapping_selections_list_a_file_twice_and_next_to_itself(tmp_path):
    fill(tmp_path, "a1.jpg", "a2.jpg", "b2.jpg")
    assert keys(tmp_path / "{a*,*2,a1}.jpg") == ["a1.jpg", "a1.jpg", "a2.jpg", "a2.jpg", "b2.jpg"]


def test_a_link_to_a_file_is_an_image_one_to_nowhere_is_planned_and_a_pipe_is_none(tmp_path):
    fill(tmp_path, "real/a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "real" / "a.jpg")
    (tmp_path / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    items = {item.key: item for item in open_source(str(tmp_path), AUTO).list()}
    assert sorted(items) == ["link.jpg", "lost.jpg", "real/a.jpg", "self.jpg"]
    assert items["link.jpg"].size_bytes == 1
    assert items["lost.jpg"].size_bytes is None


def test_a_link_to_nowhere_that_may_be_a_folder_is_told(tmp_path, caplog):
    fill(tmp_path, "a.jpg", "notes.txt")
    (tmp_path / "more").symlink_to(tmp_path / "unmounted")
    assert keys(tmp_path) == ["a.jpg"]
    assert [record.getMessage() for record in caplog.records] == [
        f"Left out {tmp_path}/more: it cannot be looked at. If it is a link to a folder, repair it and run again."
    ]


@pytest.mark.parametrize("target", ["self.jpg", "x" * 300], ids=["itself", "300 letters"])
def test_a_source_that_is_a_link_to_nothing_is_the_users_to_mend(tmp_path, target):
    (tmp_path / "self.jpg").symlink_to(target)
    with pytest.raises(ConfigError, match=r"a link in the path leads to itself|the path is too long"):
        open_source(str(tmp_path / "self.jpg"), AUTO)


def test_out_below_source_is_not_listed(tmp_path):
    fill(tmp_path, "a.jpg", "runs/1/gallery/picture.jpg", "runs/2/b.jpg")
    write_files(tmp_path, {"runs/1/images/shard-0.parquet": b"ours"})
    assert keys(tmp_path, exclude=str(tmp_path / "runs" / "1")) == ["a.jpg", "runs/2/b.jpg"]


@pytest.mark.parametrize("inside", ["", "images", "images/deeper"])
def test_a_source_that_out_writes_into_is_refused(tmp_path, inside):
    fill(tmp_path, "images/deeper/a.jpg")
    with pytest.raises(ConfigError, match="is a folder that the output is written to: name another"):
        open_source(str(tmp_path / inside), AUTO, exclude=str(tmp_path))


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("imagse", "Did you mean {}/images?"),
        ("imagse/deeper/*.jpg", "Did you mean {}/images?"),
        ("images/deeper/b.jpg", "Did you mean {}/images/deeper/a.jpg?"),
        ("im", "To match all names that begin with it, write {}/im*."),
        *(
            (name, "The nearest folder that exists is {}.")
            for name in ("no-such-folder", "no-such.jpg", "no-such/*.jpg")
        ),
    ],
)
def test_a_missing_path_is_told_the_nearest_name_that_exists(tmp_path, missing, hint):
    fill(tmp_path, "images/deeper/a.jpg")
    with pytest.raises(ConfigError, match="does not exist") as found:
        open_source(f"{tmp_path}/{missing}", AUTO)
    wanted = hint.format(tmp_path).replace(f"{tmp_path}/im*", f"'{tmp_path}/im*'")
    assert str(found.value) == f"SOURCE '{tmp_path}/{missing}' does not exist.\n{wanted}"


@pytest.mark.parametrize("missing", ["image", "images-", "images-tiny"])
def test_a_missing_path_is_never_told_a_run(tmp_path, missing):
    write_files(tmp_path, {"images-tiny-2/_run.json": b"{}"})
    with pytest.raises(ConfigError, match=r"does not exist\.\nThe nearest folder that exists is"):
        open_source(f"{tmp_path}/{missing}", AUTO)


@pytest.mark.parametrize("missing", ["host/*.jpg", "host/x?sig=hunter2", "host/x*?sig=hunter2", "a.jpg/*.jpg"])
def test_a_pattern_in_no_folder_is_told_without_what_may_be_a_query(tmp_path_factory, missing):
    # `tmp_path` has special characters here.
    folder = tmp_path_factory.mktemp("plain")
    fill(folder, "a.jpg")
    with pytest.raises(ConfigError, match="does not exist") as found:
        open_source(f"{folder}/{missing}", AUTO)
    assert "hunter2" not in str(found.value)


def test_a_source_without_images_is_the_users_to_mend(tmp_path):
    fill(tmp_path, "notes.txt")
    with pytest.raises(ConfigError, match=r"lists no image\. Listed are files \.jpg"):
        keys(tmp_path)
    with pytest.raises(ConfigError, match="A glob must match files, not folders"):
        keys(tmp_path / "*.png")


def test_a_file_that_braces_name_must_exist(tmp_path):
    (tmp_path / "0.tar").write_bytes(tar_bytes([("a.png", png())]))
    with pytest.raises(ConfigError, match=r"names .*/1\.tar, which does not exist: check the path"):
        keys(tmp_path / "{0..1}.tar")


def test_tars_and_tables_in_a_folder_are_opened(tmp_path):
    fill(tmp_path, "a.jpg")
    # Of one name: a table of bytes is no table of the tar's labels.
    (tmp_path / "b.tar").write_bytes(tar_bytes([("m.png", png())]))
    (tmp_path / "b.parquet").write_bytes(parquet_bytes({"bytes": [png(), png()]}))
    assert keys(tmp_path) == ["a.jpg", "b.parquet#0", "b.parquet#1", "b.tar!m.png"]
    assert keys(tmp_path, SourceConfig(format="files")) == ["a.jpg"]
    assert keys(tmp_path, SourceConfig(format="webdataset")) == ["b.tar!m.png"]
    assert keys(tmp_path, SourceConfig(format="parquet")) == ["b.parquet#0", "b.parquet#1"]


def test_objects_are_listed_with_keys_that_a_folder_would_have(tmp_path):
    bucket = f"memory://source-{uuid.uuid4().hex}/set"
    names = ("a/x.jpg", "a/b/c.tiff", "a-b.jpg", "A.JPG", "é.png", ".hidden.jpg", "notes.txt")
    for place in (bucket, str(tmp_path)):
        write(place, dict.fromkeys(names, b"x"))
    assert keys(bucket) == keys(f"{bucket}/") == keys(tmp_path) == sorted(keys(tmp_path))
    assert set(keys(tmp_path)) == {"%C3%A9.png", "A.JPG", "a-b.jpg", "a/b/c.tiff", "a/x.jpg"}
    assert keys(f"{bucket}/a/*.jpg") == keys(f"{bucket}/a/x.jpg") == ["x.jpg"]


@pytest.mark.parametrize(
    ("source", "below"),
    [
        *((source, "photos") for source in ("photos", "./photos/", "file://photos")),
        *((source, source) for source in ("*.jpg", "photos/**/*.jpg", "tars/train-{000..123}.tar", "{a,../b}/*.jpg")),
    ],
)
def test_a_relative_source_starts_in_the_current_folder_and_its_pattern_stays(source, below, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absolute = absolute_source(source)
    assert absolute == f"{tmp_path}/{below}"
    assert absolute_source(absolute) == absolute


def test_what_is_left_out_is_counted_by_extension_with_the_remedies(tmp_path):
    fill(tmp_path, "a.jpg", "b.HEIC", "sub/c.heic", "d.jxl", "README", "e.json", ".hidden.heic", "f.9f8a7d6c5b4a3928")
    members = [("g.png", png()), ("g.heic", b"x"), ("g.json", b"{}"), ("h.dng", b"x")]
    (tmp_path / "t.tar").write_bytes(tar_bytes(members))
    source = open_source(str(tmp_path), AUTO)
    for _ in range(2):
        assert [item.key for item in source.list()] == ["a.jpg", "t.tar!g.png"]
        assert source.left_out.extensions == {".heic": 3, "": 2, ".jxl": 1, ".json": 1, ".dng": 1}
    counted, *remedies = source.left_out.notices()
    assert counted == "not listed: 3 .heic, 2 without an extension, 1 .jxl, 1 .json, 1 .dng"
    assert [text.partition(":")[0] for text in remedies] == [
        "to read HEIC files",
        ".dng, .jxl files cannot be read",
        "to list files of any name",
    ]
    assert "pip install 'pseudoris[heif]'" in remedies[0]


def test_files_with_a_million_extensions_are_counted_in_bounded_memory(tmp_path):
    fill(tmp_path, "a.jpg", *(f"b.{number}" for number in range(1_000)))
    source = open_source(str(tmp_path), AUTO)
    assert len(list(source.list())) == 1
    assert source.left_out.extensions.total() == 1_000
    assert len(source.left_out.extensions) < 300


def test_the_tables_that_img2dataset_writes_beside_its_tars_are_labels_and_each_image_is_planned_once(tmp_path):
    for shard in ("00000", "00001"):
        (tmp_path / f"{shard}.tar").write_bytes(tar_bytes([(f"{shard}0.jpg", png()), (f"{shard}0.json", b"{}")]))
        table = {"url": ["https://a.example/x.jpg", "https://a.example/y.jpg"], "status": ["success", "failed"]}
        (tmp_path / f"{shard}.parquet").write_bytes(parquet_bytes(table))
        (tmp_path / f"{shard}_stats.json").write_bytes(b"{}")
    tars = ["00000.tar!000000.jpg", "00001.tar!000010.jpg"]
    source = open_source(str(tmp_path), AUTO)
    assert [item.key for item in source.list()] == tars
    assert source.left_out.num_tables == 2
    assert "2 Parquet tables without bytes of images" in list(source.left_out.notices())[-1]
    # Another file between the two, in the order of names.
    fill(tmp_path, "00000.png")
    assert keys(tmp_path) == ["00000.png", *tars]
    # What SOURCE or the format names is read.
    rows = ["00000.parquet#0", "00000.parquet#1"]
    assert keys(tmp_path / "00000.parquet") == keys(tmp_path / "00000*.parquet") == rows
    assert keys(tmp_path, SourceConfig(format="parquet"))[:2] == rows


def test_a_link_back_to_a_folder_above_ends_nothing_and_lists_nothing(tmp_path):
    fill(tmp_path, "a/x.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b").symlink_to(tmp_path / "a", target_is_directory=True)
    assert keys(tmp_path) == ["a/x.jpg", "b/x.jpg"]


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
    **{"photo[1]": "photo1", "{a,b}": "a", "x{0..3}": "x2", "a*": "abc", "a?": "ab", "a%20b": "a b"},
    **{"a%2Fb": "a%2fb", "[!x]*{q}?": "aZ{q}b", "c::d": "c", "e#f": "e", "~root": "root"},
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
    entries = plan_of(open_source(source, config.source).list())
    return [image.data for image in read_shard(source, config, entries, prover=prover).images]


@pytest.mark.parametrize(
    ("place", "name"),
    # The names are taken apart before a storage is asked: of a bucket, those that its client might take apart too.
    [*(("disk", name) for name in NAMES), *(("bucket", name) for name in ("[!x]*{q}?", "{a,b}", "a%2Fb", "c::d"))],
    indirect=["place"],
)
def test_what_exists_is_read_and_nothing_that_its_name_would_match(place, name, prover):
    for each, data in ((name, RIGHT), (NAMES[name], WRONG)):
        write(place, {f"{each}.png": data, f"folder/{each}/{each}.png": data})
        write(place, {f"{each}.tar": tar_bytes([("i.png", data)]), f"{each}.parquet": parquet_bytes({"image": [data]})})
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
