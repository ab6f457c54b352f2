"""Links and pipes that others planted in a folder: a command names them, and what is behind them stays as it is."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import signal
from contextlib import contextmanager

import pytest

from pseudoris.audit.audit_folder import VerdictLine
from pseudoris.files.filesystems import open_location
from pseudoris.interchange.exclusions import read_refer_folder
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.training.learning.checkpoint_folder import TrainingFolder
from pseudoris.training.ppt.curriculum import read_chosen, write_chosen
from pseudoris.workers.checkpoints.download import fetch
from pseudoris.workers.checkpoints.weight_cache import PINS_NAME, Pin, PublishedFile, WeightCache
from pseudoris.workers.masks.ready_masks import ReadyMasks, ReadyOptions
from tests.builders.audits import add_answers, small_audit
from tests.builders.command import pseudoris_here
from tests.builders.weight_server import serving_weights

OUTSIDE = b"what the user would miss"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    audit = small_audit(folder)
    lines = [VerdictLine(pair=audit.pairs["pair_id"][0].as_py(), verdict="right")]
    add_answers(audit.path, audit.known, lines)
    add_answers(folder / "eva", audit.known, lines, rater="eva")
    pseudoris_here("gallery", str(folder / "run"), code=0)
    return folder


@pytest.fixture
def folder(drawn, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(drawn, copied)
    return copied


@pytest.fixture(autouse=True)
def ten_seconds():
    """A pipe that is opened blocks for ever."""

    def give_up(*_):
        raise AssertionError("it takes longer than ten seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextmanager
def planted(place, kind, outside):
    """Put a link, a second name or a pipe in the place of a file or folder; nothing behind it changes in the block."""
    outside.mkdir()
    place.parent.mkdir(exist_ok=True)
    if place.is_dir():
        shutil.move(place, outside / "kept")
    else:
        (outside / "kept").write_bytes(place.read_bytes() if place.exists() else OUTSIDE)
        place.unlink(missing_ok=True)
    if kind == "link":
        place.symlink_to(outside / "kept")
    elif kind == "second name":
        place.hardlink_to(outside / "kept")
    else:
        os.mkfifo(place)
    before = content(outside)
    yield
    assert content(outside) == before


def content(outside):
    return {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}


REPORT, PAGE = ("audit", "report", "audit"), ("audit", "page", "audit", "--to", "page")
ADD = ("audit", "add", "audit", "eva/verdicts/eva.jsonl")
VERIFY, GALLERY, STATS = ("verify", "run"), ("gallery", "run"), ("stats", "run")


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize(
    ("place", "commands"),
    [
        ("audit/draw.json", (REPORT, ADD, PAGE)),
        ("audit/pairs.parquet", (REPORT, PAGE)),
        ("audit/verdicts", (REPORT, ADD)),
        ("audit/verdicts/ana.jsonl", (REPORT,)),
        ("audit/verdicts/bob.jsonl", (REPORT,)),
        ("audit/verdicts/eva.jsonl", (ADD,)),
        ("run/_run.json", (VERIFY, GALLERY, STATS)),
        ("run/_receipts", (VERIFY, STATS)),
        ("run/expressions", (VERIFY, GALLERY, STATS)),
        ("run/gallery", (GALLERY,)),
    ],
)
def test_what_was_planted_is_named_and_nothing_behind_it_changes(folder, tmp_path, monkeypatch, kind, place, commands):
    monkeypatch.chdir(folder)
    with planted(folder / place, kind, tmp_path / "outside"):
        for words in commands:
            ended = pseudoris_here(*words)
            printed = " ".join((ended.stdout + ended.stderr).split())
            assert ended.returncode != 0, (words, printed)
            assert place.partition("/")[2].split("/")[0] in printed.replace(" ", ""), (words, printed)
            assert "Traceback" not in printed


def test_a_planted_link_in_the_place_of_a_page_is_refused(folder, tmp_path):
    with planted(folder / "run/gallery/index.html", "link", tmp_path / "outside"):
        ended = pseudoris_here("gallery", str(folder / "run"), code=2)
    assert "is a link" in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("kind", "said"), [("link", "link"), ("pipe", "pipe"), ("second name", "file with another name elsewhere")]
)
def test_a_planted_part_of_a_download_is_refused(tmp_path, kind, said):
    with planted(tmp_path / "cache" / "x.pth.part", kind, tmp_path / "outside"), serving_weights() as server:
        server.files["/x.pth"] = OUTSIDE + b" and the rest"
        with pytest.raises(ConfigError, match=rf"x\.pth\.part is a {said}"):
            fetch(PublishedFile({"x.pth": f"{server.url}/x.pth"}), WeightCache(tmp_path / "cache", is_named=True))


@pytest.mark.parametrize("name", ["refs(unc).p", "instances.json"])
def test_a_pipe_in_a_folder_of_references_is_named(tmp_path, name):
    folder = tmp_path / "refcoco"
    folder.mkdir()
    row = {"ref_id": 1, "ann_id": 1, "image_id": 1, "split": "val", "category_id": 1, "sentences": []}
    (folder / "refs(unc).p").write_bytes(pickle.dumps([row]))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ConfigError, match=rf"{re.escape(name)} is a pipe"):
        read_refer_folder(folder)


def test_a_planted_link_does_not_redirect_the_record_of_digests(tmp_path):
    cache, place = WeightCache(tmp_path / "cache", is_named=True), tmp_path / "cache" / f"{PINS_NAME}.copy"
    with planted(place, "link", tmp_path / "outside"), pytest.raises(ConfigError, match=r"pins\.json\.copy is a link"):
        cache.add_pin("x.pth", Pin("0" * 64, 3))


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_planted_copy_of_weights_is_refused(tmp_path, kind):
    (tmp_path / "mine.pth").write_bytes(b"weights")
    published = PublishedFile({"x.pth": "http://127.0.0.1:9/x.pth"}, sha256=hashlib.sha256(b"weights").hexdigest())
    cache, place = WeightCache(tmp_path / "cache", is_named=True), tmp_path / "cache" / "x.pth.copy"
    refused = pytest.raises(ConfigError, match=r"x\.pth\.copy is a (link|pipe)")
    with planted(place, kind, tmp_path / "outside"), refused:
        fetch(published, cache, copies=[("x.pth", tmp_path / "mine.pth")])


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        (".config.json-unfinished", lambda folder: TrainingFolder(folder).begin({"seed": 1})),
        (".selected.json-unfinished", lambda folder: write_chosen(folder, [1], min_iou=0.5)),
    ],
)
def test_an_unfinished_file_that_was_planted_in_a_training_is_refused(tmp_path, kind, name, write):
    refused = pytest.raises(ConfigError, match=rf"{name} is a (link|pipe)")
    with planted(tmp_path / "training" / name, kind, tmp_path / "outside"), refused:
        write(tmp_path / "training")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", lambda folder: TrainingFolder(folder).settings()),
        ("config.json", lambda folder: TrainingFolder(folder).begin({"seed": 1})),
        ("checkpoint.pt", lambda folder: TrainingFolder(folder).load()),
        ("selected.json", read_chosen),
        ("prior.parquet", lambda folder: open_location(str(folder / "prior.parquet"))),
        ("prior.parquet", lambda folder: open_location(f"file://{folder}/prior.parquet")),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_named(tmp_path, name, read):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match=rf"{re.escape(name)} is a pipe"):
        read(tmp_path)


def test_a_pipe_among_ready_masks_costs_its_image_alone(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ImageError, match=r"a\.json is not a file"):
        ReadyMasks(ReadyOptions(folder=str(tmp_path), max_bytes=10, max_masks=1)).proposals("a.jpg", (4, 4))
