"""No secret that a person types or exports comes back: not on the screen, not in a log, not in a file."""

from __future__ import annotations

import itertools
import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from pseudoris.cli.doctor import run_checks
from pseudoris.cli.main import main
from pseudoris.files.location import RunLocation
from pseudoris.primitives.untrusted import mask_logs
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.reports.data_card import card_text
from pseudoris.store.runs.copied_pictures import CopyCounts
from pseudoris.store.runs.receipts import RunTotals
from tests.builders.command import OPTIONS, pseudoris_here
from tests.builders.redirecting_host import redirecting_host
from tests.builders.runs import SMALL, STUBS
from tests.builders.scored_runs import begin
from tests.store.builders import start_run
from tests.viewer.builders import annotated, write_run

ROOT = Path(__file__).parents[2]
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


class Unwritable:
    def __str__(self):
        raise RuntimeError


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
        printed = "".join(capsys.readouterr())
        assert "Traceback" not in printed
        files = "".join(path.read_text("utf-8", "replace") for path in tmp_path.rglob("*") if path.is_file())
        return caught.value.code, printed, printed + caplog.text + files

    return run


# Every command that takes a url, in each place that takes one.
TINY = "annotate --preset=tiny"
COMMANDS = [
    *(f"{TINY} {{uri}} out", f"{TINY} . {{uri}}", f"{TINY} . out --masks-from {{uri}}"),
    *(f"{TINY} . out --dry-run --set masks.weights.uri={{uri}}", f"{TINY} . out --address {{uri}}"),
    "annotate . out --preset tiny --set source.endpoint_url={uri}",
    f"{TINY} . out --dry-run --set masks.prior.path={{uri}} --set masks.prior.kind=table",
    *(f"{TINY} {{uri}} out --dry-run", f"{TINY} . out --set source.uri_root={{uri}}"),
    *("estimate --preset=tiny {uri}", "estimate --preset=tiny . --scratch {uri}"),
    *(f"{command} {{uri}}" for command in ("status", "verify", "gc", "gallery", "stats", "sample", "parts")),
    *("status {uri} --json", "stats {uri} --json", "verify {uri} --json"),
    *("export {uri} there --format coco", "export out {uri} --format coco"),
    *("refilter {uri} new --tau 2", "refilter out {uri} --tau 2"),
    *("evaluate {uri} --truth out", "calibrate {uri}", "audit draw {uri} audit"),
    *(f"import {each} --format coco" for each in ("{uri} . new", "a.json {uri} new", "a.json . {uri}")),
    *("ppt pairs {uri} new", "ppt pairs out {uri}", "train student {uri} --out new"),
]
# What is not refused as a url, but repeated in an error.
MISTAKES = [
    *(f"{TINY} . out {each}{{uri}}" for each in ("", "--limit ", "--no-such=", "--config ", "--set ")),
    *("annotate . out --preset {uri}", f"{TINY} . out --set masks.options.place=[{{uri}}"),
    *(f"{TINY} . out {each} {{uri}}" for each in ("--exclude", "--only")),
    *(f"{TINY} . out --set masks.points_per_side={{uri}}", "estimate --preset=tiny . --address {uri}"),
    *("evaluate out --truth {uri}", "weights get {uri}", "config diff tiny {uri}", "{uri}", "--{uri}"),
    *("predict {uri} star --model {uri}", "train student out --val {uri}"),
]


@pytest.mark.parametrize("uri", [*QUERIES, USERINFO])
@pytest.mark.parametrize("words", [*COMMANDS[:2], *MISTAKES])
def test_no_query_and_no_userinfo_of_any_name_comes_back(shown, words, uri):
    code, printed, everything = shown(*(word.format(uri=uri) for word in words.split()))
    assert code == 2, printed
    assert SECRET not in everything


@pytest.mark.parametrize("uri", [USERINFO, SIGNED, QUERIES[0], QUERIES[-3]])
@pytest.mark.parametrize("words", COMMANDS)
def test_a_uri_with_a_secret_is_refused_and_comes_back_nowhere(shown, words, uri):
    code, printed, everything = shown(*(word.format(uri=uri) for word in words.split()))
    assert code == 2, printed
    assert "in the environment" in printed
    assert SECRET not in everything


# Of a run that is there: what else takes a place.
PLACES = [
    *("doctor {uri} out", "doctor . {uri}"),
    *("gallery out --source {uri}", "gallery out --to {uri}", "calibrate out --to {uri}"),
    *("export out there --format coco --source {uri}", "weights get tiny --to {uri}"),
    *("audit draw out audit --source {uri}", "audit page out --to {uri}", "evaluate out --truth out --report {uri}"),
    "evaluate --model none.json --truth out --images {uri}",
]


@pytest.mark.parametrize("uri", [USERINFO, QUERIES[1], f"//u:{SECRET}@host/it's?sig={SECRET}", f"host/x?sig={SECRET}"])
@pytest.mark.parametrize("words", PLACES)
def test_no_option_that_takes_a_place_repeats_its_secret(shown, tmp_path, words, uri):
    shutil.copytree(ROOT / "tests/versions/0.5.0/finished", tmp_path / "out")
    _, printed, _ = shown(*(word.format(uri=uri) for word in words.split()))
    assert SECRET not in printed


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_run_in_a_folder_whose_name_looks_like_a_query_is_opened(shown, tmp_path, form):
    folder = shutil.copytree(ROOT / "tests/versions/0.5.0/finished", tmp_path / "a?b=c")
    code, printed, _ = shown("status", form.format(folder))
    assert code == 0, printed


@pytest.mark.parametrize(
    "setting", [f"secret={SECRET}", f"client.api_key={SECRET}", f"headers={{Authorization: Bearer {SECRET}}}"]
)
def test_a_secret_among_the_options_of_a_plug_in_comes_back_nowhere(shown, setting):
    code, printed, everything = shown("annotate", "--preset=tiny", ".", "out", "--set", f"captions.options.{setting}")
    assert (code, "captions.options" in printed) == (2, True)
    assert SECRET not in everything


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_of_the_environment_with_a_secret_is_named_by_its_variable(shown, monkeypatch, name):
    monkeypatch.setenv(name, f"http://AKIA:{SECRET}@localhost:1")
    for words in (
        ("status", "s3://bucket/run"),
        ("annotate", "--preset=tiny", "s3://bucket/images", "out", "--dry-run"),
    ):
        code, printed, everything = shown(*words)
        assert code == 2, printed
        assert f"{name}: a http:// uri holds credentials" in printed
        assert SECRET not in everything


def test_a_secret_that_a_run_has_recorded_is_neither_shown_nor_written_anew(shown, tmp_path):
    uri = f"https://host/x.tar?token-name={SECRET}"
    location = RunLocation.open(str(tmp_path / "run"))
    header = begin(location)
    weights = header.config.masks.weights.model_copy(update={"uri": uri})
    masks = header.config.masks.model_copy(update={"weights": weights})
    changed = header.model_copy(update={"source": uri, "config": header.config.model_copy(update={"masks": masks})})
    card = card_text(
        changed, RunTotals(), tables_sha256="", root_sha256="", excluded={}, copies=CopyCounts(0, 0, 0, 0), cited=None
    )
    assert "https://host/x.tar?…" in card
    assert SECRET not in card
    recorded = RunLocation.open(str(tmp_path / "recorded"))
    start_run(recorded, source=uri)
    for words in (("status",), ("status", "--json")):
        code, printed, _ = shown(words[0], recorded.root, *words[1:])
        assert (code, "https://host/x.tar?…" in printed, SECRET in printed) == (0, True, False)


def test_data_for_another_program_is_true_whatever_links_it_has(shown, tmp_path):
    text = f"see https://host/x?a={SECRET} now"
    location = write_run(tmp_path / "run", ("a.png", lambda entry: annotated(entry, 1, [(0, text, 1.5, None)])))
    for words in (("sample", "--json", "--columns", "text"), ("stats", "--json")):
        _, printed, _ = shown(words[0], location.root, *words[1:])
        assert text in printed
    files = fsspec.filesystem("memory")
    for path in filter(Path.is_file, (tmp_path / "run").rglob("*")):
        files.pipe(f"memory://true/set#one/{path.relative_to(tmp_path / 'run')}", path.read_bytes())
    for form in ((), ("--json",)):
        _, printed, _ = shown("parts", "memory://true/set#one", *form)
        assert "true/set#one/expressions/" in printed


@pytest.mark.parametrize("arguments", [("%d items", "three"), ("%s %s", "one"), ("%s", Unwritable())])
def test_a_faulty_call_of_the_log_does_not_end_its_caller(monkeypatch, arguments):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    make = logging.getLogRecordFactory()
    mask_logs()
    try:
        logging.getLogger("lib").error(*arguments)
    finally:
        logging.setLogRecordFactory(make)


@pytest.mark.parametrize("room", ["pipeline.fan_out", "pipeline.executor", "pipeline.annotation"])
def test_whatever_process_works_on_ray_logs_no_secret(room):
    code = f"import logging, pseudoris.{room}; logging.getLogger('lib').error('GET https://host/x?sig={SECRET}')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "https://host/x?…" in ended.stderr
    assert SECRET not in ended.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_repeats_no_query_of_its_source_nor_of_where_its_server_redirects_to(ray_session, tmp_path, caplog):
    def holding(folder: Path, secret: str) -> list[str]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return [str(path) for path in files if secret.encode() in path.read_bytes()]

    caplog.set_level(logging.DEBUG, logger="pseudoris")
    settings = (*STUBS, *SMALL, "source.allowed_query=[sig]", "source.format=webdataset")
    words = [f"--set={each}" for each in (*settings, "placement.storage.patience_s=2")]
    redirected = "swordfish"
    with redirecting_host(redirected) as web:
        for number, (failure, after) in enumerate(((0, None), (403, 1), (0, 2), (503, 3))):
            web.served, web.failure, web.fails_after = itertools.count(), failure, after
            url, out = f"{web.url}/set.tar?sig={SECRET}", str(tmp_path / f"out{number}")
            ended = pseudoris_here("annotate", "--preset=tiny", url, out, *words, *OPTIONS)
            assert after is not None or ended.returncode == 0, ended.stderr
            for command in ("status", "stats", "verify", "gallery"):
                told = pseudoris_here(command, out)
                ended.stdout += told.stdout + told.stderr
            for secret in (SECRET, redirected):
                assert secret not in ended.stdout + ended.stderr + caplog.text
                assert holding(Path(ray_session), secret) == []
            assert holding(tmp_path, redirected) == []


def test_doctor_repeats_no_secret():
    for name, where in (("source", {"source": USERINFO, "out": None}), ("output", {"source": None, "out": SIGNED})):
        (check,) = [check for check in run_checks(load_config("tiny"), **where) if check.name == name]
        assert not check.is_ok
        assert "in the environment" in check.detail
        assert SECRET not in check.detail
