"""What a storage raises becomes an answer or a transient fault, and nothing else."""

from __future__ import annotations

import errno

import pytest

from schemas.errors import ImageError, TransientError
from store.sources.faults import transient_faults


def raise_inside(error, faults=(OSError,)):
    with transient_faults("read", "/data/a.jpg", faults=faults):
        raise error


def test_a_missing_file_stays_an_answer():
    with pytest.raises(FileNotFoundError, match="gone"):
        raise_inside(FileNotFoundError("gone"))
    with pytest.raises(FileNotFoundError, match="a part of the path is a file"):
        raise_inside(NotADirectoryError("a part of the path is a file"))


@pytest.mark.parametrize("error", [ImageError("changed", "ours"), MemoryError("ours")])
def test_our_own_errors_and_memory_pass(error):
    with pytest.raises(type(error), match="ours"):
        raise_inside(error, faults=(Exception,))


def test_denied_access_is_named_and_transient():
    with pytest.raises(TransientError, match=r"cannot read /data/a\.jpg: Permission denied"):
        raise_inside(PermissionError(errno.EACCES, "Permission denied"))


def test_the_text_of_a_client_is_not_repeated():
    with pytest.raises(TransientError, match="RuntimeError") as caught:
        raise_inside(RuntimeError("signed with hush"), faults=(Exception,))
    assert "hush" not in str(caught.value)


def test_a_fault_of_our_own_code_on_a_disk_is_not_hidden():
    with pytest.raises(ZeroDivisionError, match="ours"):
        raise_inside(ZeroDivisionError("ours"))
