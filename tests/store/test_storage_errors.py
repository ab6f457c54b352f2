from __future__ import annotations

import errno
import os

import pytest

from schemas.errors import ConfigError, TransientError
from store.storage_errors import storage_errors


def raise_within(error: OSError) -> None:
    with storage_errors("write", "/out/masks/part"):
        raise error


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full: free space"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "mounted read-only"),
        (errno.EACCES, "access is denied"),
        (errno.ENOTDIR, "is a file, not a folder"),
        (errno.ENOTSUP, "no hard links"),
    ],
)
def test_what_the_user_must_mend_names_the_path_and_the_remedy(number, remedy):
    with pytest.raises(ConfigError, match=f"cannot write /out/masks/part: .*{remedy}"):
        raise_within(OSError(number, os.strerror(number)))


def test_a_denial_without_a_number_is_the_users_to_mend():
    with pytest.raises(ConfigError, match="access is denied"):
        raise_within(PermissionError("Access Denied"))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), TimeoutError(), ConnectionResetError()])
def test_what_another_try_may_cure_is_transient(error):
    with pytest.raises(TransientError, match=r"cannot write /out/masks/part: .*run the same command again"):
        raise_within(error)


@pytest.mark.parametrize("kind", [FileNotFoundError, FileExistsError])
def test_an_answer_passes_as_it_is(kind):
    with pytest.raises(kind, match="as it was"):
        raise_within(kind("as it was"))
