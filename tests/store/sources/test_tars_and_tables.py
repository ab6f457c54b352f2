"""Tars and Parquet tables of images: what is an image in them, where its bytes stand, and what is refused."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.schemas.config import SourceConfig
from pseudoris.store.sources import open_source
from pseudoris.store.sources.containers import ImageColumn, RowImage, find_column, read_rows
from tests.builders.memory import traced_peak
from tests.builders.sources import parquet_bytes, tar_bytes

AUTO = SourceConfig()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tar"


def listed(path, content: bytes | None = None, config: SourceConfig = AUTO):
    """Return what a source lists, with `content` written to it before."""
    if content is not None:
        path.write_bytes(content)
    return list(open_source(str(path), config).list())


def test_members_come_in_the_order_of_the_tar_with_the_place_of_their_bytes(path):
    items = listed(path, tar_bytes([("z.jpg", b"first"), ("z.json", b"{}"), ("d/a.PNG", b"second")]))
    assert [item.key for item in items] == ["a.tar!z.jpg", "a.tar!d/a.PNG"]
    raw = path.read_bytes()
    assert [raw[item.offset_bytes :][: item.size_bytes] for item in items] == [b"first", b"second"]
    assert {item.boundary for item in items} == {"a.tar"}
    assert {item.mtime_ns for item in items} == {path.stat().st_mtime_ns}


def test_a_member_whose_name_would_escape_is_only_a_key(path):
    items = listed(path, tar_bytes([("../../up.jpg", b"x"), ("/etc/abs.jpg", b"x")]))
    assert [item.key for item in items] == ["a.tar!../../up.jpg", "a.tar!/etc/abs.jpg"]


def test_a_member_name_that_is_not_utf8_is_kept_by_its_bytes(path):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(os.fsdecode(b"caf\xe9.jpg")), io.BytesIO())
    assert [item.key for item in listed(path)] == ["a.tar!caf%E9.jpg"]


def test_links_folders_and_hidden_members_are_no_images(path):
    with tarfile.open(path, "w") as tar:
        for name, kind in [("soft.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE), ("dir.jpg", tarfile.DIRTYPE)]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("d/._x.jpg"), io.BytesIO())
        tar.addfile(tarfile.TarInfo("x.jpg"), io.BytesIO())
    assert [item.key for item in listed(path)] == ["a.tar!x.jpg"]


WHOLE = tar_bytes([("a.jpg", b"x" * 1024), ("b.jpg", b"y" * 1024)])


@pytest.mark.parametrize(
    "damaged",
    [WHOLE[:700], WHOLE[: 512 + 1024 + 200], gzip.compress(WHOLE), b"x" * 1024],
    ids=["in a member", "in a header", "compressed", "no tar"],
)
def test_a_damaged_tar_loses_nothing_in_silence(path, damaged):
    said = r"a\.tar cannot be listed as a tar .*: it must be complete and not compressed"
    with pytest.raises(ConfigError, match=said):
        listed(path, damaged)


def header(name: str, size: bytes = b"%011o\0" % 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a tar header whose size field says anything."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def binary_size(size: int) -> bytes:
    """Return a size field as GNU writes it where octal digits do not suffice."""
    return b"\x80" + size.to_bytes(11) if size >= 0 else (256**12 + size).to_bytes(12)


def tar_settings(kind: bytes, settings: dict[str, str]) -> bytes:
    """Return an extended header: settings for the next member, or for all that follow."""
    return tarfile.TarInfo._create_pax_generic_header(settings, kind, "utf-8")


END = b"\0" * 1024
IMAGE = header("a.jpg", b"%011o\0" % 512) + b"x" * 512
HOSTILE = {
    "a member that ends before it begins": IMAGE + header("b.jpg", binary_size(-2048)),
    "a member of exabytes": header("b.jpg", binary_size(2**62)),
    "a member of more bytes than a number holds": header("b.jpg", binary_size(2**87)),
    "a long name of gigabytes": header("././@LongLink", binary_size(2**33), tarfile.GNUTYPE_LONGNAME) + IMAGE,
    "settings of exabytes": header("pax", binary_size(2**62), tarfile.XHDTYPE) + IMAGE,
    "settings of more bytes than memory has addresses": header("pax", binary_size(2**80), tarfile.XHDTYPE) + IMAGE,
    "settings upon settings": tar_settings(tarfile.XHDTYPE, {"comment": "x"}) * 2000 + IMAGE,
    "a size laid over the member's": tar_settings(tarfile.XHDTYPE, {"size": "4000000000"}) + IMAGE,
    "a negative size laid over the member's": tar_settings(tarfile.XHDTYPE, {"size": "-1024"}) + IMAGE,
    "the size of a sparse file that is none": tar_settings(tarfile.XHDTYPE, {"GNU.sparse.realsize": "9" * 30}) + IMAGE,
    "a sparse map without an end": tar_settings(tarfile.XHDTYPE, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    + header("a.jpg", b"%011o\0" % 512)
    + b"9999999999\n".ljust(512, b"1"),
    "a sparse map that is no numbers": tar_settings(tarfile.XHDTYPE, {"GNU.sparse.map": "a,b"}) + IMAGE,
    "settings for all by the thousand": b"".join(
        tar_settings(tarfile.XGLTYPE, {f"k{first + n}": "v" for n in range(400)}) + IMAGE for first in (0, 400, 800)
    ),
    "bytes behind its end that are no tar": IMAGE + b"\0" * 1024 + b"x" * 700 + b"\0" * 324,
    "a damaged header in the midst": IMAGE + header("b.jpg").replace(b"b.jpg", b"c.jpg") + IMAGE,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_tar_that_misleads_is_refused_at_little_cost(path, content):
    with traced_peak() as peak_bytes:
        with pytest.raises(ConfigError, match=r"a\.tar cannot be listed as a tar .* remove it from SOURCE"):
            listed(path, content + END)
        assert peak_bytes() < 32 * 2**20


@pytest.mark.parametrize("padding", [0, 512, 10_240, 3 * 2**20], ids="{:,} bytes of zeros between".format)
def test_tars_behind_one_another_are_listed_to_the_last(path, padding):
    parts = [[("a.jpg", b"1"), ("b.jpg", b"22")], [], [("c.jpg", b"333"), ("d.jpg", b"4444")]]
    raw = (b"\0" * padding).join(map(tar_bytes, parts))
    items = listed(path, raw)
    assert [item.key for item in items] == ["a.tar!a.jpg", "a.tar!b.jpg", "a.tar!c.jpg", "a.tar!d.jpg"]
    assert [raw[item.offset_bytes :][: item.size_bytes] for item in items] == [b"1", b"22", b"333", b"4444"]


def test_long_names_and_attributes_of_a_usual_size_are_read(path):
    settings = tar_settings(tarfile.XHDTYPE, {"SCHILY.xattr.user.note": "x" * 60_000, "path": f"{'d/' * 500}a.jpg"})
    (item,) = listed(path, tar_settings(tarfile.XGLTYPE, {"comment": "y"}) + settings + IMAGE + END)
    assert (item.key, item.size_bytes) == (f"a.tar!{'d/' * 500}a.jpg", 512)


def rows_of(data, row_group, rows, config=AUTO, max_bytes=2**20):
    found = read_rows(io.BytesIO(data), row_group, rows=rows, config=config, max_bytes=max_bytes, table="t.parquet")
    return dict(found)


def test_rows_are_listed_by_number_and_bounded_by_their_row_group(tmp_path):
    data = parquet_bytes({"bytes": [bytes([n]) for n in range(12)]}, row_group_size=5)
    items = listed(tmp_path / "t.parquet", data)
    assert [item.key for item in items] == [f"t.parquet#{n}" for n in range(12)]
    assert [item.row_group for item in items] == [0] * 5 + [1] * 5 + [2] * 2
    assert [item.boundary for item in items][4:6] == ["t.parquet#0", "t.parquet#1"]
    assert items[0].size_bytes is None


@pytest.mark.parametrize("index", [pa.int8(), pa.int32()], ids=str)
@pytest.mark.parametrize(
    ("kind", "column", "field"), [(pa.string(), "url", "uri"), (pa.binary(), "bytes", "data")], ids=["text", "bytes"]
)
def test_a_column_of_categories_is_one_of_their_values(index, kind, column, field):
    values = ["a.jpg", None, "a.jpg", "b.jpg"] if column == "url" else [b"a", None, b"a", b"b"]
    categories = pa.array(values, kind).cast(pa.dictionary(index, kind))
    data = parquet_bytes({column: categories})
    assert pa.types.is_dictionary(pq.read_schema(io.BytesIO(data)).field(0).type)
    assert [getattr(image, field) for image in rows_of(data, 0, range(4)).values()] == values


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        ({"path": pa.string(), "bytes": pa.binary()}, ImageColumn("bytes", "bytes")),
        ({"image": pa.large_binary(), "bytes": pa.int64()}, ImageColumn("image", "bytes")),
        (dict.fromkeys(("image", "url", "path"), pa.string()), ImageColumn("url", "uri")),
    ],
)
def test_the_first_fitting_column_counts_bytes_before_uris(fields, column):
    assert find_column(pa.schema(fields.items()), AUTO, "t.parquet") == column


def test_a_table_without_a_column_of_images_says_what_it_has(tmp_path):
    path, data = tmp_path / "t.parquet", parquet_bytes({"picture": [b"x"]})
    with pytest.raises(ConfigError, match=r"found picture: binary\. Name your column with --set source\.bytes_columns"):
        listed(path, data)
    assert len(listed(path, config=SourceConfig(bytes_columns=("picture",)))) == 1


def test_a_damaged_row_group_is_no_error_of_storage():
    data = bytearray(parquet_bytes({"bytes": [b"abc" * 50] * 200}))
    data[4:60] = b"\xff" * 56
    with pytest.raises(ImageError, match="row group of the Parquet file cannot be decoded") as caught:
        rows_of(bytes(data), 0, [3])
    assert caught.value.reason == "corrupt"


def test_an_error_of_the_disk_passes_as_what_it_is():
    class FailingDisk(io.BytesIO):
        def read(self, *args):
            raise OSError(5, "Input/output error")

    disk = FailingDisk(parquet_bytes({"bytes": [b"x"]}))
    with pytest.raises(OSError, match="Input/output error"):
        list(read_rows(disk, 0, rows=[0], config=AUTO, max_bytes=1, table="t"))


def texts(*rows):
    """Return a text column that holds these bytes, UTF-8 or not."""
    return pa.Array.from_buffers(pa.string(), len(rows), pa.array(rows, pa.binary()).buffers())


def test_a_row_that_is_not_utf8_costs_no_other_row():
    data = parquet_bytes({"url": texts(b"a.jpg", b"caf\xe9.jpg", b"b.jpg")})
    assert [image.uri for image in rows_of(data, 0, [0, 1, 2]).values()] == ["a.jpg", "caf\udce9.jpg", "b.jpg"]


@pytest.mark.slow
def test_a_dictionary_bomb_costs_one_row_at_a_time():
    size_bytes = 2**24
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 256, pa.int32()), pa.array([b"\0" * size_bytes]))
    data = parquet_bytes({"bytes": column}, compression="zstd", store_schema=False)
    assert len(data) < 4_000
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    peak = 0
    for _, image in read_rows(io.BytesIO(data), 0, rows=range(256), config=AUTO, max_bytes=size_bytes, table="t"):
        assert len(image.data) == size_bytes
        peak = max(peak, pool.bytes_allocated() - before)
    assert peak < 8 * size_bytes


BOMB = b"\0" * (80 * 2**20)


# Reads a sound table, which loads what is loaded once, then the bomb; tells the reason and how much was added.
READ_AND_TELL = """
import io, resource, sys
from pseudoris.schemas.config import SourceConfig
from pseudoris.primitives.errors import ImageError
from pseudoris.store.sources.containers import read_rows

def read(data):
    return list(read_rows(io.BytesIO(data), 0, rows=[0], config=SourceConfig(), max_bytes=2**20, table="t"))

bomb = sys.stdin.buffer.read()
read(bytes.fromhex(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(bomb)
except ImageError as error:
    print(error.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "column",
    [
        [BOMB],
        [b"x"] * 500 + [BOMB] + [b"y"] * 500,
        [{"bytes": BOMB, "path": "a.png"}],
        [{"bytes": b"x", "path": BOMB.decode()}],
    ],
    ids=["alone", "among small ones", "in a struct", "a path"],
)
def test_a_page_that_unpacks_to_a_bomb_is_never_unpacked(column):
    data = parquet_bytes({"image": column}, compression="zstd", use_dictionary=False)
    assert len(data) < 40_000
    small = parquet_bytes({"image": [b"x"]}).hex()
    done = subprocess.run([sys.executable, "-c", READ_AND_TELL, small], input=data, capture_output=True, check=True)
    reason, grown_kib = done.stdout.split()
    assert reason == b"too_many_bytes"
    assert int(grown_kib) * 1024 < len(BOMB) // 8


def zigzag(number: int) -> bytes:
    """Return a number below 8,192 as two bytes of a Thrift footer."""
    coded = number << 1 if number >= 0 else (-number << 1) - 1
    return bytes([coded & 127 | 128, coded >> 7])


@pytest.mark.parametrize(
    ("claimed", "count"), [(8_191, -1), (-200, -1), (199, 1)], ids=["more than bytes", "negative", "not the sum"]
)
def test_a_footer_that_claims_rows_which_cannot_be_there_is_refused(tmp_path, claimed, count):
    data = parquet_bytes({"bytes": [b"x"] * 200})
    length = int.from_bytes(data[-8:-4], "little") + 8
    footer = data[-length:]
    assert footer.count(zigzag(200)) >= 2
    (tmp_path / "t.parquet").write_bytes(data[:-length] + footer.replace(zigzag(200), zigzag(claimed), count))
    said = r"t\.parquet cannot be read as Parquet: its footer claims .* remove it from SOURCE"
    with pytest.raises(ConfigError, match=said):
        listed(tmp_path)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"t\.parquet cannot be read as Parquet .* repair it, or remove it from SOURCE"
    ):
        listed(tmp_path / "t.parquet", b"PAR1, and no footer")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_an_image_that_is_too_large_costs_no_other_image(kind):
    data = parquet_bytes({"bytes": pa.array([b"x" * 10, b"y" * 11, b"z"], kind)})
    found = rows_of(data, 0, [0, 1, 2], max_bytes=10)
    assert (found[0], found[2]) == (RowImage(b"x" * 10, None), RowImage(b"z", None))
    assert isinstance(found[1], ImageError)
    assert (found[1].reason, str(found[1])[:41]) == ("too_many_bytes", "11 bytes; images.max_bytes allows 10: rai")


def test_rows_are_listed_with_the_mean_size_of_their_group_and_uris_with_none(tmp_path):
    images = [random.randbytes(100_000), random.randbytes(300_000)]
    (tmp_path / "t.parquet").write_bytes(parquet_bytes({"bytes": images}, row_group_size=2))
    (tmp_path / "u.parquet").write_bytes(parquet_bytes({"url": ["a.jpg"]}))
    first, second, uri = (item.expected_bytes for item in listed(tmp_path))
    assert 200_000 <= first == second < 210_000
    assert uri == 0
