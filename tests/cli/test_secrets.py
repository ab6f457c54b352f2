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


@pytest.mark.parametrize("uri", [USERINFO, SIGNED])
@pytest.mark.parametrize(
    "words",
    [
        ("annotate", "{uri}", "out"),
        ("annotate", ".", "{uri}"),
        ("annotate", ".", "out", "--dry-run", "--set", "masks.weights.uri={uri}"),
        ("annotate", ".", "out", "--set", "{uri}"),
        ("annotate", ".", "out", "--set", "masks.options.place=[{uri}"),
        ("annotate", ".", "out", "--address", "{uri}"),
        ("annotate", ".", "out", "--preset", "tiny", "--set", "source.endpoint_url={uri}"),
        ("annotate", ".", "out", "--dry-run", "--set", "masks.prior.path={uri}", "--set", "masks.prior.kind=table"),
        ("status", "{uri}"),
        ("verify", "{uri}"),
        ("gallery", "{uri}"),
        ("gc", "{uri}"),
        ("parts", "{uri}"),
        ("export", "{uri}", "there"),
        ("export", "out", "{uri}"),
        ("estimate", ".", "--address", "{uri}"),
    ],
    ids=" ".join,
)
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
