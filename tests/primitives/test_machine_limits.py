"""Errors that a person reads: limits of the machine with their value and the remedy, missing parts all at once."""

from __future__ import annotations

import errno
import os
import pickle
import re
from unittest.mock import Mock

import pytest

from pseudoris.primitives.errors import ConfigError, ImageError, MissingPartsError, gather
from pseudoris.primitives.machine_limits import check_limits, group_files, told_by_limit
from tests.builders.command import python_says


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.EMFILE, "Too many open files"),
            r"Too many open files.* open files: [\d,]+: raise it .ulimit -n., at least to 256",
        ),
        (OSError(errno.ENFILE, "Too many open files in system"), r"open files: .*raise it"),
        (RuntimeError("can't start new thread"), r"processes: .*\(ulimit -u"),
        (MemoryError(), r"memory: [\d.]+ GiB.*give more"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), r"memory: [\d.]+ GiB"),
        (ImportError("libtorch.so: failed to map segment from shared object"), r"memory: [\d.]+ GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), r"memory: [\d.]+ GiB"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/part"), r"disk is full .*/out/part.*free space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/out/part"), r"disk is full .*/out/part.*free space"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_a_limit_is_one_sentence(error, told):
    assert re.search(told, told_by_limit(error) or "")


_FULL_PIPE = BlockingIOError(errno.EAGAIN, "write could not complete without blocking")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), RuntimeError("a bug"), KeyError("x"), _FULL_PIPE])
def test_any_other_error_is_not_a_limits(error):
    assert told_by_limit(error) is None


_USED_UP = {
    "descriptors": """
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        while True:
            files.append(open(os.devnull))""",
    "processes, by a fork": """
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        subprocess.Popen(["true"])""",
    "processes, by a worker": """
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        multiprocessing.get_context("fork").Process().start()""",
    "processes, by a thread": """
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        threading.Thread(target=print).start()""",
}


@pytest.mark.parametrize("use_up", _USED_UP.values(), ids=_USED_UP)
def test_a_limit_is_told_while_nothing_of_it_is_left(use_up):
    code = f"""if True:
    import multiprocessing.popen_fork, os, resource, subprocess, threading
    from pseudoris.primitives.machine_limits import told_by_limit
    files = []
    # Root has as many processes as it likes.
    if os.getuid() == 0:
        os.setuid(65534)
    try:{use_up}
    except (OSError, RuntimeError) as error:
        told = told_by_limit(error)
    del files
    print(told)
    """
    limit = "open files: 64: raise it" if "files.append" in use_up else "processes: 0: raise it (ulimit -u"
    assert f"this machine's limit is reached. {limit}" in python_says(code)


def test_what_is_in_force_is_told_with_the_free_space_of_folders(tmp_path):
    told = check_limits(temporary=str(tmp_path))
    assert f"free in {tmp_path}: " in told
    assert all(name in told for name in ("open files: ", "processes: ", "memory: "))


def test_addresses_that_are_too_few_for_ray_are_named_before_it_starts_and_when_they_are_used_up():
    code = """if True:
    import resource
    from pseudoris.primitives.errors import ConfigError
    from pseudoris.primitives.machine_limits import check_limits, told_by_limit
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    try:
        check_limits()
    except ConfigError as error:
        print(error)
    try:
        bytes(2**30)
    except MemoryError as error:
        print(told_by_limit(error))
    """
    low, used_up = python_says(code).splitlines()
    assert low == "memory: 1.0 GiB of addresses is too low for Ray on this machine: raise it (ulimit -v unlimited)"
    assert used_up.startswith("no memory is left: this machine's limit is reached. memory: 1.0 GiB of addresses: raise")


@pytest.mark.parametrize(
    ("own", "group", "files"),
    [
        ("0::/slurm/job", "memory.max", ["slurm/job/memory.max", "slurm/memory.max", "memory.max"]),
        ("4:cpu,memory:/job\n0::/", "memory/limit", ["memory/job/limit", "memory/limit", "limit"]),
        ("4:cpu,cpuacct:/job\n0::/", "memory/limit", []),
    ],
)
def test_the_limits_of_a_job_stand_in_its_group_and_in_those_above(tmp_path, own, group, files):
    (tmp_path / "own").write_text(own)
    found = group_files(group, tmp_path, tmp_path / "own")
    assert [str(each.relative_to(tmp_path)) for each in found] == files


def test_a_full_folder_is_refused_with_its_free_space(tmp_path, monkeypatch):
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": usage.f_bsize})())
    with pytest.raises(ConfigError, match=rf"^free in {re.escape(str(tmp_path))}: 0\.00 GiB is too low .*RAY_TMPDIR"):
        check_limits(temporary=str(tmp_path))


def test_errors_cross_the_border_of_a_process_whole():
    error = pickle.loads(pickle.dumps(ImageError("corrupt", "the data ends early")))
    assert (error.reason, error.message, str(error)) == ("corrupt", "the data ends early", "the data ends early")
    missing = Mock(side_effect=MissingPartsError("no weights", "no prior"))
    with pytest.raises(ConfigError) as told:
        gather(Mock(side_effect=ConfigError("no prior")), int, missing)
    assert str(told.value) == "2 parts that this run needs are not ready:\n  1. no prior\n  2. no weights"
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)
