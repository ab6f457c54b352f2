from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from pseudoris.files.local_storage import TEMPORARY_PREFIX, LocalStorage
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, ImageError, TransientError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.runs.garbage import run_gc

ROOT = Path(__file__).parents[2]

# Blocks for ever in the n-th fsync, after saying so: the process is then killed at a known point.
_CHILD = """
import os, sys, time
from pseudoris.files.location import RunLocation

out, stop_at = sys.argv[1], int(sys.argv[2])
calls, sync = 0, os.fsync

def fsync(descriptor):
    global calls
    calls += 1
    if calls == stop_at:
        print("here", flush=True)
        time.sleep(600)
    sync(descriptor)

location = RunLocation.open(out)
location.put_part("masks/first", b"makes the folder")
os.fsync = fsync
print("ready", flush=True)
location.put_part("masks/part", b"x" * (8 << 20))
print("done", flush=True)
time.sleep(600)
"""


@pytest.fixture
def files(tmp_path):
    return LocalStorage(tmp_path)


@pytest.fixture
def child(tmp_path):
    """Return what starts the child that writes, and kills it where it stops."""
    started = []

    def start(stop_at: int) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(tmp_path), str(stop_at)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        started.append(process)
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "here\n"]
        process.send_signal(signal.SIGKILL)
        process.wait()

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_writer_killed_before_its_data_is_synced_leaves_no_part(child, tmp_path, files):
    child(stop_at=1)
    assert [file.name for file in files.list("masks")] == ["first"]
    assert [name[:5] for name, _ in files.list_temporary("masks")] == [TEMPORARY_PREFIX]
    files.put("masks/part", b"again")
    assert (tmp_path / "masks/part").read_bytes() == b"again"


def test_a_full_disk_leaves_neither_part_nor_temporary_file(files, tmp_path, monkeypatch):
    files.put("masks/first", b"")
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OSError, match="No space left"):
        files.put("masks/part", b"data")
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["first"]


@pytest.mark.parametrize("taken", [1, 2, 3])
@pytest.mark.parametrize("write", ["create_once", "put"])
def test_a_temporary_file_that_gc_took_for_abandoned_is_written_again(files, tmp_path, monkeypatch, write, taken):
    left = [taken]

    def sync_and_collect(descriptor):
        """The writer was stopped here for days, or the clock jumped, and a gc came by."""
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and left[0]:
            left[0] -= 1
            run_gc(RunLocation.open(str(tmp_path)), now_s=time.time() + 86_400)

    monkeypatch.setattr(os, "fsync", sync_and_collect)
    if taken == 3:
        with pytest.raises(OSError, match="deleted 3 times"):
            getattr(files, write)("masks/part", b"data")
        assert list((tmp_path / "masks").iterdir()) == []
        return
    assert getattr(files, write)("masks/part", b"data") is (True if write == "create_once" else None)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "masks").iterdir()] == [("part", b"data")]


def test_a_link_whose_answer_was_lost_counts_as_won(files, tmp_path, monkeypatch):
    link = Path.hardlink_to

    def lose_the_answer(target, temporary):
        link(target, temporary)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(Path, "hardlink_to", lose_the_answer)
    assert files.create_once("receipt", b"mine")
    assert (tmp_path / "receipt").read_bytes() == b"mine"


LACKING = [errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL]


@pytest.mark.parametrize("number", LACKING)
@pytest.mark.parametrize("what", ["hard links", "a sync of folders"])
def test_a_file_system_that_lacks_what_a_commit_needs_is_named_with_the_ways_out(tmp_path, monkeypatch, what, number):
    sync = os.fsync

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    def sync_files_alone(descriptor):
        return refuse() if stat.S_ISDIR(os.fstat(descriptor).st_mode) else sync(descriptor)

    # No system call of a test's own can make a mount of FUSE, SMB or FAT: what these answer takes its place.
    if what == "hard links":
        monkeypatch.setattr(os, "link", refuse)
    else:
        monkeypatch.setattr(os, "fsync", sync_files_alone)
    told = rf"cannot create .*: the file system does not support {what}, .* mounted at /.*: .*\. Name an output .*s3://"
    with pytest.raises(ConfigError, match=told):
        RunLocation.open(str(tmp_path / "out")).probe()


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, ConfigError), (errno.EIO, TransientError)])
def test_a_disk_that_is_full_or_fails_lacks_nothing(tmp_path, monkeypatch, number, error):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(error, match=r"^(?!.*does not support)"):
        RunLocation.open(str(tmp_path / "out")).probe()


def test_every_new_folder_and_every_file_is_synced(files, tmp_path, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink()), sync(fd)))
    files.create_once("a/b/receipt", b"mine")
    folders = [path for path in synced if path.is_dir()]
    assert folders == [tmp_path, tmp_path / "a", tmp_path / "a/b"]
    assert [path.name[:5] for path in synced if path not in folders] == [TEMPORARY_PREFIX]


def test_a_moved_file_is_synced_before_it_has_its_name_and_its_folder_after(files, tmp_path, monkeypatch):
    local = files.temporary_path("exports/large")
    local.write_bytes(b"all")
    synced, sync = [], os.fsync

    def watched(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path, (tmp_path / "exports/large").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    files.put_file("exports/large", local)
    assert synced == [(local, False), (tmp_path / "exports", True)]


@pytest.mark.parametrize(
    ("method", "names"),
    [("list", ("a", "b")), ("list_temporary", (".tmp-1-00112233445566aa", ".tmp-1-00112233445566bb"))],
)
def test_a_file_that_vanishes_while_its_folder_is_listed_is_passed_over(tmp_path, method, names):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    listing = getattr(LocalStorage(tmp_path), method)("")
    next(listing)
    # What was scanned already is gone when it is looked at, as the temporary file of a living writer is.
    for name in names:
        (tmp_path / name).unlink()
    assert list(listing) == []


@pytest.mark.parametrize(
    ("data", "later_ns", "said"),
    [(b"new", -1, "the modification time"), (b"newer", 0, "the size")],
    ids=["time", "size"],
)
def test_a_version_of_another_time_or_size_is_changed_though_the_other_is_the_same(
    files, tmp_path, data, later_ns, said
):
    files.put("a", b"new")
    expected = files.stat("a")
    (tmp_path / "a").write_bytes(data)
    os.utime(tmp_path / "a", ns=(1, expected.mtime_ns + later_ns))
    with pytest.raises(ImageError, match=f"{said} differs from the plan"), files.open_version("a", expected) as file:
        file.read()


def test_a_pipe_is_refused_before_it_could_block(files, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for look in (files.open, files.read, files.stat):
        with pytest.raises(FileNotFoundError, match="is not a regular file"):
            look("pipe")


def test_a_writer_killed_after_the_name_appeared_leaves_the_whole_part(child, tmp_path):
    child(stop_at=2)
    assert sha256_hex((tmp_path / "masks/part").read_bytes()) == sha256_hex(b"x" * (8 << 20))
