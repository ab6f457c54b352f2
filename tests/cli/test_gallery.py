"""`pseudoris gallery` writes a folder of pages and pictures."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pseudoris.audit.judging_page import write_judging_page
from pseudoris.cli.gallery import write_pages
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import image_id
from pseudoris.store.runs.lock import RunLock, TakenOverError
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.sessions.combined_run import combine
from tests.builders.audits import drawn_audit, judge, small_audit
from tests.builders.command import NUM_SCENES, pseudoris_here
from tests.interchange.exports.builders import build_run, jpeg
from tests.viewer.builders import HEIGHT, WIDTH, annotated, encode, rectangle, write_run

SAID = [(0, "a red circle", 1.5, 1), (1, "a blue circle", 1.2, 0)]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "a run", *[(f"{n}.png", lambda entry: annotated(entry, 2, SAID)) for n in range(5)])


@pytest.mark.ray
def test_the_folder_holds_every_picture_and_both_pages(tiny_run, tmp_path):
    folder = tmp_path / "pages"
    shown = pseudoris_here("gallery", str(tiny_run.out), "--to", str(folder), code=0)
    assert shown.stdout.splitlines() == [f"gallery {folder / 'index.html'}", f"quality {folder / 'quality.html'}"]
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert len(list((folder / "pictures").iterdir())) >= NUM_SCENES
    assert all(name in text for name in ("scene-000", "broken-zero-bytes.jpg"))
    assert "Throughput by stage" in (folder / "quality.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_in_a_bucket_has_its_pages_in_the_bucket(s3_server, s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    run = write_run(f"s3://{s3_bucket}/run", ("a.png", lambda entry: annotated(entry, 2, SAID)))
    assert write_pages(run.root) == f"s3://{s3_bucket}/run/gallery/index.html"
    assert {file.name for file in run.list("gallery")} == {"index.html", "quality.html"}


@pytest.mark.parametrize(
    "inside", ["", "/images", "/_receipts", "/expressions/pages", "/gallery/../masks/pages", "/../a run", "/link/pages"]
)
def test_the_folders_of_the_run_itself_are_refused_and_all_below(run, inside):
    Path(run.root, "link").symlink_to(Path(run.root, "failures"))
    with pytest.raises(ConfigError, match=r"is inside the run\. Choose a folder outside it"):
        write_pages(run.root, to=f"{run.root}{inside}")


def test_a_place_that_cannot_be_written_is_told_without_a_traceback(run, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    shown = pseudoris_here("gallery", run.root, "--to", str(tmp_path / "file" / "pages"), code=2)
    assert str(tmp_path / "file") in shown.stderr


def test_images_that_have_moved_are_shown_where_the_option_source_names_their_folder(tmp_path, caplog):
    run = RunLocation.open(str(tmp_path / "run"))
    build_run(run, (("a.jpg", jpeg(), (("a circle",),)),), embed=False, source=tmp_path / "photos")
    (tmp_path / "photos").rename(tmp_path / "moved")
    pseudoris_here("gallery", run.root, code=0)
    assert "2 of 2 images are not shown. If they have moved, give --source" in caplog.text
    pictures = tmp_path / "run" / "gallery" / "pictures"
    assert not pictures.exists()
    pseudoris_here("gallery", run.root, "--source", str(tmp_path / "moved"), code=0)
    assert len(list(pictures.iterdir())) == 1


def test_pages_go_into_no_folder_of_other_peoples_pictures(run, tmp_path):
    audit = small_audit(tmp_path / "judged")
    (tmp_path / "to" / "pictures").mkdir(parents=True)
    (tmp_path / "to" / "pictures" / "cat.jpg").write_bytes(b"a photograph")
    for command in (("gallery", run.root), ("audit", "page", str(audit.path))):
        shown = pseudoris_here(*command, "--to", str(tmp_path / "to"), code=2)
        assert "to/pictures holds other files: cat.jpg. Name a new or an empty folder with --to" in shown.stderr
    assert [path.name for path in (tmp_path / "to").rglob("*")] == ["pictures", "cat.jpg"]
    # What a killed command of each left there does not stop the next one.
    (tmp_path / "to" / "pictures" / "cat.jpg").rename(tmp_path / "to" / "pictures" / f"{image_id('0.png')}.webp")
    write_pages(run.root, to=str(tmp_path / "to"))


def test_pages_whose_place_was_taken_over_meanwhile_are_not_replaced(run, tmp_path, monkeypatch):
    def beat(self):
        raise TakenOverError("taken over")

    page, place = tmp_path / "pages" / "index.html", str(tmp_path / "pages")
    write_pages(run.root, to=place)
    page.write_text(before := page.read_text(encoding="utf-8") + "<!-- the other's -->", encoding="utf-8")
    monkeypatch.setattr(RunLock, "heartbeat", beat)
    shown = pseudoris_here("gallery", run.root, "--to", place, code=2)
    assert "taken over" in shown.stderr
    assert page.read_text(encoding="utf-8") == before
    audit = small_audit(tmp_path / "judged")
    shown = pseudoris_here("audit", "page", str(audit.path), "--to", str(tmp_path / "judging"), code=2)
    assert "taken over" in shown.stderr
    assert not (tmp_path / "judging" / "index.html").exists()


def test_an_audits_verdicts_on_other_masks_of_the_same_images_are_not_shown(tmp_path, capsys):
    audit = judge(small_audit(tmp_path), lambda row: "several")

    def moved(entry, first):
        texts = [(0, f"{row['text']}", 1.5, 1) for row in audit.pairs.to_pylist() if row["image_id"] == entry.image_id]
        image = annotated(entry, 2, texts)
        masks = image.masks if first else tuple(replace(mask, **shifted) for mask in image.masks)
        return replace(image, masks=masks)

    shifted = {"rle_counts": encode(rectangle((1, 1, 9, 9))), "box_xyxy_px": (1, 1, 9, 9), "area_px": 64}
    makers = [(f"{n}.png", lambda entry, n=n: moved(entry, n == 0)) for n in range(8)]
    run = write_run(tmp_path / "other", *makers)
    page = Path(write_pages(run.root, audit=audit.path)).read_text(encoding="utf-8")
    assert re.search(r"\d+ pairs of .* are not in this run", " ".join(capsys.readouterr().err.split()))
    shown = json.loads(re.search(r'<script id="settings"[^>]*>(.*?)</script>', page, re.DOTALL)[1])["verdicts"]
    assert {pair.partition("-")[0] for pair in shown} == {image_id("0.png")}


def test_pictures_of_a_combined_run_are_shown_as_each_of_its_runs_saw_them(tmp_path):
    samples = np.full((HEIGHT, WIDTH), 100, np.float32)
    Image.fromarray(samples).save(deep := io.BytesIO(), "TIFF")
    runs = []
    for name, high in (("v1", 200), ("v2", 400)):
        settings = (f"images.window=[0, {high}]",)
        makers = [("a.tif", lambda entry: annotated(entry, 2, SAID, deep.getvalue()))]
        runs.append((name, write_run(tmp_path / name, *makers, settings=settings, created_utc=name)))
        write_manifest(runs[-1][1])
    combine(runs, new := RunLocation.open(str(tmp_path / "new")))
    write_pages(new.root)
    seen = {}
    for name, _ in runs:
        with Image.open(tmp_path / "new" / "gallery" / "pictures" / f"{image_id(f'{name}/a.tif')}.webp") as picture:
            seen[name] = round(np.asarray(picture.convert("L")).mean())
    assert seen == {"v1": pytest.approx(128, abs=2), "v2": pytest.approx(64, abs=2)}
    audit = drawn_audit(new, tmp_path / "audit", lambda shard, key: deep.getvalue(), num_pairs=4, num_images=2)
    assert write_judging_page(audit, RunLocation.open(str(tmp_path / "page"))) == []
    for name, mean in seen.items():
        with Image.open(tmp_path / "page" / "pictures" / f"{image_id(f'{name}/a.tif')}.jpg") as picture:
            assert np.asarray(picture.convert("L")).mean() == pytest.approx(mean, abs=2)
