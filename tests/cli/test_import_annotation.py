"""`pseudoris import` as a user meets it, and what the other commands make of its run."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pyarrow.dataset as ds
import pytest

from evidence.recipes.object_centric import write_object_centric
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ShardsConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import list_receipts
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.command import invoke, pseudoris_here, start_pseudoris, wait_for
from tests.builders.human import document, image_row, object_row, reference, write_images, write_small_refer
from tests.builders.scored_runs import begin, finish, scored_shard
from tests.builders.studio import read_tasks, submitted, write_project
from tests.interchange.exports.builders import png


@pytest.fixture
def dataset(tmp_path):
    return write_small_refer(tmp_path)


@pytest.mark.slow
def test_a_dataset_is_imported_and_the_summary_says_what_was_kept_and_what_was_not(dataset, tmp_path):
    annotation, images = dataset
    (images / "train2014/4.png").unlink()
    result = invoke("import", annotation, images, tmp_path / "out", "--split", "train", "--split", "val")
    assert "5 of 5: 4 annotated, 0 empty, 1 quarantined" in result.output
    assert "16, all kept" in result.output
    assert "missing" in result.output
    assert str(tmp_path / "out" / "expressions") in result.output
    header = require_header(RunLocation.open(str(tmp_path / "out")))
    assert (header.config.preset, header.config.shards) == ("import", ShardsConfig())


@pytest.mark.slow
def test_verify_status_export_gallery_and_parts_take_the_run_as_any_other(dataset, tmp_path):
    annotation, images = dataset
    out = tmp_path / "out"
    invoke("import", annotation, images, out, "--shard-size", "2")
    assert "no problem found in any shard" in invoke("verify", out).output
    assert "5" in invoke("status", out).output
    assert len(invoke("parts", out, "--table", "expressions").output.splitlines()) == 3
    invoke("export", out, tmp_path / "export")
    rows = ds.dataset(tmp_path / "export" / "expressions").to_table().to_pylist()
    assert {row["source"] for row in rows} == {"human"}
    invoke("gallery", out)
    assert "the one on the left" in (out / "gallery" / "index.html").read_text()
    invoke("gc", out)


@pytest.mark.long
def test_an_image_that_a_bad_mask_costs_names_the_option_that_keeps_it(tmp_path):
    images = write_images(tmp_path / "images", "a.png")
    rows = [object_row(1, 1, caption="a box"), object_row(2, 1, segmentation=[[1, 2, 3]], caption="a thing")]
    (tmp_path / "objects.json").write_bytes(document([image_row(1, "a.png")], rows))
    words = ("import", str(tmp_path / "objects.json"), str(images))
    told = "1 images are left out for a bad mask. In a new OUT, --skip-bad-masks keeps their others"
    for option, is_told in (((), True), (("--skip-bad-masks",), False)):
        shown = pseudoris_here(*words, str(tmp_path / f"out{is_told}"), *option)
        assert (told in shown.stdout + shown.stderr) == is_told


@pytest.mark.slow
def test_grefcoco_is_known_by_its_name_and_none_shows_in_the_gallery(tmp_path):
    images = write_images(tmp_path / "images", "a.png")
    objects = [object_row(1, 1), object_row(2, 1, (15, 10, 25, 20))]
    (tmp_path / "instances.json").write_bytes(document([image_row(1, "a.png")], objects))
    refs = [reference(1, [1, 2], 1, "both"), reference(2, [-1], 1, "the green fork")]
    (tmp_path / "grefs(unc).json").write_text(json.dumps(refs))
    out = tmp_path / "out"
    assert "2, all kept" in invoke("import", tmp_path / "grefs(unc).json", images, out).output
    assert "no problem found in any shard" in invoke("verify", out).output
    invoke("gallery", out)
    assert "the green fork" in (out / "gallery" / "index.html").read_text()


@pytest.mark.slow
def test_reasonseg_is_one_folder_of_images_and_files(tmp_path):
    write_images(tmp_path / "images" / "val", "a.jpg")
    shapes = [{"label": "target", "points": [[4, 3], [11, 3], [11, 8]]}]
    file = tmp_path / "images" / "val" / "a.json"
    file.write_text(json.dumps({"text": ["what one drinks from"], "is_sentence": True, "shapes": shapes}))
    words = ("import", str(tmp_path / "images"), str(tmp_path / "images"), str(tmp_path / "out"))
    words += ("--format", "reasonseg", "--split", "val")
    assert "1, all kept" in invoke(*words).output
    refused = pseudoris_here(*words, "--split-by", "unc", cwd=tmp_path, code=2)
    assert "--split-by cannot go with --format reasonseg, only with refer, grefcoco." in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_an_import_that_is_ended_is_finished_by_the_same_command(tmp_path, signal_number):
    annotation, images = write_small_refer(tmp_path, num_images=60)
    out = tmp_path / "out"
    arguments = ("import", str(annotation), str(images), str(out), "--shard-size", "1", "--workers", "1")
    process = start_pseudoris(*arguments)
    wait_for(lambda: bool(list_receipts(RunLocation.open(str(out)))))
    process.send_signal(signal_number)
    _, printed = process.communicate(timeout=60)
    num_done = len(list_receipts(RunLocation.open(str(out))))
    assert 0 < num_done < 60
    if signal_number == signal.SIGINT:
        assert process.returncode == 130, printed
        assert "to resume run the same command again" in printed
        assert "Traceback" not in printed
    again = pseudoris_here(*arguments, code=0)
    assert f"{num_done} of 60 shards were committed" in again.stdout
    pseudoris_here("verify", str(out), code=0)


@pytest.mark.slow
def test_objects_are_written_and_the_summary_counts_them(tmp_path) -> None:
    images = write_object_centric(tmp_path / "objects", num_images=4)
    (images / "broken").mkdir()
    (images / "broken" / "no.png").write_bytes(b"")

    options = ("--sample", 5, "--set", "filtering.weights.uri=random:0")
    result = invoke("ppt", "objects", images, tmp_path / "out", *options)

    told = ("5 of 5:", "1 quarantined", "with a referent, 0 undecided", "empty_file", f"{tmp_path}/out/expressions")
    assert all(words in result.output for words in told)
    assert "A data recipe of PPT" in (tmp_path / "out" / "DATACARD.md").read_text()
    with pytest.raises(ConfigError, match="--sample 6: FOLDER has 5 images"):
        invoke("ppt", "objects", images, tmp_path / "more", "--sample", 6, *options[2:])


def test_a_folder_that_the_table_lacks_is_refused_and_nothing_is_written(tmp_path) -> None:
    images = write_object_centric(tmp_path / "objects", num_images=7)
    table = tmp_path / "table.csv"
    first, *others = sorted(each.name for each in images.iterdir())
    table.write_text(f"folder,name\n{first},house finch\n")

    # Five are named, the others counted.
    assert len(others) == 6
    lacking = (
        rf"table.csv does not name 6 of 7 folders of images: {', '.join(map(repr, others[:5]))}, and 1 more. Add a row"
    )
    with pytest.raises(ConfigError, match=lacking):
        invoke("ppt", "objects", images, tmp_path / "out", "--names", table)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_corrections_of_label_studio_are_a_run_that_every_command_reads(tmp_path):
    run = RunLocation.open(str(tmp_path / "run"))
    header, data = begin(run, num_shards=2), png()
    for number in range(2):
        entries = read_shard_plan(run, header, number)
        shard = scored_shard(header.config, entries)
        shown = (each if each.failure else replace(each, data=data, sha256=sha256_hex(data)) for each in shard.images)
        ids = [entry.image_id for entry in entries]
        provenance = Provenance(header_sha256=header.sha256)
        made = shard.with_images(tuple(shown))
        commit_shard(run, made, planned_ids=ids, embed_images=True, provenance=provenance)
    finish(run)
    invoke("export", tmp_path / "run", tmp_path / "tasks", "--format", "label-studio")
    first, second, *_ = read_tasks(tmp_path / "tasks")

    def reword(results) -> None:
        next(each for each in results if each["type"] == "textarea")["value"]["text"] = ["what a person says"]

    file = write_project(tmp_path / "ana.json", [submitted(first, reword), submitted(second)])
    words = ("import", file, tmp_path / "run", tmp_path / "out", "--format", "label-studio")
    with pytest.raises(ConfigError, match="--embed-images cannot go with --format label-studio"):
        invoke(*words, "--embed-images")
    printed = invoke(*words).output
    assert all(words in printed for words in ("tasks corrected", "tasks accepted as they are", "audit add AUDIT"))
    assert "no problem found in any shard" in invoke("verify", tmp_path / "out").output
    invoke("gallery", tmp_path / "out")
    assert "what a person says" in (tmp_path / "out" / "gallery" / "index.html").read_text()
    invoke("export", tmp_path / "out", tmp_path / "export")
    rows = ds.dataset(tmp_path / "export" / "expressions").to_table().to_pylist()
    assert {row["source"] for row in rows} == {"human", "model"}
    # Scores still decide about the images that no person changed.
    invoke("refilter", tmp_path / "out", tmp_path / "stricter", "--tau", "1.2")
    kept = OpenRun.at(RunLocation.open(str(tmp_path / "stricter"))).table("expressions").to_pylist()
    assert "what a person says" in {row["text"] for row in kept if row["kept"]}
    assert "no problem found in any shard" in invoke("verify", tmp_path / "stricter").output
