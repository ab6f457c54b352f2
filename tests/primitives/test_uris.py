from __future__ import annotations

from hashlib import sha1

import pytest

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import told, without_secrets
from pseudoris.primitives.uris import refuse_secrets, secret_in, secrets_in, values_in
from tests.builders.memory import traced_peak

FIELDS = ("sig", "X-Amz-Signature", "q-ak", "jwt", "auth", "code", "pass", "session", "hdnea", "key", "any-name")
SECRET = "hunter2"
URIS = [
    *(f"https://host/a.tar?versionId=1&{field}=hunter2" for field in FIELDS),
    "https://host/a.tar?hunter2",
    "https://host/a.tar?aHVudGVyMg==hunter2",
    "https://host/a.tar#hunter2",
    "https://host/a.tar;jsessionid=hunter2",
    "https://host/a.tar?sig%3Dhunter2",
    "https://host/a.tar%3Fsig%3Dhunter2",
    "https://host/a.tar%253Fsig%253Dhunter2",
    "s3://bucket/a.tar?X-Amz-Signature=hunter2",
    "s3://hunter2@bucket/prefix",
    "s3://AKIA:hunter2@bucket/prefix",
    "s3://AKIA:hun/ter2hunter2@bucket/prefix",
    "simplecache::s3://AKIA:hunter2@bucket/prefix",
    "https://user:hunter2@[::1/a",
    "https:///user:hunter2@host/a",
    "https:/user:hunter2@host/a",
    "https://user%3Ahunter2%40host/a",
    "https://proxy/get/https%3A%2F%2Fuser%3Ahunter2%40host%2Fa",
    "https:user:hunter2@host/a",
    "//user:hunter2@host/a",
    "user:hunter2@host/a",
    "https://host/?from=https://AKIA:hunter2@other/a",
    "https://host/?versionId=https://other/a&sig=hunter2",
    "zip://a.jpg::https://host/a.zip?sig=hunter2",
    "zip://a.jpg::https://host/a.zip?hunter2",
    *(f"https://host/a{letter}b?sig=hunter2" for letter in "'\"<>` "),
]
TEXTS = [
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hunter2==;EndpointSuffix=core.windows.net",
    "SharedAccessSignature=hunter2",
    "github_pat_11ABCDEFG0hunter2hunter2_hunter2hunter2hunter2",
    "glpat-hunter2hunter2hunter",
    "sk-proj-hunter2hunter2hunter2hunter2",
    "xoxb-hunter2hunter2hunter",
    "sk_live_hunter2hunter2hunter2",
    "AKIAIOSFODNN7EXAMPLE:hunter2+hunter2/hunter2",
]


@pytest.mark.parametrize("uri", [*URIS, *TEXTS])
def test_a_uri_with_a_secret_is_refused_without_repeating_it(uri):
    with pytest.raises(ConfigError, match="credentials in the environment") as caught:
        refuse_secrets(uri)
    assert SECRET not in str(caught.value)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize("around", ["{}", "cannot read {}: it is slow", "SOURCE '{}' holds nothing", "see ({}), then"])
@pytest.mark.parametrize("uri", [uri for uri in URIS if not uri.startswith("user:")])
def test_what_is_shown_has_neither_query_nor_userinfo(uri, around):
    text = without_secrets(around.format(uri))
    assert SECRET not in text
    assert "AKIA" not in text
    before, _, after = around.partition("{}")
    assert text.startswith(before)
    assert text.endswith(after)


@pytest.mark.parametrize(
    "text",
    [
        "https://host/a.tar, then s3://bucket/b@2x.png: done",
        *("s3://bucket/a:b@c.png", "http://host:9000/a@2x.png", "/data/me@work/a?sig=b", "12:30@cam/a.jpg", "what? #1"),
        *("s3://bucket/t.parquet#12 cannot be read", "/data//set/a?b.jpg", "file:///data/a@b/c.png?a=b", "set/a?.jpg"),
        *("GET /a.tar HTTP/1.1", "50%2F50 ? yes", "https%3A%2F%2Fhost%2Fa.jpg", "is it x? y=2"),
    ],
)
def test_what_holds_no_query_is_shown_as_it_is(text):
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "uri",
    [
        *("s3://bucket/prefix/a@2x.png", "s3://bucket/a:b@c.png", "s3://bucket/{000..123}.tar", "s3://bucket/a?.jpg"),
        *("http://host:9000/a@2x.png", "http://[::1]:9000/a@2x.png", "https://host/a?versionId=4711&download=1"),
        *("/data/me@work/a?sig=b", "https://host/signature=1/a.png", "/data/secret=1/password=2/a.png", "a:b@c.png"),
        *("laion2B-s32B-b79K", "hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "sk-SK-common-voice-corpus-v12"),
        *("photos_2026Nov27T153000Batch0007Camera", "file:///data/me@work/a?sig=b", "/data//a:b@c/d.png"),
    ],
)
def test_a_place_without_a_secret_passes_unchanged(uri):
    assert refuse_secrets(uri) == uri


def test_a_query_is_allowed_by_its_names_which_the_refusal_tells():
    uri = "https://host/picture?id=4711&size=2"
    with pytest.raises(ConfigError, match=r"--set 'source\.allowed_query=\[id,size\]'"):
        refuse_secrets(uri, ())
    with pytest.raises(ConfigError, match=r"instance role\)$"):  # where no option can allow it
        refuse_secrets(uri)
    assert refuse_secrets(uri, ("id", "size")) == uri
    with pytest.raises(ConfigError, match="query"):
        refuse_secrets(f"{uri}&sig=hunter2", ("id", "size"))


@pytest.mark.parametrize(
    "query", ["aHVudGVyMg==", "aHVudGVyMg=%3D", "aHVudGVyMg%3D%3D", "aHVudGVyMg%3Dx", "aHVudGVyMg=&"]
)
def test_a_secret_in_base64_is_not_told_as_the_name_of_a_field(query):
    with pytest.raises(ConfigError, match="query") as caught:
        refuse_secrets(f"https://host/x?{query}")
    assert "aHVudGVyMg" not in str(caught.value)


@pytest.mark.parametrize("link", ["host/x?sig=hunter2", "//host/x?sig=hunter2", "user:hunter2@host/x?sig=hunter2"])
def test_a_link_without_its_scheme_is_shown_without_its_query(link):
    assert SECRET not in without_secrets(f"weights {link!r} are not here")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('host:443 "GET /a.tar?sig=hunter2 HTTP/1.1" 200 5', 'host:443 "GET /a.tar?… HTTP/1.1" 200 5'),
        ("HEAD /a.tar?hunter2", "HEAD /a.tar?…"),
        ("(DELETE  /a.tar?hunter2)", "(DELETE  /a.tar?…)"),
        ("SOURCE '/data/what?' has OUT '/data/a?b'", "SOURCE '/data/what?' has OUT '/data/a?b'"),
        ("get/https%3A%2F%2Fuser%3Ahunter2%40host%2Fx", "get/https%3A//…@host%2Fx"),
        ("https%3A%2F%2FAKIA%3Ahun%252Fter2%40host%2Fx", "https%3A//…@host%2Fx"),
        ("https%3A%2F%2Fhost%2Fa%40b", "https%3A%2F%2Fhost%2Fa%40b"),
        ("https://host/a.tar ?sig=hunter2, then", "https://host/a.tar ?…, then"),
        ("next=https%3A%2F%2Fhost%2Fa%3Fsig%3Dhunter2 now", "next=https%3A%2F%2Fhost%2Fa?… now"),
        ("https%253a%252f%252fhost%252Fa%253Fhunter2", "https%253a%252f%252fhost%252Fa?…"),
    ],
)
def test_a_line_of_a_log_is_shown_without_the_query_of_its_request(line, shown):
    assert without_secrets(line) == shown


def test_an_error_is_raised_from_a_clients_text_without_its_query():
    cause = OSError(5, "GET https://host/a?sig=hunter2")
    assert SECRET not in repr(told(cause))
    assert told(cause).errno == 5
    plain = OSError(28, "no space")
    assert told(plain) is plain


def test_a_command_with_a_secret_is_told_by_the_uris_scheme_alone():
    with pytest.raises(ConfigError, match=r"^a https:// uri holds credentials before an @"):
        refuse_secrets("curl -H 'Key: hunter2' https://user:hunter2@host/x")


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
        {"client": "newservice_live_hunter2hUnter2hUnter2"},
        {"client": "wJalrXUtnFEMI/hunter2/bPxRfiCYEXAMPLEKEY"},
    ],
)
def test_a_secret_in_the_options_of_a_plug_in_is_told_by_its_key(options):
    (line, *_) = secrets_in({"masks": {"options": options}})
    assert line.startswith("masks.options.")
    assert "credentials in the environment" in line
    assert "hunter2" not in line


def test_options_that_only_sound_like_secrets_pass():
    options = {"num_tokens": 3, "eos_token": "</s>", "keys": ["a"], "token": None, "password": "", "monkey": "x"}
    forty = [
        "/mnt/leftImg8bit/trainX2/cityScapes2x/AB",
        "photos/Fleet2024/Camera7/Night/Batch0012",
        sha1(b"").hexdigest(),
        sha1(b"").hexdigest().upper(),
    ]
    assert list(secrets_in({**options, "forty": forty})) == []


def test_a_long_text_is_searched_once():
    # Once for each of its letters, it would take an hour.
    assert secret_in("a" * 3_000_000) is None
    assert without_secrets("a/" * 1_500_000) == "a/" * 1_500_000
    for text in ("//a" * 300_000, "a%3A%2F%2F" * 100_000, "?a=" * 300_000, "GET /?" * 100_000):
        assert len(without_secrets(text)) > 0


def test_a_tree_is_walked_in_its_order_and_a_long_key_over_many_values_takes_little_memory():
    tree = {"a": [{"b": 1}, "c"], "d": {}}
    walked = [("", tree), ("a", tree["a"]), ("a", {"b": 1}), ("a.b", 1), ("a", "c"), ("d", {})]
    assert list(values_in(tree)) == walked
    many = {"k" * 20_000: {str(number): number for number in range(5_000)}}
    with traced_peak() as peak_bytes:
        assert sum(1 for _ in values_in(many)) == 5_002
        assert peak_bytes() < 1_000_000
