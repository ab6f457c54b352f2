"""What a limit of the machine ends is told with the limit, its value and the remedy."""

from __future__ import annotations

import errno
import os
import re

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.machine_limits import check_limits, told_by_limit


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.EMFILE, "Too many open files"),
            r"Too many open files.* open files: [\d,]+: raise it .ulimit -n., at least to 256",
        ),
        (OSError(errno.ENFILE, "Too many open files in system"), r"open files: .*raise it"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), r"processes: .*\(ulimit -u"),
        (RuntimeError("can't start new thread"), r"processes: .*\(ulimit -u"),
        (MemoryError(), r"memory: [\d.]+ GiB.*give more"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), r"memory: [\d.]+ GiB"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/part"), r"disk is full .*/out/part.*free space"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_a_limit_is_one_sentence(error, told):
    assert re.search(told, told_by_limit(error) or "")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), RuntimeError("a bug"), KeyError("x")])
def test_any_other_error_is_not_a_limits(error):
    assert told_by_limit(error) is None


def test_what_is_in_force_is_told_with_the_free_space_of_folders(tmp_path):
    told = check_limits(temporary=str(tmp_path))
    assert f"free in {tmp_path}: " in told
    assert all(name in told for name in ("open files: ", "processes: ", "memory: "))


def test_a_full_folder_is_refused_with_its_free_space(tmp_path, monkeypatch):
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": usage.f_bsize})())
    with pytest.raises(ConfigError, match=rf"^free in {re.escape(str(tmp_path))}: 0\.00 GiB is too low .*RAY_TMPDIR"):
        check_limits(temporary=str(tmp_path))
