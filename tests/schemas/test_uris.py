from __future__ import annotations

import pytest

from schemas.errors import ConfigError
from schemas.uris import refuse_secrets, secrets_in


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:hunter2@bucket/prefix",
        "s3://hunter2@bucket/prefix",
        "s3://AKIA:hun/ter2@bucket/prefix",
        "https://host/a.tar?X-Amz-Signature=hunter2",
        "https://host/a.tar?x=1&sig=hunter2",
        "https://host/a.tar?AWSAccessKeyId=hunter2&Expires=1",
        "simplecache::s3://AKIA:hunter2@bucket/prefix",
        "https://user:hunter2@[::1/a",
    ],
)
def test_a_uri_with_a_secret_is_refused_without_repeating_it(uri):
    with pytest.raises(ConfigError, match="credentials in the environment") as caught:
        refuse_secrets(uri)
    assert "hunter2" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/prefix/a@2x.png",
        "s3://bucket/a:b@c.png",
        "/data/me@work/a?sig=b",
        "me@work/images",
        "s3://bucket/{000..123}.tar",
        "https://host/a.tar?version=3",
        "memory://x",
        "http://host:9000/a@2x.png",
        "http://[::1]:9000/a@2x.png",
    ],
)
def test_a_place_without_a_secret_passes_unchanged(uri):
    assert refuse_secrets(uri) == uri


def test_a_command_with_a_secret_is_told_by_the_uris_scheme_alone():
    with pytest.raises(ConfigError, match=r"^a https:// uri holds credentials before an @"):
        refuse_secrets("curl -H 'Key: hunter2' https://user:hunter2@host/x")


def test_secrets_of_a_tree_are_told_by_their_keys():
    tree = {"a": {"b": ["s3://bucket", "s3://AKIA:hunter2@bucket"]}, "c": 3, "d": "https://host/x?sig=hunter2"}
    lines = list(secrets_in(tree))
    assert [line.split(":")[0] for line in lines] == ["a.b", "d"]
    assert "hunter2" not in "".join(lines)
