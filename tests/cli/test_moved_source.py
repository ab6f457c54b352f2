"""A run whose SOURCE was renamed: it goes on, grows and is tried again at the new place, once that has its images."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pseudoris
from pseudoris.files.location import RunLocation
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.pending_work import Planned
from pseudoris.store.runs.plan import moved_parts
from pseudoris.store.runs.receipts import latest_receipts
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.command import pseudoris_here
from tests.builders.images import png
from tests.builders.plain_runs import work_off
from tests.builders.runs import SMALL, STUBS, part_digests, stub_config
from tests.builders.sources import tar_bytes, write_files

pytestmark = pytest.mark.usefixtures("stub_engines")
SETTINGS = tuple(word for assignment in (*STUBS, *SMALL) for word in ("--set", assignment))
ROOT = Path(__file__).parents[2]
IMAGES = {f"{'abc'[n % 3]}/{n}.png": png(6 + n % 5, 9, seed=n) for n in range(9)}


def annotated(source: object, out: Path, *words: str, code: int = 0) -> str:
    ended = pseudoris_here("annotate", "--preset=tiny", str(source), str(out), *SETTINGS, *words, code=code)
    return ended.stdout + ended.stderr


def undo(out: Path, *shards: int) -> None:
    """Take the commits of some shards back."""
    for shard in shards:
        (out / f"_receipts/shard-{shard:08d}.g0.json").unlink()
    shutil.rmtree(out / "_manifest")


def places(out: Path) -> list[str | None]:
    return [receipt.source for receipt in latest_receipts(RunLocation.open(str(out)))]


def files(out: Path) -> dict[str, bytes]:
    """Return what stands in OUT, without the claims of its lock."""
    return {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file() and path.parent.name != "_lock"}


def copied(source: Path, place: Path) -> Path:
    """Return a copy of SOURCE without its times, in place of it."""
    for path in filter(Path.is_file, source.rglob("*")):
        write_files(place, {str(path.relative_to(source)): path.read_bytes()})
    shutil.rmtree(source)
    return place


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["folder", pytest.param("tar", marks=pytest.mark.long)])
def test_a_run_goes_on_where_its_images_are_now(ray_session, tmp_path, kind):
    old, out = tmp_path / "old", tmp_path / "out"
    write_files(old, IMAGES if kind == "folder" else {"some.tar": tar_bytes(IMAGES.items())})
    work_off(old, out, stub_config())
    whole, root = part_digests(out), verify_run(RunLocation.open(str(out))).root
    undo(out, 0, 2)
    new, header = copied(old, tmp_path / "new place"), (out / "_run.json").read_bytes()

    assert f"if its images have moved, add --moved-from {old}" in annotated(new, out, code=2)
    told = f"If its images have moved, give their new place as SOURCE, and add --moved-from {old}"
    assert told in annotated(old, out, code=2)
    for words in ((), ("--repair",)):
        said = annotated(new, out, "--moved-from", str(old), *words)
        (command,) = re.findall(r"pseudoris (annotate .* --extend)$", said, re.MULTILINE)
        assert shlex.split(command)[:3] == ["annotate", str(new), str(out)]
        assert "--moved-from" in command
        # It can be typed as it stands.
        assert "SOURCE has no new images" in pseudoris_here(*shlex.split(command), code=0).stdout
    assert f"pseudoris gallery {out} --source '{new}'" in said
    assert part_digests(out) == whole
    assert (out / "_run.json").read_bytes() == header
    assert places(out) == [str(new), None, str(new)]
    assert not moved_parts(RunLocation.open(str(out)))
    assert verify_run(RunLocation.open(str(out))).root == root


@pytest.mark.ray
def test_a_moved_run_takes_new_images_and_tries_the_quarantined_again(ray_session, tmp_path):
    old, out = write_files(tmp_path / "old", IMAGES), tmp_path / "out"
    work_off(old, out, stub_config(), on_planned=(old / "b/4.png").unlink)
    # One image that the run never had is no longer asked for; its retry looks for it at the new place.
    new, moved = copied(old, tmp_path / "new"), ("--moved-from", str(old))
    write_files(new, {"d/9.png": png(8, 9, seed=9)})
    dry = annotated(new, out, *moved, "--extend", "--dry-run")
    assert "1 image in 1 shard; 0 planned images changed, 1 missing" in dry
    assert "SOURCE has 1 new images, planned in 1 new shards\n" in annotated(new, out, *moved, "--extend")
    assert places(out) == [None, None, None, str(new)]

    write_files(new, {"b/4.png": IMAGES["b/4.png"]})
    assert "1 image, 1 recovered" in annotated(new, out, *moved, "--retry-failed")
    assert places(out).count(str(new)) == 2
    assert verify_run(RunLocation.open(str(out))).is_clean
    assert not list((out / "_plan").glob("m*"))
    exported = pseudoris_here("export", str(out), str(tmp_path / "coco"), "--format", "coco", "--source", str(new))
    assert "10 of 10" in exported.stdout


@pytest.mark.ray
def test_versions_count_as_the_command_listed_them_and_an_interrupted_one_goes_on(ray_session, tmp_path):
    old, out = write_files(tmp_path / "old", IMAGES), tmp_path / "out"
    work_off(old, out, stub_config())
    undo(out, 1, 2)
    new, location = copied(old, tmp_path / "new"), RunLocation.open(str(out))

    def stop(event: object) -> None:
        if isinstance(event, Planned):
            raise KeyboardInterrupt

    def touch(event: object) -> None:
        if isinstance(event, Planned):
            write_files(new, {"b/7.png": IMAGES["b/7.png"]})

    with pytest.raises(KeyboardInterrupt):
        pseudoris.annotate(new, out, stub_config(), moved_from=old, on_event=stop)
    assert moved_parts(location)
    assert {problem.what for problem in verify_run(location).problems} == {"not_committed"}
    assert pseudoris.annotate(new, out, stub_config(), moved_from=old, on_event=touch).is_complete
    assert [(each.key, each.reason) for each in OpenRun.at(location).quarantined()] == [("b/7.png", "changed")]
    assert not moved_parts(location)


@pytest.mark.ray
@pytest.mark.long
def test_a_bucket_that_was_copied_to_another_with_other_etags(ray_session, s3_server, tmp_path):
    buckets = [s3_server.new_bucket() for _ in range(2)]
    images, out = write_files(tmp_path / "images", IMAGES), tmp_path / "out"
    old, config = s3_server.put_folder(images, buckets[0], "in"), f"source.endpoint_url={s3_server.endpoint_url}"
    work_off(old, out, stub_config(config))
    whole = part_digests(out)
    undo(out, 1)
    new, client = f"s3://{buckets[1]}/there", s3_server.client()
    for key, data in IMAGES.items():
        # The etag of an object that was put in parts is no digest of its bytes.
        place = {"Bucket": buckets[1], "Key": f"there/{key}"}
        place["UploadId"] = client.create_multipart_upload(**place)["UploadId"]
        etag = client.upload_part(**place, PartNumber=1, Body=data)["ETag"]
        client.complete_multipart_upload(**place, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})

    words = ("--set", config, "--moved-from", old)
    client.delete_object(Bucket=buckets[1], Key="there/a/3.png")
    assert "1 of 9 planned images differ, the first: a/3.png is missing" in annotated(new, out, *words, code=2)
    client.put_object(Bucket=buckets[1], Key="there/a/3.png", Body=IMAGES["a/3.png"])
    annotated(new, out, *words)
    assert part_digests(out) == whole
    assert places(out) == [None, new, None]


# It dies as it gives its name to the second part of the moved plan, of which one a shard is written here.
DYING = """
import os, signal, sys
import pseudoris
from pseudoris.store.runs import plan
from tests.builders.runs import stub_config
plan.MAX_SHARDS_PER_PART, real, named = 1, os.replace, []
def replace(source, target):
    if "/_plan/m" in str(target):
        named.append(target)
        if len(named) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(source, target)
os.replace = replace
new, out, old = sys.argv[1:]
pseudoris.annotate(new, out, stub_config(), moved_from=old)
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_moved_back", [False, True])
def test_what_a_killed_move_left_is_collected_by_the_next_command(tmp_path, is_moved_back):
    old, new, out = write_files(tmp_path / "old", IMAGES), tmp_path / "new", tmp_path / "out"
    work_off(old, out, stub_config())
    before, whole = files(out), part_digests(out)
    old.rename(new)
    died = subprocess.run([sys.executable, "-c", DYING, new, out, old], check=False, capture_output=True, cwd=ROOT)
    assert died.returncode == -signal.SIGKILL, died.stderr
    # A part, and a file without its name.
    assert len(files(out).keys() - before) == 2
    assert len(moved_parts(RunLocation.open(str(out)))) == 1
    assert verify_run(RunLocation.open(str(out))).is_clean

    if is_moved_back:
        new.rename(old)
        annotated(old, out)
    else:
        annotated(new, out, "--moved-from", str(old))
    assert part_digests(out) == whole
    assert not list((out / "_plan").glob("m*"))


def changed(new: Path, kind: str) -> None:
    lost = new / "b/1.png"
    if kind == "missing":
        lost.unlink()
        (new / "c/8.png").unlink()
    elif kind == "size":
        write_files(new, {"b/1.png": IMAGES["a/0.png"]})
    else:
        write_files(new, {"b/1.png": IMAGES["b/1.png"][:-1] + b"?"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("missing", "2 of 9 planned images differ, the first: b/1.png is missing. "),
        ("size", "1 of 9 planned images differ, the first: b/1.png has another size or place in its file. "),
        ("bytes", "b/1.png has not the sha256 of the table images. "),
        ("another place", "is not where the run was planned from: give '"),
    ],
)
def test_a_place_without_the_images_of_the_run_is_refused_and_nothing_is_written(tmp_path, kind, told):
    old, out = write_files(tmp_path / "old", IMAGES), tmp_path / "out"
    work_off(old, out, stub_config())
    undo(out, 1)
    new, before = copied(old, tmp_path / "new"), files(out)
    changed(new, kind) if kind != "another place" else None
    said = annotated(new, out, "--moved-from", str(new if kind == "another place" else old), code=2)
    assert told in said
    assert files(out) == before
    assert not list((out / "_plan").glob("m*"))


@pytest.mark.slow
def test_without_a_committed_shard_keys_and_sizes_decide(tmp_path):
    old, out = write_files(tmp_path / "old", IMAGES), tmp_path / "out"
    work_off(old, out, stub_config())
    undo(out, 0, 1, 2)
    new = copied(old, tmp_path / "new")
    changed(new, "bytes")
    annotated(new, out, "--moved-from", str(old), "--dry-run")
    changed(new, "size")
    assert "1 of 9 planned images differ" in annotated(new, out, "--moved-from", str(old), "--dry-run", code=2)
