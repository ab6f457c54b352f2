"""What an answer of an S3 store means."""

from __future__ import annotations

import errno

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.files.s3_requests import explained
from pseudoris.store.files.storage import ChangedError, NoBucketError, verdict_of


def answer(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        (404, "NoSuchKey", "missing"),
        (400, "KeyTooLongError", "unreadable"),
        (403, "AccessDenied", "denied"),
        (403, "403", "denied"),
        (403, "InvalidAccessKeyId", "store"),
        (403, "SignatureDoesNotMatch", "store"),
        (403, "RequestTimeTooSkewed", "store"),
        (400, "InvalidToken", "store"),
    ],
)
def test_an_answer_has_the_verdict_of_the_docs(status, code, verdict):
    error = explained(answer(status, code), "read", "s3://b/x.png")
    assert isinstance(error, OSError)
    assert verdict_of(error) == verdict


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "NoSuchBucket"),
        (400, "InvalidBucketName"),
        (301, "PermanentRedirect"),
        (400, "AuthorizationHeaderMalformed"),
    ],
)
def test_a_bucket_that_is_not_there_is_the_users_to_mend(status, code):
    error = explained(answer(status, code), "read", "s3://b/x.png")
    assert isinstance(error, NoBucketError)
    assert "name" in str(error)
    assert "endpoint" in str(error)


def test_a_name_that_no_bucket_can_have_is_told_from_missing_credentials():
    assert type(explained(ParamValidationError(report="Bucket"), "read", "s3://b c/x.png")) is NoBucketError
    assert type(explained(NoCredentialsError(), "read", "s3://b/x.png")) is ConfigError


def test_another_version_is_an_answer():
    assert isinstance(explained(answer(412, "PreconditionFailed"), "read", "s3://b/x.png"), ChangedError)


def test_credentials_that_are_refused_are_named_with_a_remedy_before_a_run():
    error = explained(answer(403, "InvalidAccessKeyId"), "read", "s3://b/x.png")
    assert isinstance(error, PermissionError)
    assert error.errno == errno.EKEYREJECTED


def test_a_request_that_the_store_does_not_implement_names_the_header_but_no_other_text_of_its_answer():
    refused = answer(501, "NotImplemented")
    refused.response["Error"] |= {"Header": "x-amz-sdk-checksum-algorithm", "Message": "secret"}
    text = str(explained(refused, "write", "s3://b/x.png"))
    assert "NotImplemented (HTTP 501, header x-amz-sdk-checksum-algorithm)" in text
    refused.response["Error"]["Header"] = "a secret: hunter2"
    assert "header" not in str(explained(refused, "write", "s3://b/x.png"))
