"""`pseudoris evaluate` as a user meets it, on a disk and in a bucket."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pseudoris.cli.evaluate import fitted_text
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.fitted import FittedValues, PairWeightConfig, WeightLine
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.command import invoke
from tests.builders.human import write_small_refer
from tests.builders.imports import import_small
from tests.builders.scene_runs import quarantined, scene_run, scenes, scored, truth_bytes

KNOWN = scenes(5)
FITTED = ("captions.listening={}", "filtering.fitted.uri=builtin:tiny-listener.fitted.yaml")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A run over the images of `demo/images`, and their truth beside them; one image is broken."""
    folder = tmp_path_factory.mktemp("evaluate") / "demo"
    run = RunLocation.open(str(folder / "run"))
    change = {"scene-004.png": quarantined}
    known = dict(list(KNOWN.items())[:4])
    scene_run(run, KNOWN, source=str(folder / "images"), change=lambda i: change.get(i.key, lambda same: same)(i))
    (folder / "truth.json").write_bytes(truth_bytes(known, **{"scene-004.png": None}))
    return folder


def evaluated(*words: object, columns: int = 160) -> str:
    return invoke("evaluate", *words, columns=columns).stdout


def test_every_figure_is_shown(demo):
    shown = evaluated(demo / "run", "--truth", "synthworld")
    for words in (
        *("4 judged, of 5 planned and 4 in the truth", "1 images of the run", str(demo / "truth.json")),
        *("referring accuracy", "… on objects", "yield per mask", "distinct per mask", "attribute precision"),
        *("attribute recall", "coverage", "beam", "top-k", "top-p", "sampling", "all", "kept"),
        *("kept − all", "sampling − beam", "recall at IoU 0.75", "mean IoU", "masks per object"),
        *("no other object of its category", "held out of training", "2,000 resamples of images"),
    ):
        assert words in shown


def test_it_fits_a_terminal_of_eighty_columns(demo):
    lines = evaluated(demo / "run", "--truth", "synthworld", columns=80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line for line in lines if "…" in line and "on objects" not in line] == [], "nothing is cut off"


def test_json_is_one_object_and_the_report_is_written(demo, tmp_path):
    tree = json.loads(evaluated(demo / "run", "--truth", "synthworld", "--json", "--report", tmp_path / "report"))
    assert tree["images"]["judged"] == 4
    assert 0 <= tree["sets"]["kept"]["accuracy"]["low"] <= tree["sets"]["kept"]["accuracy"]["value"] <= 1
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        f"evaluation.{e}" for e in ("html", "json", "md")
    }
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text()) == tree


def test_a_run_with_the_masks_of_its_truth_says_so_before_any_figure(tmp_path):
    human = RunLocation.open(str(tmp_path / "human"))
    import_small(write_small_refer(tmp_path)[0], tmp_path / "images", human)
    report = tmp_path / "report"
    tree = json.loads(evaluated(human.root, "--truth", human.root, "--json", "--report", report))
    (note,) = tree["circularity"]
    assert re.fullmatch(r"Circular: (\d+) masks of the run are masks of the truth, pixel for pixel\. The .*", note)
    assert note.startswith(f"Circular: {tree['masks']} ")
    assert next(iter(tree)) == "circularity"
    assert evaluated(human.root, "--truth", human.root).startswith(note)
    assert (report / "evaluation.md").read_text().startswith(f"# Evaluation\n\n{note}\n")
    page = (report / "evaluation.html").read_text()
    assert page.index(note) < page.index('<dl class="facts">')


@pytest.mark.parametrize(("settings", "is_fitted"), [((), False), (FITTED, True)])
def test_a_confidence_that_was_fitted_is_told_as_unknown(tmp_path, settings, is_fitted):
    run = RunLocation.open(str(tmp_path / "run"))
    scene_run(run, scenes(3), config=load_config("tiny", None, settings))
    (tmp_path / "truth.json").write_bytes(truth_bytes(scenes(3)))
    tree = json.loads(evaluated(run.root, "--truth", f"synthworld:{tmp_path}/truth.json", "--json"))
    assert [note.split(":")[0] for note in tree["circularity"]] == ["Not proven clean"] * is_fitted


def test_a_report_into_the_runs_own_folder_is_refused_before_anything_is_read(demo):
    with pytest.raises(ConfigError, match=r"masks' is inside the run\. Choose a folder outside it"):
        evaluated(demo / "run", "--truth", "none", "--report", demo / "run" / "masks")


@pytest.mark.slow
def test_run_truth_and_report_may_lie_in_a_bucket(s3_server, s3_bucket, monkeypatch, demo):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    client = s3_server.client()
    root = f"s3://{s3_bucket}/demo"
    scene_run(RunLocation.open(f"{root}/run"), dict(list(KNOWN.items())[:4]), source=f"{root}/images")
    client.put_object(Bucket=s3_bucket, Key="demo/truth.json", Body=Path(demo / "truth.json").read_bytes())
    tree = json.loads(evaluated(f"{root}/run", "--truth", "synthworld", "--json", "--report", f"{root}/report"))
    assert tree["images"]["judged"] == 4
    assert client.head_object(Bucket=s3_bucket, Key="demo/report/evaluation.html")["ContentLength"] > 5_000


KNOWN_CALIBRATE = scenes(8)


@pytest.fixture(scope="module")
def demo_calibrate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate") / "demo"
    config = load_config("tiny", None, ['filtering.keep=["position > 0.9"]'])
    scene_run(
        RunLocation.open(str(folder / "run")),
        KNOWN_CALIBRATE,
        source=str(folder / "images"),
        change=scored,
        config=config,
        config_sha256=config_hash(config),
    )
    (folder / "truth.json").write_bytes(truth_bytes(dict(KNOWN_CALIBRATE)))
    return folder


@pytest.mark.parametrize("truth", [(), ("--truth", "synthworld", "--coverage", 0.1)])
def test_the_settings_are_laid_over_a_preset_and_name_what_was_fitted(demo_calibrate, tmp_path, truth):
    file, fitted = tmp_path / "mine.yaml", tmp_path / "mine.fitted.yaml"
    found = invoke("calibrate", demo_calibrate / "run", *truth, "--yield", 1, "--to", fitted)
    file.write_text(found.stdout)
    config = load_config("tiny", file, ["captions.listening={}", "composing={}"])
    assert config.filtering.fitted.sha256 == sha256_hex(fitted.read_bytes())
    # A run without a composer has its preset's posterior all the same.
    assert config.filtering.fitted_values.posterior == load_config("tiny").filtering.fitted_values.posterior
    assert config.filtering.fitted_values.confidence is not None
    assert config.filtering.fitted_values.confidence.needs_listener
    assert config.filtering.tau == 0.0
    assert config.filtering.keep[0].column == "confidence"
    # The run's bound on composed expressions stays, because the figures count those that it kept.
    assert "position > 0.9" in map(str, config.filtering.keep)
    assert ("; accuracy" in found.output) == bool(truth)
    lines = config.filtering.fitted_values.pair_weight
    assert (lines is not None and lines.drawn is not None and lines.composed is None) == bool(truth)
    assert "on these 8 images, it keeps" in found.output
    shown = invoke("calibrate", demo_calibrate / "run", *truth, "--yield", 1).stdout
    assert fitted.read_text() in shown
    assert "uri: FILE" in shown


def with_nouns(image):
    named = (replace(each, head_noun=head_noun(each.text)) for each in scored(image).expressions)
    return replace(image, expressions=tuple(named))


def test_weights_for_any_captioner_get_a_runs_units_and_it_is_composed_anew_with_them(tmp_path):
    config = load_config("tiny", None, ["filtering.fitted=null"])
    scene_run(run := RunLocation.open(str(tmp_path / "run")), KNOWN_CALIBRATE, change=with_nouns, config=config)
    write_manifest(run)
    file, new = tmp_path / "units.yaml", tmp_path / "new"
    invoke("calibrate", tmp_path / "run", "--composer", "--to", file)
    found = load_config("tiny", None, [f"filtering.fitted.uri={file}"]).filtering.fitted_values
    shipped = load_config("base", None, ["composing={}"]).filtering.fitted_values.posterior
    assert found.posterior.noun_share == shipped.noun_share
    assert found.posterior.noun_correctness != shipped.noun_correctness
    invoke(
        "refilter", tmp_path / "run", new, "--weights", file, "--set", "composing={min_first: 0.1, min_further: 0.1}"
    )
    sources = OpenRun.at(RunLocation.open(str(new))).table("expressions", ["source"])["source"].to_pylist()
    assert {"model", "composer"} <= set(sources)


def test_an_audits_line_stays_unless_the_weights_that_it_was_fitted_to_are_corrected(tmp_path):
    scene_run(run := RunLocation.open(str(tmp_path / "run")), KNOWN_CALIBRATE, change=scored)
    identity = require_header(run).identity.model_copy(update={"weights": {"caption": "b" * 64, "filter": "c" * 64}})
    header = require_header(run).model_copy(update={"identity": identity})
    file, new = tmp_path / "audit.yaml", tmp_path / "new.yaml"
    shipped, labelled = (load_config(each, None, ["composing={}"]).filtering.fitted_values for each in ("base", "tiny"))
    lines, posterior = PairWeightConfig(composed=WeightLine(bias=1.0)), shipped.posterior
    # Corrected, it stays when it is asked for again.
    for number, is_learnt in enumerate((True, False, False)):
        file.write_text(fitted_text(header, FittedValues(pair_weight=lines, posterior=posterior)))
        config, out = load_config("tiny", None, [f"filtering.fitted.uri={file}"]), tmp_path / f"run-{number}"
        scene_run(RunLocation.open(str(out)), KNOWN_CALIBRATE, change=scored, config=config, identity=identity)
        printed = invoke("calibrate", out, "--composer", "--to", new).output
        found = load_config("tiny", None, [f"filtering.fitted.uri={new}"]).filtering.fitted_values
        assert (found.posterior != posterior, found.pair_weight != lines) == (is_learnt, is_learnt)
        assert ("The composer's weights stay as in OUT" in printed) != is_learnt
        assert ("The line of composed weights is left out" in printed) == is_learnt
        assert "is not finished" not in printed
        posterior = found.posterior if is_learnt else labelled.posterior


def test_the_composers_weights_say_of_how_many_images_of_an_unfinished_run_they_are(tmp_path):
    scene_run(RunLocation.open(str(tmp_path / "run")), KNOWN_CALIBRATE, change=with_nouns, committed=[0, 1])
    printed = invoke("calibrate", tmp_path / "run", "--composer").output
    assert "is not finished: it holds 4 of 8 images" in printed
