"""What an error of storage means, by what was done when it came."""

from __future__ import annotations

import errno
import os
import pickle
import re
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError

from pseudoris.files.s3_requests import explained
from pseudoris.files.storage import (
    VERDICTS,
    ChangedError,
    NoBucketError,
    listing_errors,
    storage_errors,
    transient_faults,
    verdict_of,
)
from pseudoris.primitives.errors import ConfigError, ImageError, RefusedError, TransientError

DOCS = Path(__file__).parents[2] / "docs" / "records" / "reliability.md"
# The errors by number of the table in the docs, and the verdict of each row.
ROWS = [
    (name, verdict)
    for names, verdict in re.findall(
        r"^\| ((?:`E\w+`(?:, )?)+) \|.*\| `?(\w+)`? \|$", DOCS.read_text("utf-8"), re.MULTILINE
    )
    for name in re.findall(r"\w+", names)
]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full: free space"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "mounted read-only"),
        (errno.EACCES, "access is denied"),
        (errno.ENOTDIR, "is a file, not a folder"),
        (errno.ENOTSUP, "does not support hard links"),
    ],
)
def test_what_the_user_must_mend_names_the_path_and_the_remedy(number, remedy):
    said = f"cannot write /out/masks/part: .*{remedy}"
    with pytest.raises(ConfigError, match=said), storage_errors("write", "/out/masks/part"):
        raise OSError(number, os.strerror(number))


def raise_in_a_run(error, faults=(OSError,)):
    with transient_faults("read", "/data/a.jpg", faults=faults):
        raise error


def raise_in_a_listing(error, faults=(OSError,)):
    with listing_errors("list", "/data", faults=faults):
        raise error


def test_a_missing_file_stays_an_answer():
    with pytest.raises(FileNotFoundError, match="gone"):
        raise_in_a_run(FileNotFoundError("gone"))
    with pytest.raises(FileNotFoundError, match="a part of the path is a file"):
        raise_in_a_run(NotADirectoryError("a part of the path is a file"))
    with pytest.raises(FileNotFoundError, match="a folder"):
        raise_in_a_run(IsADirectoryError("a folder"))
    with pytest.raises(FileNotFoundError, match="gone"):
        raise_in_a_listing(FileNotFoundError("gone"))


@pytest.mark.parametrize("raise_inside", [raise_in_a_run, raise_in_a_listing])
@pytest.mark.parametrize("error", [ImageError("changed", "ours"), MemoryError("ours")])
def test_our_own_errors_and_memory_pass(error, raise_inside):
    with pytest.raises(type(error), match="ours"):
        raise_inside(error, faults=(Exception,))


def test_the_table_of_errors_in_the_docs_is_the_one_in_the_code():
    assert ROWS
    assert {getattr(errno, name): verdict for name, verdict in ROWS} == VERDICTS


@pytest.mark.parametrize(("name", "verdict"), ROWS)
def test_an_error_while_an_image_is_read_means_what_the_docs_say(name, verdict):
    number = getattr(errno, name)
    with pytest.raises((FileNotFoundError, ImageError, TransientError)) as caught:
        raise_in_a_run(OSError(number, os.strerror(number)))
    kinds = {"missing": FileNotFoundError, "unreadable": ImageError, "denied": RefusedError, "store": TransientError}
    assert type(caught.value) is kinds[verdict]
    assert getattr(caught.value, "reason", verdict) == verdict


@pytest.mark.parametrize("raise_inside", [raise_in_a_run, raise_in_a_listing])
def test_the_text_of_a_client_is_not_repeated(raise_inside):
    with pytest.raises(TransientError, match="RuntimeError") as caught:
        raise_inside(RuntimeError("signed with hush"), faults=(Exception,))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("raise_inside", [raise_in_a_run, raise_in_a_listing])
def test_a_fault_of_our_own_code_on_a_disk_is_not_hidden(raise_inside):
    with pytest.raises(ZeroDivisionError, match="ours"):
        raise_inside(ZeroDivisionError("ours"))


def test_a_refusal_keeps_its_verdict_on_its_way_through_ray():
    error = pickle.loads(pickle.dumps(RefusedError("no", ImageError("missing", "no bucket"), any_store=True)))
    assert (str(error), error.any_store) == ("no", True)
    assert (error.failure.reason, error.failure.message) == ("missing", "no bucket")


def answered(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        *((404, "NoSuchKey", "missing"), (400, "KeyTooLongError", "unreadable")),
        *((403, code, "denied") for code in ("AccessDenied", "403")),
        *((403, code, "store") for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed")),
        (400, "InvalidToken", "store"),
    ],
)
def test_an_answer_has_the_verdict_of_the_docs(status, code, verdict):
    error = explained(answered(status, code), "read", "s3://b/x.png")
    assert isinstance(error, OSError)
    assert verdict_of(error) == verdict


NO_BUCKET = (
    *((404, "NoSuchBucket"), (400, "InvalidBucketName"), (301, "PermanentRedirect"), (307, "TemporaryRedirect")),
    *((301, "301"), (400, "400"), (400, "IllegalLocationConstraintException"), (400, "AuthorizationHeaderMalformed")),
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        *((answered(*each), NoBucketError) for each in NO_BUCKET),
        (ParamValidationError(report="Bucket"), NoBucketError),
        (NoCredentialsError(), ConfigError),
        (answered(412, "PreconditionFailed"), ChangedError),
    ],
    ids=repr,
)
def test_a_bucket_that_is_not_there_no_credentials_and_another_version_are_told_apart(error, kind):
    found = explained(error, "read", "s3://b c/x.png")
    assert type(found) is kind
    assert "s3://b c/x.png" in str(found)


def test_credentials_that_are_refused_are_named_with_a_remedy_before_a_run():
    error = explained(answered(403, "InvalidAccessKeyId"), "read", "s3://b/x.png")
    assert isinstance(error, PermissionError)
    assert error.errno == errno.EKEYREJECTED
    assert "InvalidAccessKeyId (HTTP 403)" in str(error)


@pytest.mark.parametrize(("header", "said"), [("x-amz-sdk-a", ", header x-amz-sdk-a"), ("a secret: hunter2", "")])
def test_a_request_that_the_store_does_not_implement_names_the_header_but_no_other_text_of_its_answer(header, said):
    refused = answered(501, "NotImplemented")
    refused.response["Error"] |= {"Header": header, "Message": "secret"}
    text = str(explained(refused, "write", "s3://b/x.png"))
    assert f"NotImplemented (HTTP 501{said})" in text
    assert "secret" not in text
