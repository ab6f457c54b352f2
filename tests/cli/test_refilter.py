"""`pseudoris refilter` as a user meets it."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest
import yaml

from evidence.recipes.scene_shards import scene_image
from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.draw_files import draw_kind
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import for_any_captioner
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from tests.builders.audits import drawn_audit, judge
from tests.builders.command import invoke
from tests.builders.fitted import fitted
from tests.builders.images import encode
from tests.builders.plain_runs import work_off
from tests.builders.scene_runs import scene_run, scenes, scored
from tests.builders.scored_runs import scored_run


def judged(location, folder, verdict=lambda row: "right", **options):
    """Draw an audit of a run whose pairs one rater judges, each as `verdict` of its row says."""
    return judge(drawn_audit(location, folder, **options), verdict)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("refilter") / "a run é"
    scored_run(RunLocation.open(str(out)))
    return out


@pytest.mark.slow
def test_a_new_run_is_written_and_summed_up(out, tmp_path):
    new = tmp_path / "new"
    words = ("--tau", "1.2", "--keep", "correctness > 0.3", "--keep", "count >= 2")
    result = invoke("refilter", out, new, *words)
    kept = sum(OpenRun.at(RunLocation.open(str(new))).table("expressions")["kept"].to_pylist())
    assert "distinctiveness > 1.2 and correctness > 0.3 and count >= 2" in result.output
    assert f"{kept:,} of " in result.output
    assert invoke("verify", new)
    assert invoke("status", new)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tau", "1.0"], "give another --tau, --keep, --lone-masks, --weights or --set"),
        ([], "give another --tau, --keep, --lone-masks, --weights or --set"),
        (["--keep", "position > 0.9"], " has no position: 'position > 0.9' would keep all. Bound uniqueness,"),
        (["--set", "captions.min_length=4"], "--set captions: refilter changes composing alone"),
        (["--keep", "kept > 1"], "--keep: 'kept > 1' is not a condition such as 'correctness > 0.2'"),
        (["--keep", "corectness > 0.2"], "such as 'correctness > 0.2': did you mean correctness?"),
        (["--keep", "count > many"], "--keep: Input should be a valid number"),
        (["--keep", "count > 1", "--keep", "none"], "--keep: 'none' is not a condition"),
        (["--keep", "confidence > 0.9"], " has no confidence: 'confidence > 0.9' would keep all. Bound uniqueness,"),
        (["--keep", "listener > 0"], "has no listener: 'listener > 0' would keep all. Bound uniqueness,"),
    ],
)
def test_mistakes_say_what_is_allowed(out, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        invoke("refilter", out, tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()


def test_a_bound_on_a_kind_leaves_those_on_scores_and_needs_the_kind_in_the_new_run(tmp_path):
    out = str(tmp_path / "out")
    composing = "composing={kinds: [position, group]}"
    scored_run(RunLocation.open(out), composing, "filtering.keep=['correctness > 1']", num_shards=1)
    invoke("refilter", out, tmp_path / "surer", "--keep", "position > 0.95")
    keep = require_header(RunLocation.open(str(tmp_path / "surer"))).config.filtering.keep
    assert {*map(str, keep)} == {"correctness > 1", "position > 0.95"}
    invoke("refilter", tmp_path / "surer", tmp_path / "drawn", "--keep", "correctness > 0.3")
    keep = require_header(RunLocation.open(str(tmp_path / "drawn"))).config.filtering.keep
    assert {*map(str, keep)} == {"position > 0.95", "correctness > 0.3"}
    for other in ("composing.kinds=[position]", "composing=null"):
        with pytest.raises(ConfigError, match=r" has no group: 'group > 0\.9' would keep all"):
            invoke("refilter", out, tmp_path / "other", "--keep", "group > 0.9", "--set", other)


def test_an_accuracy_needs_an_audit_of_the_run_and_chooses_a_rule_that_is_shown_to_reach_it(tmp_path):
    out = str(tmp_path / "out")
    location = RunLocation.open(out)
    scored_run(location, "filtering.tau=1.4", num_shards=8)

    def verdict(row) -> str:
        return "right" if row["distinctiveness"] is None or row["distinctiveness"] > 1.0 else "untrue"

    audit = judged(location, tmp_path / "audit", verdict, num_pairs=5_000)
    words = ["--accuracy", "0.8", "--audit", str(audit.path)]
    printed = invoke("refilter", out, tmp_path / "new", *words)
    assert "not shown" in printed.output
    tau = require_header(RunLocation.open(str(tmp_path / "new"))).config.filtering.tau
    assert 0.5 < tau < 1.1
    card = (tmp_path / "new" / "DATACARD.md").read_text()
    assert "## Accuracy, judged by people" in card
    assert audit.draw.digest in card
    assert invoke("verify", tmp_path / "new")
    unheard = RunLocation.open(str(tmp_path / "unheard"))
    scored_run(unheard, "filtering.keep=['grounding_share > 0.3']")
    judged(unheard, tmp_path / "its audit", verdict, num_pairs=9)
    with pytest.raises(ConfigError, match="an audit does not hold grounding_share: refilter without the condition"):
        invoke("refilter", unheard.root, tmp_path / "other", *words[:3], tmp_path / "its audit")
    with pytest.raises(ConfigError, match="need each other"):
        invoke("refilter", out, tmp_path / "other", *words[:2])
    with pytest.raises(ConfigError, match="compose others: refilter with these first, then draw and judge an audit"):
        invoke("refilter", out, tmp_path / "other", *words, "--set", "composing={}")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError, match="leave --tau, --keep and --lone-masks out"):
        invoke("refilter", out, tmp_path / "other", *words, "--tau", "1")
    # All of the run was judged, and of what is surest all is right.
    assert "1.000" in invoke("refilter", out, tmp_path / "sure", "--accuracy", "0.999", *words[2:]).output
    small = tmp_path / "small"
    judged(location, small, num_pairs=40)
    with pytest.raises(ConfigError, match=r"no rule is shown to reach an accuracy of 0.999.*: draw a larger audit"):
        invoke("refilter", out, tmp_path / "other", "--accuracy", "0.999", "--audit", small)


def composed_beside_unscored(image, step=0.01):
    """Return an image whose drawn captions have no distinctiveness, and a composed expression of each mask."""
    drawn = tuple(replace(each, uniqueness=None, distinctiveness=None) for each in image.expressions)
    of_mask = {each.target_mask_ids: each for each in drawn}.values()
    facts = {"kind": "position", "source": "composer", "kept": True, "samples": ()}
    said = (
        replace(each, text=f"{each.text} on the left", confidence=0.9 + at * step, **facts)
        for at, each in enumerate(of_mask)
    )
    return replace(image, expressions=(*drawn, *said))


@pytest.mark.parametrize("step", [0.01, 0])
def test_an_accuracy_is_reached_by_what_is_composed_where_nothing_drawn_can_be_bounded(tmp_path, step):
    location, folder = RunLocation.open(str(tmp_path / "out")), tmp_path / "audit"
    config = load_config("tiny", None, ["composing={}"])
    scene_run(location, scenes(8), change=partial(composed_beside_unscored, step=step), config=config)
    write_manifest(location)
    judged(location, folder, num_pairs=5_000)
    printed = invoke("refilter", location.root, tmp_path / "new", "--accuracy", "0.8", "--audit", folder).output
    assert "Nothing drawn is kept: no pair of the audit has a distinctiveness to bound" in printed
    rows = OpenRun.at(RunLocation.open(str(tmp_path / "new"))).table("expressions").to_pylist()
    assert {row["source"] for row in rows if row["kept"]} == {"composer"}
    assert "chosen no drawn caption; position > " in printed


def composed_beside_unkept(image):
    """Return an image of which no drawn caption is kept, with a composed position of each mask and five absences."""
    drawn = tuple(replace(each, kept=False) for each in scored(image).expressions)
    facts = {"source": "composer", "kept": True, "samples": (), "uniqueness": None, "distinctiveness": None}
    facts |= {"correctness": None}
    of_mask = {each.target_mask_ids: each for each in drawn}.values()
    said = [
        replace(each, text=f"{each.text} on the left", kind="position", confidence=0.9, **facts) for each in of_mask
    ]
    none = replace(drawn[0], target_mask_ids=(), kind="none", confidence=0.95, rival_mask_id=None, **facts)
    return replace(image, expressions=(*drawn, *said, *(replace(none, text=f"the pen {at}") for at in range(5))))


def test_what_a_composed_run_does_not_keep_is_not_searched_and_the_nearest_search_is_told_of(tmp_path):
    location = RunLocation.open(str(tmp_path / "out"))
    config = load_config("tiny", None, ["composing={kinds: [position, none]}", "filtering.keep=['correctness > 1']"])
    scene_run(location, scenes(12), change=composed_beside_unkept, config=config)
    write_manifest(location)
    audit = drawn_audit(location, tmp_path / "audit", num_pairs=80, unkept_share=1 / 3)
    judge(audit, lambda row: "right" if row["mask_ids"] or row["position"] % 4 else "untrue")
    words = ("refilter", location.root, tmp_path / "new", "--audit", audit.path, "--accuracy")
    with pytest.raises(ConfigError, match=r"no rule is shown to reach an accuracy of 0\.99.* there are 4\d: draw a"):
        invoke(*words, "0.99")
    printed = invoke(*words, "0.8").output
    assert not re.search(r"^distinctiveness", printed, re.MULTILINE)
    assert re.search(r"^position > ", printed, re.MULTILINE)
    rows = OpenRun.at(RunLocation.open(str(tmp_path / "new"))).table("expressions").to_pylist()
    assert {row["source"] for row in rows if row["kept"]} == {"composer"}


def expressions(run):
    return {file.name: file.read_bytes() for file in (run / "expressions").iterdir()}


@pytest.mark.slow
def test_another_bound_or_posterior_composes_anew_and_the_old_ones_give_the_bytes_of_annotate(tiny_run, tmp_path):
    (out,) = tiny_run.out.parent.glob("tiny-composed-*")
    header = require_header(RunLocation.open(str(out)))
    annotated = header.config.filtering.fitted_values
    file = tmp_path / "fitted.yaml"
    unsure = annotated.posterior.model_copy(update={"unseen": 0.5})
    file.write_text(yaml.safe_dump({"confidence": annotated.confidence.model_dump(), "posterior": unsure.model_dump()}))
    invoke("refilter", out, tmp_path / "fewer", "--set", "composing.min_further=0.95", "--weights", file)
    fewer = OpenRun.at(RunLocation.open(str(tmp_path / "fewer"))).table("expressions").to_pylist()
    composed = [row["confidence"] for row in fewer if row["source"] == "composer" and row["kind"] == "none"]
    assert 0.95 < min(composed) < 0.97
    assert invoke("verify", tmp_path / "fewer")
    file.write_text(
        yaml.safe_dump({"confidence": annotated.confidence.model_dump(), "posterior": annotated.posterior.model_dump()})
    )
    back = ["--set", "composing.min_further=0.9", "--weights", file]
    invoke("refilter", tmp_path / "fewer", tmp_path / "back", *back)
    assert expressions(tmp_path / "back") == expressions(out)
    assert expressions(tmp_path / "fewer") != expressions(out)


@pytest.mark.slow
def test_colours_are_stored_so_that_refilter_composes_what_annotate_does(tmp_path):
    source = tmp_path / "images"
    source.mkdir()
    for name, scene in scenes(3).items():
        (source / name).write_bytes(encode(render(scene).image))

    def annotated(name, *settings):
        composing = ["composing={kinds: [attribute, position, none], min_first: 0.1}", *settings]
        work_off(source, tmp_path / name, load_config("tiny", None, composing))
        return tmp_path / name

    seen = annotated("seen", "composing.has_colours=true")
    more = annotated("more", "composing.has_colours=true", "composing.min_further=0.4")
    blind = annotated("blind")
    table = OpenRun.at(RunLocation.open(str(seen))).table("masks")["colours"].to_pylist()
    assert table
    assert all(len(each) == 11 and max(each) > 0.5 for each in table)
    assert OpenRun.at(RunLocation.open(str(blind))).table("masks")["colours"].null_count == len(table)
    invoke("refilter", seen, tmp_path / "new", "--set", "composing.min_further=0.4")
    assert expressions(tmp_path / "new") == expressions(more) != expressions(seen)
    invoke("refilter", seen, tmp_path / "unread", "--set", "composing.has_colours=false")
    assert expressions(tmp_path / "unread") == expressions(blind) != expressions(seen)
    with pytest.raises(ConfigError, match=r"has_colours reads colours that .*blind did not measure: .* annotate"):
        invoke("refilter", blind, tmp_path / "late", "--set", "composing.has_colours=true")


@pytest.mark.slow
def test_an_audit_bounds_each_kind_and_fits_the_weights_and_refuses_another_runs(tiny_run, tmp_path):
    (out,) = tiny_run.out.parent.glob("tiny-composed-*")
    invoke("audit", "draw", out, tmp_path / "audit", "-n", 600, "--unkept", 0, "--source", tiny_run.source)
    audit = AuditFolder.open(tmp_path / "audit")
    pairs = audit.pairs.filter(audit.pairs["is_kept"]).to_pylist()
    assert {"drawn", "position", "none"} < {draw_kind(row["source"], row["kind"]) for row in pairs}
    with pytest.raises(ConfigError, match=r"too few verdicts .* a line needs 60 of one"):
        invoke("calibrate", out, "--audit", audit.path)

    def verdict(row):
        return "untrue" if row["source"] == "composer" and row["confidence"] <= 0.94 else "right"

    judge(audit, lambda row: verdict(row) if row["is_kept"] else None)
    printed = invoke("refilter", out, tmp_path / "new", "--accuracy", "0.95", "--audit", audit.path).output
    kept = OpenRun.at(RunLocation.open(str(tmp_path / "new"))).table("expressions").to_pylist()
    composed = [row for row in kept if row["source"] == "composer"]
    keep = require_header(RunLocation.open(str(tmp_path / "new"))).config.filtering.keep
    bounds = {each.column: each.bound for each in keep}
    assert all(row["kept"] == (row["confidence"] > bounds[row["kind"]]) for row in composed)
    assert not all(row["kept"] for row in composed)
    assert f"position > {bounds['position']}" in printed
    assert invoke("verify", tmp_path / "new")
    invoke("calibrate", out, "--audit", audit.path, "--to", tmp_path / "fitted.yaml")
    words = ["--accuracy", "0.95", "--audit", audit.path]
    invoke("refilter", out, tmp_path / "weighed", *words, "--weights", tmp_path / "fitted.yaml")
    with pytest.raises(ConfigError, match="compose others: refilter with these first"):
        invoke("refilter", out, tmp_path / "none", *words, "--set", "composing=null")
    weighed = require_header(RunLocation.open(str(tmp_path / "weighed"))).config.filtering.fitted_values
    assert weighed.pair_weight.composed.bias < 0
    scored_run(RunLocation.open(str(tmp_path / "other")))
    with pytest.raises(ConfigError, match=r"has none of the .* pairs of the audit .*drawn from .*tiny-composed"):
        invoke("calibrate", tmp_path / "other", "--audit", audit.path)


def test_weights_come_from_a_file_that_was_fitted_with_the_runs_confidence(tmp_path):
    out, file = tmp_path / "out", tmp_path / "weights.yaml"
    scored_run(RunLocation.open(str(out)), fitted(confidence={"correctness": 2.0}))
    file.write_text("{confidence: {correctness: 2.0}, pair_weight: {drawn: {bias: 1.5, slope: 0.5}}}")
    invoke("refilter", out, tmp_path / "new", "--weights", file)
    # The new run holds the values, and needs the file no more.
    file.unlink()
    found = require_header(RunLocation.open(str(tmp_path / "new"))).config.filtering.fitted_values
    assert found.pair_weight.drawn.bias == 1.5


ANY_CAPTIONER = yaml.safe_dump({"posterior": for_any_captioner(is_heard=False)["values"]["posterior"]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{confidence: {vote: 1.0}}", "holds no pair_weight"),
        ("{confidence: {vote: 1.0}, pair_weight: {drawn: {}}}", "another confidence than"),
        ("{pair_weight: {drawn: {}}}", "pair_weight.drawn needs the weights of confidence"),
        (ANY_CAPTIONER, "composes nothing: add --set composing="),
        (f"models: {{filter: {'a' * 64}}}\n{ANY_CAPTIONER}", "other models .*Fit it anew: pseudoris calibrate "),
    ],
)
def test_weights_that_do_not_belong_to_the_run_are_refused(out, tmp_path, text, message):
    (tmp_path / "weights.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        invoke("refilter", out, tmp_path / "new", "--weights", tmp_path / "weights.yaml")


@pytest.mark.slow
@pytest.mark.long
def test_what_tells_of_things_without_a_mask_is_stored_and_composes_the_same_again(tmp_path):
    source, location = tmp_path / "in", RunLocation.open(str(tmp_path / "out"))
    source.mkdir()
    for number in range(3):
        image = scene_image(make_scene(Split.DEMO, number))
        (source / f"{number}.png").write_bytes(image.data)
    asks = ["captions.whole_picture=3", "composing.has_too_small=true"]
    words = ["masks.reduction.min_area=0.03", "filtering.fitted.uri=builtin:kinds-draws.fitted.yaml"]
    work_off(source, location.root, load_config("tiny-composed", None, [*words, *asks]))
    rows = OpenRun.at(location).table("images").to_pylist()
    assert [len(row["whole_picture"]) for row in rows] == [3, 3, 3]
    assert max(row["num_too_small"] for row in rows) > 0
    for new, before, further in (("fewer", "out", 0.97), ("back", "fewer", 0.9)):
        invoke("refilter", tmp_path / before, tmp_path / new, "--set", f"composing.min_further={further}")
    assert expressions(tmp_path / "back") == expressions(tmp_path / "out") != expressions(tmp_path / "fewer")
    # Unset, both are null and no header has them.
    header = work_off(source, tmp_path / "unasked", load_config("tiny-composed", None, words))
    rows = OpenRun.at(RunLocation.open(str(tmp_path / "unasked"))).table("images").to_pylist()
    assert {(row["whole_picture"], row["num_too_small"]) for row in rows} == {(None, None)}
    method = header.identity.method
    assert "whole_picture" not in method["captions"]
    assert "has_too_small" not in method["composing"]
