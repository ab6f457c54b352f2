"""Every door that opens the pixels of a run reads grey of 16 bits as the run's header says, here as 12 bits."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import pseudoris
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from pseudoris.training.learning.training_data import DataConfig, open_runs
from tests.builders.command import invoke
from tests.interchange.exports.builders import build_run, export
from tests.viewer.builders import HEIGHT, TWO, WIDTH, annotated, write_run

# Of 11 bits: neither all 16 bits nor those that `auto` would take give the same pixels.
SAMPLES = np.round(np.linspace(0, 1_500, HEIGHT * WIDTH)).astype(np.uint16).reshape(HEIGHT, WIDTH)
SHOWN = np.repeat(np.round(SAMPLES * 255.0 / 4_095).astype(np.uint8)[..., None], 3, axis=2)


def encoded(samples: np.ndarray = SAMPLES) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images = [(f"{n}.png", lambda entry: annotated(entry, 2, TWO, data=encoded())) for n in range(2)]
    settings = ["images.bits=12", "shards.embed_images=true"]
    location = write_run(tmp_path_factory.mktemp("deep") / "run", *images, settings=settings)
    write_manifest(location)
    return location.root


def is_shown(pixels) -> bool:
    """Return whether a picture, which may be lossy, is the one that the header says: its brightness differs else."""
    return bool(np.abs(np.asarray(pixels, np.float64).mean() - SHOWN.mean()) < 0.5)


def test_the_run_reader(run):
    np.testing.assert_array_equal(pseudoris.open_run(run)[0].image, SHOWN)


def test_an_export(tmp_path):
    small = SAMPLES[:: HEIGHT // 12, :20]
    pictures = [("a.png", encoded(small), (("a thing",),))]
    deep = build_run(tmp_path / "run", tuple(pictures), settings=["images.bits=12"])
    export("coco", deep, tmp_path / "export")
    (picture,) = (tmp_path / "export").rglob("*.jpg")
    assert abs(np.asarray(Image.open(picture), np.float64).mean() - (small * 255.0 / 4_095).mean()) < 0.5


def test_a_data_set(run):
    image = pseudoris.RisDataset(run, pseudoris.SampleSpec(parts=("image",)))[0]["image"]
    np.testing.assert_array_equal(np.moveaxis(np.asarray(image), 0, 2), SHOWN)


def test_a_gallery(run, tmp_path):
    invoke("gallery", run, "--to", tmp_path / "pages")
    pictures = list((tmp_path / "pages" / "pictures").iterdir())
    assert len(pictures) == 2
    assert all(is_shown(Image.open(path)) for path in pictures)


def test_an_audit(run, tmp_path):
    invoke("audit", "draw", run, tmp_path / "audit", "-n", "4", "--images", "2")
    invoke("audit", "page", tmp_path / "audit", "--to", tmp_path / "page")
    pictures = list((tmp_path / "page" / "pictures").iterdir())
    assert len(pictures) == 2
    assert all(is_shown(Image.open(path)) for path in pictures)


def test_what_a_model_is_asked_in_an_evaluation(run):
    for question in HeldOutExpressions(run):
        np.testing.assert_array_equal(np.moveaxis(question.image.numpy(), 0, 2), SHOWN)


def test_what_a_training_reads(run):
    _, images, _ = open_runs([run], None, DataConfig(), seed=0)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(images[0]["image"]), 0, 2), SHOWN)


def test_the_status_counts_what_stands_in_the_notes(run, tmp_path):
    images = [(f"{n}.png", lambda entry: replace(annotated(entry, 2, TWO), note="dark")) for n in range(2)]
    location = write_run(tmp_path / "run", *images)
    assert OpenRun.at(location).receipts[0].notes == {"dark": 2}
    assert "noted 2 images: dark" in " ".join(invoke("status", location.root).output.split())
