from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.uris import link_starts, refuse_secrets, secret_in, secrets_in

FIELDS = ("sig", "secret", "AWSAccessKeyId", "X-Amz-Security-Token", "X-Amz-Signature", "Signature")


@pytest.mark.parametrize(
    "uri",
    [
        *(f"https://host/a.tar?Expires=1&{field}=hunter2" for field in FIELDS),
        "s3://hunter2@bucket/prefix",
        "s3://AKIA:hunter2@bucket/prefix",
        "s3://AKIA:hun/ter2@bucket/prefix",
        "simplecache::s3://AKIA:hunter2@bucket/prefix",
        "https://user:hunter2@[::1/a",
        "https://account.blob.core.windows.net/c/a.tar?sv=2024&se=2030&sr=c&sp=rl&sig=hunter2",
        "https://host/a.tar?x=1;Sig=hunter2",
        "https://host/a.tar?%73ig=hunter2",
        "https://host/a.tar#access_token=hunter2",
        "https://host/a.tar?api_key=hunter2",
        "https://host/?from=https://AKIA:hunter2@other/a",
        "https://host/?from=https://other/a&sig=hunter2",
        "zip://a.jpg::https://host/a.zip?sig=hunter2",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hunter2==;EndpointSuffix=core.windows.net",
        "SharedAccessSignature=hunter2",
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
        *("s3://bucket/prefix/a@2x.png", "s3://bucket/a:b@c.png", "s3://bucket/{000..123}.tar"),
        *("http://host:9000/a@2x.png", "http://[::1]:9000/a@2x.png", "https://host/picture?key=4711&size=2"),
        *("/data/me@work/a?sig=b", "https://host/signature=1/a.png", "/data/secret=1/password=2/a.png"),
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


@pytest.mark.parametrize(
    "options",
    [
        {"key": "AKIA", "secret": "hunter2"},
        {"storage_options": {"token": "hunter2"}},
        {"client": [{"API-Key": "hunter2"}]},
        {"sas_token": "sv=2024&sig=hunter2"},
        {"headers": {"Authorization": "Basic hunter2"}},
        {"headers": ["Authorization: Bearer hunter2"]},
        {"command": "curl -H 'Authorization: Bearer hunter2' host/x"},
        {"environment": "AWS_SECRET_ACCESS_KEY=hunter2"},
        {"pem": "-----BEGIN RSA PRIVATE KEY-----\nhunter2"},
        {"token_": "hunter2"},
    ],
)
def test_a_secret_in_the_options_of_a_plug_in_is_told_by_its_key(options):
    (line, *_) = secrets_in({"masks": {"options": options}})
    assert line.startswith("masks.options.")
    assert "credentials in the environment" in line
    assert "hunter2" not in line


def test_options_that_only_sound_like_secrets_pass():
    options = {"num_tokens": 3, "eos_token": "</s>", "keys": ["a"], "token": None, "password": "", "monkey": "x"}
    assert list(secrets_in(options)) == []


@given(st.text(alphabet="a9+.-:/ é", max_size=40))
def test_links_begin_where_a_plain_search_finds_them(text):
    assert link_starts(text) == [found.start() for found in re.finditer(r"[A-Za-z][A-Za-z0-9+.-]*://", text)]


def test_a_long_text_is_searched_once():
    # Once for each of its letters, it would take an hour.
    assert secret_in("a" * 3_000_000) is None
