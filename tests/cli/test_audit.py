"""`pseudoris audit`: what it prints and what it refuses; the figures are tested in tests/audit."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.files.location import RunLocation
from pseudoris.interchange.brush_strokes import brush_strokes
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.reports.data_card import CARD_NAME, CITATION_NAME, write_datacard
from pseudoris.store.runs.lock import LOCK_FOLDER, LockTimes, RunLock
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from tests.builders.audits import judge, small_audit
from tests.builders.command import invoke, pseudoris_here
from tests.builders.scored_runs import begin, commit_scored, scored_run
from tests.builders.studio import read_tasks, submitted, write_project
from tests.interchange.exports.builders import build_run


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    scored_run(RunLocation.open(str(folder)))
    return str(folder)


def ran(*words, columns=120):
    return invoke("audit", *words, columns=columns).output


def judged(out, folder, *words, file_in=None, verdict=lambda row: "right"):
    """Return a new audit of a run, its pairs judged by ana, and what drawing it printed."""
    drawn = ran("draw", out, folder, *(words or ("-n", 60)), columns=400)
    audit = AuditFolder.open(folder)
    judge(audit, verdict, folder=file_in)
    return audit, drawn


def test_draw_says_which_questions_it_will_answer_how_precisely(out, tmp_path):
    printed = ran("draw", out, tmp_path / "audit", "-n", 60)
    for question in ("accuracy of the kept", "missed objects an image", "masks with a right expression"):
        assert question in printed
    audit = AuditFolder.open(tmp_path / "audit")
    assert audit.draw.run.location == out
    # Without a verdict there is no figure to show: what to do first is said instead.
    printed = ran("report", tmp_path / "audit")
    assert all(words in printed for words in ("no verdict yet", "audit page", "audit add"))
    assert "accuracy of the kept" not in printed
    # Of masks not more are foretold than the run keeps something of.
    foretold = ran("draw", out, tmp_path / "all", "-n", 5_000)
    assert f" {audit.draw.population.masks_with_kept} masks of kept pairs" in foretold


def test_the_address_of_the_page_is_the_result(tmp_path):
    source = tmp_path / "photos"
    run = build_run(RunLocation.open(str(tmp_path / "run")), source=source)
    ran("draw", run.location.root, tmp_path / "audit", "-n", 60)
    shown = invoke("audit", "page", tmp_path / "audit", "--to", tmp_path / "page")
    assert shown.stdout.splitlines() == [f"page {tmp_path / 'page' / 'index.html'}"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_a_place_of_the_page_has_one_owner(kind, tmp_path, request, monkeypatch):
    audit, place = small_audit(tmp_path), str(tmp_path / "page")
    if kind == "s3":
        server = request.getfixturevalue("s3_server")
        place = f"s3://{server.new_bucket()}/page"
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
    words = ("audit", "page", str(audit.path), "--to", place)
    location = RunLocation.open(place)
    with RunLock.held(location, times=LockTimes(heartbeat_s=0.5)):
        said = pseudoris_here(*words, code=2).stderr
        assert re.search(rf"error process {os.getpid()} on .* is working on {re.escape(place)}", said)
        assert not location.exists("index.html")
    pseudoris_here(*words, code=0)
    assert location.exists("index.html")
    assert not list(location.list(LOCK_FOLDER))


def test_report_prints_figures_with_intervals_and_what_they_lack(out, tmp_path):
    audit, _ = judged(out, tmp_path / "audit", file_in=tmp_path / "elsewhere")
    ran("add", tmp_path / "audit", tmp_path / "elsewhere" / "verdicts" / "ana.jsonl")
    printed = ran("report", tmp_path / "audit", "--plot", tmp_path / "plot.svg", "--out-run", out)
    assert "60 of 60 pairs judged" in printed
    assert re.search(r"accuracy of the kept +1\.000 +0\.9\d\d to 1\.000", printed)
    assert "refilter" in printed.partition("\nnext\n")[2]
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    figures = json.loads(ran("report", tmp_path / "audit", "--json"))
    assert figures["accuracy"]["value"]["high"] == 1
    assert figures["raters"] == {"ana": audit.pairs.num_rows}


def test_the_runs_own_data_card_cites_an_audit_and_no_table_changes(tmp_path):
    out = RunLocation.open(str(tmp_path / "run"))
    header = begin(out)
    for shard in range(3):
        commit_scored(out, header, shard)
    write_datacard(out)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    audit, _ = judged(
        out.root, tmp_path / "audit", verdict=lambda row: "cannot_say" if row["position"] % 10 == 5 else "right"
    )
    assert "cited" in ran("report", tmp_path / "audit", "--cite")
    card = (tmp_path / "run" / CARD_NAME).read_text()
    assert "| right, of the kept | 1.000, 0.9" in card
    assert f"| digest of the draw | `{audit.draw.digest}` |" in card
    assert "undecided are wrong, or right" in card
    after = {path: path.read_bytes() for path in before}
    assert [path.name for path in before if before[path] != after[path]] == [CARD_NAME]
    # Whatever writes the card again keeps the citation, and says when the run is another one.
    write_datacard(out)
    assert "has changed since" not in (tmp_path / "run" / CARD_NAME).read_text()
    commit_scored(out, header, 3)
    write_datacard(out)
    assert "The run has changed since this audit was cited" in (tmp_path / "run" / CARD_NAME).read_text()
    with pytest.raises(ConfigError, match="has changed since the audit was drawn"):
        ran("report", tmp_path / "audit", "--cite")
    with pytest.raises(ConfigError, match="has other pairs than the drawn run"):
        ran("report", tmp_path / "audit", "--cite", "--out-run", out.root)
    assert verify_run(out).is_clean
    (tmp_path / "run" / CITATION_NAME).write_text("{}")
    with pytest.raises(ConfigError, match=r"is not the record of an audit. Delete the file, and cite the audit again"):
        write_datacard(out)


def test_what_a_refilter_keeps_of_strata_without_a_draw_is_told_and_not_cited(tmp_path):
    out = RunLocation.open(str(tmp_path / "run"))
    scored_run(out, "filtering.tau=1.3")
    audit, drawn = judged(out.root, tmp_path / "audit", "--unkept", 0, "-n", 20)
    left_out = int(re.search(r"No pair is drawn of not kept, score .*: (\d+) pairs that the audit says", drawn)[1])
    for name, tau in (("looser", 0.0), ("stricter", 1.5)):
        refilter(out, RunLocation.open(str(tmp_path / name)), RuleChange(tau=tau))
    looser = ran("report", audit.path, "--out-run", tmp_path / "looser", columns=400)
    assert f"may keep up to {left_out} pairs of these: its accuracy may be another. Draw another audit" in looser
    with pytest.raises(ConfigError, match=rf"looser may keep up to {left_out} pairs of strata that .* has no pair of"):
        ran("report", audit.path, "--out-run", tmp_path / "looser", "--cite")
    for words in ((), ("--out-run", tmp_path / "stricter")):
        printed = ran("report", audit.path, *words, "--cite", columns=400)
        assert "leave out the strata that no pair was drawn from: not kept, score" in printed
        assert "its accuracy may be another" not in printed
        assert "cited" in printed


def test_what_is_no_file_of_a_rater_is_named_with_the_remedy(out, tmp_path):
    verdicts = (
        judged(out, tmp_path / "audit", verdict=lambda row: None if row["position"] else "right")[0].path / "verdicts"
    )
    file = (verdicts / "ana.jsonl").rename(verdicts / "ana (1).jsonl")
    remedy = (
        r"verdicts/ana \(1\)\.jsonl does not have the name of a rater. Move it .*: `pseudoris audit add .*audit FILE`"
    )
    with pytest.raises(ConfigError, match=remedy):
        ran("report", tmp_path / "audit")
    assert "2 new lines of ana" in ran("add", tmp_path / "audit", file.rename(tmp_path / file.name), columns=400)
    (verdicts / "bob.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"verdicts/bob\.jsonl is a folder, not a file of verdicts"):
        ran("report", tmp_path / "audit")


@pytest.fixture
def studio(tmp_path):
    """An audit of a small run, and the run's tasks for Label Studio by image id."""
    audit = small_audit(tmp_path)
    invoke("export", tmp_path / "run", tmp_path / "tasks", "--format", "label-studio")
    named = {re.search(r"([0-9a-f]{16})\.", task["data"]["image"])[1]: task for task in read_tasks(tmp_path / "tasks")}
    return audit, named


def test_corrections_in_label_studio_are_verdicts_on_the_kept_pairs(studio, tmp_path):
    audit, tasks = studio
    reworded, redrawn, removed, skipped, *_ = sorted(tasks)

    def redraw(results) -> None:
        for each in [each for each in results if each["from_name"] == "mask"]:
            each["value"]["rle"] = brush_strokes(np.eye(each["original_height"], each["original_width"]) > 0)

    def reword(results) -> None:
        for each in results:
            each["value"].update({"text": ["something else"]} if each["from_name"] == "text" else {})

    changes = {reworded: reword, redrawn: redraw, removed: lambda results: results.clear()}
    project = {image: submitted(task, changes.get(image, lambda results: None)) for image, task in tasks.items()}
    project[skipped]["annotations"][0]["was_cancelled"] = True
    # A suffix in capitals is one too.
    file = write_project(tmp_path / "ana.JSON", list(project.values()))
    assert "lines of ana" in ran("add", audit.path, file)
    (answers,) = audit.answers()
    pairs = {pair["pair_id"]: pair for pair in audit.pairs.to_pylist() if pair["is_kept"]}
    assert answers.verdicts.keys() == pairs.keys()
    due = {reworded: "untrue", redrawn: "not_an_object", removed: "not_an_object", skipped: "cannot_say"}
    for pair, said in answers.verdicts.items():
        assert said.verdict == due.get(pairs[pair]["image_id"], "right"), said
        assert said.comment.startswith("Label Studio: ")
    figures = json.loads(ran("report", audit.path, "--json"))
    assert figures["accuracy"]["num_undecided"] == sum(
        pair["image_id"] == skipped and pair["role"] == "drawn" for pair in pairs.values()
    )
    # Pairs that are not kept were not shown, and stay open.
    assert all(name.startswith("not kept") for name in figures["unreached"])
    assert "0 new lines of ana" in ran("add", audit.path, file)


def test_a_later_export_of_the_same_person_replaces_the_earlier_as_the_message_says(studio, tmp_path):
    audit, tasks = studio
    project = [submitted(task) for task in tasks.values()]
    file = write_project(tmp_path / "bob.json", project)
    ran("add", audit.path, file)
    for task in project:
        task["annotations"][0]["was_cancelled"] = True
    write_project(file, project)
    verdicts = audit.path / "verdicts" / "bob.jsonl"
    told = re.escape(
        f"bob.json is a later export of the same person, move {verdicts} out of the audit, and add bob.json"
    )
    with pytest.raises(ConfigError, match=told):
        ran("add", audit.path, file)
    verdicts.rename(tmp_path / "earlier.jsonl")
    ran("add", audit.path, file)
    (answers,) = audit.answers()
    assert {each.verdict for each in answers.verdicts.values()} == {"cannot_say"}


def test_images_that_were_chosen_for_correction_do_not_stand_for_the_run(studio, tmp_path):
    audit, tasks = studio
    file = write_project(tmp_path / "ana.json", [submitted(task) for task in list(tasks.values())[:5]])
    with pytest.raises(ConfigError, match=r"no annotation of \d of the \d images with pairs.*Submit or skip"):
        ran("add", audit.path, file)
    with pytest.raises(ConfigError, match=r"'Ana 1' is not a rater's name\. Call the file by one"):
        ran("add", audit.path, file.rename(tmp_path / "Ana 1.json"))
    assert audit.answers() == []
