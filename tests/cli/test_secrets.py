"""No secret that a person types or exports comes back: not on the screen, not in a log, not in a file."""

from __future__ import annotations

import logging
import signal
import sys

import pytest

from pseudoris.cli.doctor import run_checks
from pseudoris.cli.main import main
from pseudoris.schemas.config_layers import load_config

SECRET = "hunter2"
USERINFO = f"s3://AKIA:{SECRET}@bucket/prefix"
SIGNED = f"https://account.blob.core.windows.net/c/x?sv=2024&sig={SECRET}"
# Names that no list had.
QUERIES = [
    f"https://bucket.cos.myqcloud.com/x.tar?q-signature={SECRET}&q-ak=AKIA{SECRET}",
    *(f"https://host/x.tar?{name}={SECRET}" for name in ("jwt", "auth", "code", "pass", "session", "any")),
    f"https://host/x.tar?hdnea=exp=1~hmac={SECRET}",
    f"https://host/x.tar?sig%3D{SECRET}",
    f"https://host/x.tar%3Fsig%3D{SECRET}",
    f"https://host/x.tar#{SECRET}",
    f"//user:{SECRET}@host/x.tar",
    f"https:/user:{SECRET}@host/x.tar",
    f"user:{SECRET}@host/x.tar",
]


@pytest.fixture
def shown(monkeypatch, capsys, caplog, tmp_path):
    """Return a function that runs a command and returns its exit code and all that it showed, logged and wrote."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pseudoris", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        files = "".join(path.read_text("utf-8", "replace") for path in tmp_path.rglob("*") if path.is_file())
        return caught.value.code, printed.out + printed.err, printed.out + printed.err + caplog.text + files

    return run


# Every command that takes a url, in each place that takes one.
COMMANDS = [
    *(("annotate", "{uri}", "out"), ("annotate", ".", "{uri}"), ("annotate", ".", "out", "--masks-from", "{uri}")),
    ("annotate", ".", "out", "--dry-run", "--set", "masks.weights.uri={uri}"),
    ("annotate", ".", "out", "--address", "{uri}"),
    ("annotate", ".", "out", "--preset", "tiny", "--set", "source.endpoint_url={uri}"),
    ("annotate", ".", "out", "--dry-run", "--set", "masks.prior.path={uri}", "--set", "masks.prior.kind=table"),
    *(("annotate", "{uri}", "out", "--dry-run"), ("annotate", ".", "out", "--set", "source.uri_root={uri}")),
    ("estimate", "{uri}"),
    ("estimate", ".", "--scratch", "{uri}"),
    *((command, "{uri}") for command in ("status", "verify", "gc", "gallery", "stats", "sample", "parts")),
    *(("status", "{uri}", "--json"), ("stats", "{uri}", "--json"), ("verify", "{uri}", "--json")),
    *(("export", "{uri}", "there", "--format", "coco"), ("export", "out", "{uri}", "--format", "coco")),
    *(("refilter", "{uri}", "new", "--tau", "2"), ("refilter", "out", "{uri}", "--tau", "2")),
    *(
        ("evaluate", "{uri}", "--truth", "out"),
        ("calibrate", "{uri}"),
        ("audit", "draw", "{uri}", "audit"),
    ),
    *(("import", "{uri}", ".", "new", "--format", "coco"), ("import", "a.json", "{uri}", "new", "--format", "coco")),
    ("import", "a.json", ".", "{uri}", "--format", "coco"),
    *(("ppt", "pairs", "{uri}", "new"), ("ppt", "pairs", "out", "{uri}")),
    ("train", "student", "{uri}", "--out", "new"),
]
# What is not refused as a url, but repeated in an error.
MISTAKES = [
    ("annotate", ".", "out", "{uri}"),
    ("annotate", ".", "out", "--limit", "{uri}"),
    ("annotate", ".", "out", "--no-such={uri}"),
    ("annotate", ".", "out", "--config", "{uri}"),
    ("annotate", ".", "out", "--preset", "{uri}"),
    ("annotate", ".", "out", "--set", "{uri}"),
    ("annotate", ".", "out", "--set", "masks.options.place=[{uri}"),
    ("annotate", ".", "out", "--set", "masks.points_per_side={uri}"),
    ("annotate", ".", "out", "--exclude", "{uri}"),
    ("annotate", ".", "out", "--only", "{uri}"),
    ("estimate", ".", "--address", "{uri}"),
    ("evaluate", "out", "--truth", "{uri}"),
    *(("weights", "get", "{uri}"), ("config", "diff", "tiny", "{uri}")),
    ("{uri}",),
    ("--{uri}",),
    ("predict", "{uri}", "the star", "--model", "{uri}"),
    ("train", "student", "out", "--val", "{uri}"),
]


@pytest.mark.parametrize("uri", [*QUERIES, USERINFO])
@pytest.mark.parametrize("words", [*COMMANDS[:2], *MISTAKES], ids=" ".join)
def test_no_query_and_no_userinfo_of_any_name_comes_back(shown, words, uri):
    code, printed, everything = shown(*(word.format(uri=uri) for word in words))
    assert code == 2, printed
    assert SECRET not in everything
    assert "Traceback" not in printed


@pytest.mark.parametrize("uri", [USERINFO, SIGNED, QUERIES[0], QUERIES[-3]])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_uri_with_a_secret_is_refused_and_comes_back_nowhere(shown, words, uri):
    code, printed, everything = shown(*(word.format(uri=uri) for word in words))
    assert code == 2, printed
    assert "in the environment" in printed
    assert SECRET not in everything
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "setting", [f"secret={SECRET}", f"client.api_key={SECRET}", f"headers={{Authorization: Bearer {SECRET}}}"]
)
def test_a_secret_among_the_options_of_a_plug_in_comes_back_nowhere(shown, setting):
    code, printed, everything = shown("annotate", ".", "out", "--set", f"captions.options.{setting}")
    assert (code, "captions.options" in printed) == (2, True)
    assert SECRET not in everything


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_of_the_environment_with_a_secret_is_named_by_its_variable(shown, monkeypatch, name):
    monkeypatch.setenv(name, f"http://AKIA:{SECRET}@localhost:1")
    for words in (("status", "s3://bucket/run"), ("annotate", "s3://bucket/images", "out", "--dry-run")):
        code, printed, everything = shown(*words)
        assert code == 2, printed
        assert f"{name}: a http:// uri holds credentials" in printed
        assert SECRET not in everything


def test_doctor_repeats_no_secret():
    for name, where in (("source", {"source": USERINFO, "out": None}), ("output", {"source": None, "out": SIGNED})):
        (check,) = [check for check in run_checks(load_config("tiny"), **where) if check.name == name]
        assert not check.is_ok
        assert "in the environment" in check.detail
        assert SECRET not in check.detail
