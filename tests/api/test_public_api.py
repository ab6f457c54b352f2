"""`import pseudoris`: what it offers, what it costs, and that it does what the commands do."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

import pseudoris
from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import ExportOptions
from pseudoris.primitives.errors import ConfigError
from pseudoris.synthworld.scene_truth import SceneTruth
from tests.builders.command import python_says
from tests.builders.runs import stub_config, write_source
from tests.builders.scene_runs import scene_run, scenes, truth_bytes
from tests.builders.scored_runs import scored_run
from tests.interchange.exports.builders import PICTURES, build_run
from tests.store.builders import start_run

FUNCTIONS = ["annotate", "open_run", "verify", "refilter", "export", "evaluate"]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    """A finished run, which its tests only read."""
    location = RunLocation.open(str(tmp_path_factory.mktemp("api") / "out"))
    scored_run(location)
    return location.root


def test_importing_it_loads_no_torch_no_ray_and_no_pyarrow():
    code = "import sys, pseudoris; print([name for name in ('torch', 'ray', 'pyarrow') if name in sys.modules])"
    assert python_says(code) == "[]"


@pytest.mark.slow
def test_reading_a_run_loads_no_torch_and_no_ray(out):
    code = (
        f"import sys, pseudoris; run = pseudoris.open_run({out!r}); run.expressions().count_rows(); "
        "pseudoris.verify(run.out); print([name for name in ('torch', 'ray') if name in sys.modules])"
    )
    assert python_says(code) == "[]"


def test_every_name_is_there_and_documented():
    for name in pseudoris.__all__:
        assert getattr(pseudoris, name).__doc__, name
    assert dir(pseudoris) == sorted(pseudoris.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_returns_and_when_it_raises(name):
    page = inspect.getdoc(getattr(pseudoris, name))
    assert all(f"\n{part}:\n" in page for part in ("Returns", "Raises"))
    assert all(f"\n    {error}: " in page for error in ("ConfigError", "TransientError"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_names_its_arguments(name):
    arguments = inspect.signature(getattr(pseudoris, name)).parameters
    of_class = {each.name: each.default for each in fields(ExportOptions)} if name == "export" else {}
    assert {each: arguments[each].default for each in of_class} == of_class
    page = inspect.getdoc(getattr(pseudoris, name))
    assert not [each for each in arguments.keys() - of_class.keys() if not re.search(rf"\b{each}\b", page)]


def test_the_types_of_what_it_takes_and_calls_back_are_there():
    events = {pseudoris.Step, pseudoris.Planned, pseudoris.Committed, pseudoris.Retried, pseudoris.Notice}
    assert set(get_args(pseudoris.RunEvent)) == events
    assert pseudoris.Truth.__name__ == "Truth"


def test_its_version_is_the_installed_one_and_a_name_that_does_not_exist_is_an_attribute_error():
    assert pseudoris.__version__ == version("pseudoris")
    with pytest.raises(AttributeError, match="has no attribute 'anotate'"):
        pseudoris.anotate  # noqa: B018


@pytest.mark.ray
def test_a_run_from_images_to_tables_with_its_failures_retried(tmp_path, ray_session):
    source, out = write_source(tmp_path / "in", num_images=1), str(tmp_path / "out")
    events = []
    summary = pseudoris.annotate(str(source), out, stub_config(), on_event=events.append)
    assert (summary.is_complete, summary.totals.images, bool(events)) == (True, 4, True)
    retried = pseudoris.annotate(str(source), out, stub_config(), retry_failed=True, retry_reasons=["empty_file"])
    assert retried.retry.num_images == 1
    assert pseudoris.verify(out).is_clean


def test_the_name_of_a_preset_is_a_configuration(monkeypatch, tmp_path, caplog):
    seen = []
    monkeypatch.setattr("pseudoris.pipeline.annotation.annotate", lambda *given, **_: seen.append(given))
    with pytest.raises(
        ConfigError, match=r"(?s)no preset is named.*tiny-composed: drawn.*paper, open: photo.*open-composed: "
    ):
        pseudoris.annotate("in", str(tmp_path / "none"))
    begun = RunLocation.open(str(tmp_path / "begun"))
    start_run(begun, config=pseudoris.load_config("tiny-composed"))
    (tmp_path / "old.yaml").write_text("domain: null\nplacement: {accept_domain: true}\n", encoding="utf-8")
    pseudoris.annotate("in", begun.root, tmp_path / "old.yaml")
    assert caplog.text.count("domain and placement.accept_domain: left out") == 1
    pseudoris.annotate("in", "out", "paper")
    path = tmp_path / "mine.yaml"
    path.write_text("filtering: {tau: 3.0}")
    pseudoris.annotate("in", "out", pseudoris.load_config("tiny", str(path), ["masks.points_per_side=4"]))
    assert [given[2].preset for given in seen] == ["tiny-composed", "paper", "tiny"]
    assert (seen[2][2].filtering.tau, seen[2][2].masks.points_per_side) == (3.0, 4)


def test_what_annotate_is_asked_for_reaches_the_run(monkeypatch):
    seen = []

    def noted(source, out, config, *, options, on_event):
        seen.append((options.limit, options.is_extension, options.is_retry, options.reasons, config.placement.repair))

    monkeypatch.setattr("pseudoris.pipeline.annotation.annotate", noted)
    pseudoris.annotate("in", "out", "tiny", limit=5, extend=True)
    pseudoris.annotate("in", "out", "tiny", retry_failed=True, retry_reasons=["missing", "changed"])
    pseudoris.annotate("in", "out", "tiny", repair=True)
    assert seen[0] == (5, True, False, None, False)
    assert seen[1] == (None, False, True, {"missing", "changed"}, False)
    assert seen[2] == (None, False, False, None, True)


def test_refilter_writes_another_run_under_another_rule(out, tmp_path):
    new = str(tmp_path / "new")
    summary = pseudoris.refilter(out, new, tau=1.2, keep=["correctness > 0.2"])
    kept = pseudoris.open_run(new).expressions().to_table(filter=pc.field("kept"))
    assert kept.num_rows == summary.totals.kept > 0
    assert pc.min(kept["correctness"]).as_py() > 0.2
    with pytest.raises(pseudoris.ConfigError, match="is not a condition such as"):
        pseudoris.refilter(out, new, keep=["correct"])


def test_a_string_is_one_condition_or_one_reason(out, tmp_path):
    summary = pseudoris.refilter(out, str(tmp_path / "new"), keep="correctness > 0.2")
    assert [str(each) for each in summary.rule.conditions] == ["correctness > 0.2"]
    with pytest.raises(pseudoris.ConfigError, match="'mising' is not a quarantine reason"):
        pseudoris.annotate("in", out, retry_failed=True, retry_reasons="mising")


def test_export_writes_a_format_and_refuses_what_it_does_not_read(out, tmp_path):
    report = pseudoris.export(out, str(tmp_path / "tables"))
    assert report.rows["expressions"] == pseudoris.open_run(out).expressions().count_rows()
    with pytest.raises(pseudoris.ConfigError, match="--format parquet does not use --split"):
        pseudoris.export(out, str(tmp_path / "other"), split="val")
    with pytest.raises(pseudoris.ConfigError, match="no export format 'coca'"):
        pseudoris.export(out, str(tmp_path / "other"), "coca")


def test_export_reads_the_images_where_they_are_now(tmp_path):
    out, photos, moved = str(tmp_path / "out"), tmp_path / "photos", tmp_path / "moved"
    build_run(RunLocation.open(out), PICTURES[:2], embed=False, source=photos)
    photos.rename(moved)
    report = pseudoris.export(out, str(tmp_path / "odvg"), "odvg", source=str(moved))
    assert report.rows["images"] == 2


def test_annotate_and_export_take_one_path_to_exclude_or_several(out, tmp_path, monkeypatch):
    names, table = tmp_path / "names.txt", tmp_path / "bench.csv"
    names.write_text("3.png\n")
    table.write_text(f"phash\n{'ab' * 8}\n")
    seen = []
    monkeypatch.setattr("pseudoris.pipeline.annotation.annotate", lambda *_, options, **__: seen.append(options))
    pseudoris.annotate("in", "out", "tiny", exclude=str(names))
    pseudoris.annotate("in", "out", "tiny", exclude=[str(names), str(table)], exclude_distance=3)
    pseudoris.annotate("in", "out", "tiny")
    assert [[rule.kind for rule in each.exclusions] for each in seen] == [["names"], ["names", "phash"], []]
    assert seen[1].exclusions[1].settings == {"max_distance": 3}
    keys = pseudoris.open_run(out).images().to_table(columns=["key"])["key"].to_pylist()
    names.write_text(f"{keys[0]}\n")
    report = pseudoris.export(out, str(tmp_path / "tables"), exclude=str(names))
    assert report.dropped == {"images excluded by names.txt (names)": 1}
    assert report.rows["images"] == len(keys) - 1


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        *((each, repr(each)) for each in (-1, float("nan"), float("inf"), True, "3")),
        (10**23, "of more than 64 bits"),
        (10**5000, "of more than 64 bits"),
    ],
    ids=["-1", "nan", "inf", "True", "text", "10^23", "10^5000"],
)
def test_a_number_that_means_nothing_is_refused_by_name_before_anything_is_written(number, shown, out, tmp_path):
    new = tmp_path / "new"
    truth = SceneTruth.from_json(truth_bytes(scenes(1)), "truth.json")
    pixels = {"coordinates": "resized", "resize_factor": 28, "min_pixels": 1}
    calls = [
        ("limit", partial(pseudoris.annotate, out, new, "tiny", limit=number)),
        ("sample", partial(pseudoris.verify, out, sample=number)),
        ("sample", partial(pseudoris.evaluate, out, truth, sample=number)),
        ("tau", partial(pseudoris.refilter, out, new, tau=number)),
        ("--exclude-distance", partial(pseudoris.export, out, new, exclude_distance=number)),
        ("--target-mb", partial(pseudoris.export, out, new, target_mb=number)),
        ("--max-tokens", partial(pseudoris.export, out, new, "refer", max_tokens=number)),
        ("--max-pixels", partial(pseudoris.export, out, new, "qwen", **pixels, max_pixels=number)),
    ]
    for name, call in calls:
        told = f"^{name} {shown} is not possible: give a (whole|finite) number from "
        if (name, number) != ("tau", 10**23):
            with pytest.raises(ConfigError, match=told):
                call()
    assert not new.exists()
    pseudoris.verify(out, sample=np.int64(1))


def test_a_large_number_that_means_something_is_taken(out, tmp_path):
    pseudoris.refilter(out, tmp_path / "none", tau=1e30)
    assert pseudoris.open_run(tmp_path / "none").header.config.filtering.tau == 1e30
    with pytest.raises(ConfigError, match="no_images"):  # as without a limit
        pseudoris.annotate(tmp_path / "no_images", tmp_path / "all", "tiny", limit=sys.maxsize)


def test_evaluate_takes_a_truth_by_name_or_as_an_object(tmp_path):
    known = scenes(2)
    out = str(tmp_path / "run")
    scene_run(RunLocation.open(out), known, source=str(tmp_path / "images"))
    (tmp_path / "truth.json").write_bytes(truth_bytes(known))
    by_name = pseudoris.evaluate(out, "synthworld")
    assert by_name.images.judged == 2
    as_object = SceneTruth.from_json(truth_bytes(known), "truth.json")
    assert pseudoris.evaluate(out, as_object).images == by_name.images


def test_a_run_that_is_not_there_is_a_config_error(tmp_path):
    for call in (pseudoris.open_run, pseudoris.verify):
        with pytest.raises(pseudoris.ConfigError, match="no run"):
            call(str(tmp_path / "none"))


@pytest.mark.parametrize("place", [Path, str])
def test_each_place_is_a_path_or_a_text(place, out, tmp_path):
    out, folder = place(out), place(tmp_path)
    assert pseudoris.verify(out).is_clean
    assert len(pseudoris.open_run(out, source=folder)) > 0
    assert pseudoris.refilter(out, place(tmp_path / "new"), tau=1.2).totals.kept > 0
    names = tmp_path / "names.txt"
    names.write_text("nothing-of-it.jpg\n", "utf-8")
    assert pseudoris.export(out, place(tmp_path / "tables"), source=folder, exclude=place(names)).rows
    spec = pseudoris.SampleSpec(parts=("mask", "text"), source=folder, exclude=[place(names)])
    assert spec.exclude
    assert len(pseudoris.RisDataset(out, spec)) > 0
    assert next(iter(pseudoris.RisIterableDataset(out, spec)))
    latest = pseudoris.Snapshot.take(out)
    assert pseudoris.Snapshot.of_receipts(out).digest == latest.digest
    assert pseudoris.HumanAnnotation(place(names), place(names)).refs == str(names)


@pytest.mark.parametrize(
    "call",
    [
        lambda given: pseudoris.annotate(given, "out"),
        lambda given: pseudoris.annotate("in", "out", "tiny", exclude=given),
        lambda given: pseudoris.annotate("in", "out", "tiny", only=[given]),
        pseudoris.open_run,
        pseudoris.verify,
        lambda given: pseudoris.refilter("in", given),
        lambda given: pseudoris.export("out", given),
        lambda given: pseudoris.evaluate(given, "synthworld"),
        pseudoris.RisDataset,
        pseudoris.RisIterableDataset,
        *(pseudoris.Snapshot.shared, pseudoris.Snapshot.take, lambda given: pseudoris.Snapshot.of_manifest(given, 1)),
        lambda given: pseudoris.annotate("in", "out", given),
        lambda given: pseudoris.SampleSpec(exclude=given),
    ],
)
@pytest.mark.parametrize("given", [np.zeros((2, 2, 3), np.uint8), Image.new("RGB", (2, 2)), b"out"])
def test_pixels_in_place_of_a_path_are_refused_in_a_sentence_that_names_the_way(call, given):
    with pytest.raises(pseudoris.ConfigError, match=r"takes a path or a url, not a .*: save images as files"):
        call(given)


def test_the_path_of_a_settings_file_is_read_as_config(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("preset: tiny\nfiltering:\n  tow: 1.2\n", encoding="utf-8")
    with pytest.raises(pseudoris.ConfigError, match="tow"):
        pseudoris.annotate(tmp_path / "in", tmp_path / "out", file)


def test_a_url_that_pathlib_has_cut_is_refused():
    with pytest.raises(pseudoris.ConfigError, match=r"out is .*, a url that lost a slash in pathlib: give it"):
        pseudoris.open_run(Path("s3://bucket/run"))


def test_a_slice_is_refused_with_what_to_write(out):
    dataset = pseudoris.RisDataset(out, pseudoris.SampleSpec(parts=("mask", "text")))
    for name, each in (("run", pseudoris.open_run(out)), ("dataset", dataset)):
        told = rf"{name}\[…\] takes a whole number, not a slice: for several, write \[{name}\[i\] for i in range"
        with pytest.raises(pseudoris.ConfigError, match=told):
            each[0:2]
