"""Benchmarks compare equals: both sides give the same, or nothing is timed. Their commands write a row a case."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evidence.benchmarks import (
    captioner,
    crops,
    dataset,
    end_to_end,
    exports,
    mask_sides,
    masks,
    pipeline,
    vlm_captioner,
)
from evidence.benchmarks import filter as filter_benchmark
from evidence.benchmarks.chain_sides import AuthorsChain, OurChain
from evidence.benchmarks.dataset_inputs import DataSize, write_all
from evidence.benchmarks.mask_sides import Sides
from evidence.recipes.llava_recipe import FOLDER
from pseudoris.files.location import RunLocation
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.checks.verification import verify_run
from pseudoris.workers.captions.vlm_captioner import VlmCaptioner, load_vlm, vlm_engine, vlm_options

FEW_POINTS = ["masks.points_per_side=4", "masks.crop_n_layers=0"]
LITTLE = ["masks.points_per_side=8", "masks.crop_n_layers=0", "captions.context_scales=[1.0]", "captions.max_length=6"]
RANDOM = [f"{stage}.weights.uri=random:0" for stage in ("masks", "captions", "filtering")]
CHAIN = {"max_masks": 2, "kept_share": 0.4}


def sets(*assignments):
    return " ".join(f"--set {each}" for each in assignments)


COMMANDS = {
    captioner: ("--masks 2 --steps 4", 1, ""),
    vlm_captioner: ("--masks 2", 2, "captions equal token for token"),
    filter_benchmark: (
        f"--images 1 --masks 2 --caption-repeats 1 {sets('captions.max_length=6')}",
        2,
        "% of the captioner",
    ),
    masks: (f"{sets(*FEW_POINTS)} --images 1", 3, "of candidates pass predicted IoU"),
    # Two shards, two memory settings, six rows each.
    end_to_end: (f"{sets(*LITTLE, *RANDOM)} --images 1 2 --timed-masks 1", 24, "COUNTED"),
    crops: ("--masks 1 2 --size 16 --image 40x30", 2, "from the definition max"),
}


@pytest.mark.parametrize(
    "benchmark", [*(pytest.param(each, marks=pytest.mark.long) for each in COMMANDS if each is not crops), crops]
)
def test_a_command_writes_its_rows_with_their_ratio(benchmark, tmp_path):
    (words, num_rows, note), path = COMMANDS[benchmark], tmp_path / "rows.json"
    benchmark.main([*words.split(), "--repeats", "1", "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert len(rows) == num_rows
    assert all(row["baseline_s"] is None or row["ratio"] == row["baseline_s"] / row["ours_s"] for row in rows)
    assert rows[0]["case"]
    assert note in rows[0]["note"]
    assert {"peak_rss_bytes", "peak_pss_bytes"} & rows[0].keys()


@pytest.mark.slow
@pytest.mark.long
def test_all_sides_of_a_vlm_caption_the_same_crops():
    config = vlm_captioner.config_of(str(FOLDER))
    options = vlm_options(config.captions.options)
    vlm = load_vlm(config.captions.weights, options, torch.device("cpu"), torch.float64)
    image = vlm_captioner.crops_of(VlmCaptioner(config.captions, config.compute), 2)
    ours = vlm_engine(vlm, config.captions, seed=0)
    plain = vlm_captioner.PlainLoop(vlm, ours.special, config.captions, seed=0)
    drawn = [each.tokens for each in ours.generate(image)]
    assert plain.sample(image, 0) == drawn
    assert len(set(drawn)) > 5
    generated = vlm_captioner.generated(vlm, image.pixels[0], config.captions)
    assert len(generated) * len(generated[0]) == len(drawn)


def test_crops_that_differ_are_not_timed(monkeypatch):
    right = crops.batched
    monkeypatch.setattr(crops, "batched", lambda *arguments: right(*arguments) + 0.01)
    with pytest.raises(ValueError, match="crops differ by"):
        crops.measure(crops.build_case(2, height=60, width=50), size=32, device=torch.device("cpu"), repeats=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_all(folder, DataSize(4, 2, shard_images=2), None)
    # The first look loads modules, whose files are counted as bytes read.
    dataset.look("stream", folder)
    return folder


def test_all_sides_give_equal_samples_and_a_run_is_read_in_fewer_bytes(folder):
    looks = {side: dataset.look(side, folder) for side in dataset.SIDES}
    assert len({(each["digest"], each["samples"]) for each in looks.values()}) == 1
    assert looks["stream"]["samples"] == 8
    assert looks["stream"]["bytes_read"] < looks["files"]["bytes_read"] < looks["lmdb"]["bytes_read"] * 1.1


def test_datasets_that_differ_are_not_timed(folder, monkeypatch):
    answers = iter("abcd")
    monkeypatch.setattr(dataset, "in_process", lambda *arguments: {"digest": next(answers), "samples": 8})
    with pytest.raises(ValueError, match="the sides give other samples"):
        dataset.measure(folder, workers=[1], repeats=1)


@pytest.mark.long
def test_the_command_of_datasets_writes_a_row_a_side_and_number_of_workers(tmp_path):
    path = tmp_path / "rows.json"
    words = "--samples 8 --masks 2 --workers 1 --repeats 1"
    dataset.main([*words.split(), "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [row["side"] for row in rows] == list(dataset.SIDES)
    assert all(row["samples_per_s"] > 0 and row["masks_per_image"] == 2 for row in rows)


@pytest.fixture(scope="module")
def trained():
    """Both sides of one image by the trained models."""
    config = load_config("tiny", assignments=LITTLE)
    shard = end_to_end.shard_of(config, 1, 2)
    return AuthorsChain(config, **CHAIN).run(shard), OurChain(config, **CHAIN).run(shard)


@pytest.mark.slow
def test_both_sides_make_the_same_masks_captions_and_scores(trained):
    theirs, ours = trained
    assert len(ours.shard.images[0].masks) == 2
    assert theirs.proposals == ours.proposals
    # Two masks, two crop kinds, a beam and ten samples.
    assert "44 of 44 captions equal" in end_to_end.agreement(theirs, ours)
    assert set(theirs.spent) == {"masks", "sampling", "beams", "filter, batched", "filter, pairwise"}
    assert set(ours.spent) == {"masks", "captions", "filter"}


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["text", "correctness", "proposals"])
def test_chains_that_differ_are_not_compared(trained, changed):
    theirs, ours = trained
    (image,) = ours.shard.images
    new = {"text": "zebra", "correctness": 0.0}.get(changed)
    if new is None:
        ours = replace(ours, proposals=((),))
    else:
        expressions = tuple(replace(each, **{changed: new}) for each in image.expressions)
        ours = replace(ours, shard=ours.shard.with_images((replace(image, expressions=expressions),)))
    with pytest.raises(ValueError, match="the two sides differ"):
        end_to_end.agreement(theirs, ours)


@pytest.mark.slow
def test_scores_that_differ_are_not_timed(monkeypatch):
    monkeypatch.setattr(filter_benchmark, "largest_difference", lambda one, other: 0.5)
    config = load_config("tiny", assignments=["captions.context_scales=[1.0]", "captions.max_length=8"])
    with pytest.raises(ValueError, match=r"scores differ by 0\.5"):
        filter_benchmark.measure(config, num_images=1, max_masks=2, repeats=1, caption_repeats=1)


def test_both_sides_find_the_same_masks_or_are_not_timed(monkeypatch):
    sides = Sides(load_config("tiny", assignments=FEW_POINTS), num_images=1, kept_share=0.4)
    agreement = sides.agree()
    assert agreement.num_same_codes == agreement.num_ours == agreement.num_theirs > 0
    assert agreement.mean_iou == 1.0
    assert 0 < agreement.share_kept < 1
    assert "codes equal" in str(agreement)
    monkeypatch.setattr(mask_sides, "codes", lambda annotations: [])
    monkeypatch.setattr(mask_sides, "best_ious", lambda ours, theirs, size: [[0.5]])
    with pytest.raises(ValueError, match="find different masks"):
        sides.agree()


@pytest.mark.long
def test_a_table_of_exports_has_both_sizes(tmp_path, capsys):
    file = tmp_path / "rows.json"
    exports.main(["--images", "3", "5", "--formats", "odvg", "--to", str(tmp_path), "--json", str(file)])
    rows = json.loads(file.read_text())
    assert [(row["format"], row["images"]) for row in rows] == [("odvg", 3), ("odvg", 5)]
    assert all(row["peak_bytes"] >= row["imported_bytes"] > 0 for row in rows)
    assert "odvg" in capsys.readouterr().out


@pytest.mark.long
def test_exports_of_two_checkouts_are_equal_and_their_seconds_compared(tmp_path):
    file, root = tmp_path / "found.json", str(Path(exports.__file__).parents[2])
    words = ["--images", "3", "--formats", "odvg", "coco", "--repeats", "1", "--before", root]
    exports.main([*words, "--to", str(tmp_path), "--json", str(file)])
    found = json.loads(file.read_text("utf-8"))
    assert re.fullmatch("[0-9a-f]{8,}", found["before_commit"])
    assert root not in file.read_text("utf-8")
    for row in found["formats"]:
        assert row["ratio"] == row["now"]["seconds"] / row["before"]["seconds"]


@pytest.mark.long
def test_a_killed_export_has_left_objects_and_ends_equal(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "")
    exports.write_run(tmp_path / "run", 300)
    found = exports.measure_killed(tmp_path / "run", "odvg")
    # Images, the lines, the description and the record.
    assert found["objects"] == 300 + 3
    assert 0 < found["objects_at_kill"] < found["objects"]


QUICK = ("captions.has_masked_crop=false", "captions.context_scales=[1.0]")


@pytest.mark.long
def test_a_bare_run_is_a_whole_one_and_another_configs_is_told_from_it(tmp_path):
    source = pipeline.write_scenes(tmp_path / "images", 3)
    for out, max_length in (("a", 6), ("b", 5)):
        config = load_config("tiny", None, ["shards.max_images=2", f"captions.max_length={max_length}", *QUICK])
        started, commits = pipeline.run_bare(source, tmp_path / out, config)
        assert [started, *commits] == sorted([started, *commits])
        assert len(commits) == 2
        assert verify_run(RunLocation.open(str(tmp_path / out))).is_clean
    pipeline.check_equal(tmp_path / "a", tmp_path / "a")
    with pytest.raises(ValueError, match="shard 0 has other bytes on Ray than bare"):
        pipeline.check_equal(tmp_path / "a", tmp_path / "b")


def test_work_is_timed_from_the_first_commit_and_start_up_apart():
    timed = pipeline.Timed.of(10.0, [14.0, 15.0, 18.0])
    assert (timed.start_s, timed.work_s) == (4.0, 4.0)
    with pytest.raises(ValueError, match="1 shards: it takes two"):
        pipeline.Timed.of(10.0, [14.0])


@pytest.mark.ray
@pytest.mark.long
def test_both_sides_write_the_same_bytes_and_the_note_says_what_ray_adds(tmp_path, ray_session):
    path = tmp_path / "rows.json"
    words = f"--images 4 --shard-images 1 {sets('captions.max_length=6', *QUICK)}"
    pipeline.main([*words.split(), "--json", str(path)])
    (row,) = json.loads(path.read_text(encoding="utf-8"))
    assert row["ratio"] == row["baseline_s"] / row["ours_s"] > 0
    assert "of the bare stages' time, same bytes" in row["note"]
