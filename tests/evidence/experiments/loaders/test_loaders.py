"""The record of other projects' loaders: what is counted as read, what the page shows of it, and what is skipped."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from evidence.experiments.loaders.__main__ import app
from evidence.experiments.loaders.record import PAGE, RECORD, read_record, read_trainers, table_of
from evidence.experiments.loaders.snapshots import MissingSnapshotError, root_of, take
from evidence.experiments.loaders.truth import Seen, figures_of
from pseudoris.files.location import RunLocation
from tests.interchange.exports.builders import build_run_of_several, true_expressions
from tests.store.builders import HEIGHT, WIDTH


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return build_run_of_several(RunLocation.open(str(tmp_path_factory.mktemp("run") / "out")))


@pytest.fixture
def seen(run) -> list[Seen]:
    """What a loader gives that loses nothing."""
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    return [
        Seen(each.image_id, each.text, each.union if each.masks else nothing, each.boxes)
        for each in true_expressions(run)
    ]


def test_the_page_shows_the_record_of_every_trainer() -> None:
    page, rows, trainers = PAGE.read_text(encoding="utf-8"), read_record(), read_trainers()
    assert table_of(rows) in page
    assert {name: (row["source"], row["command"]) for name, row in rows.items()} == {
        name: (each["code"], each["command"]) for name, each in trainers.items()
    }
    assert all(f"| {name} | " in page for name in trainers)


def test_no_row_of_the_record_is_given_wrongly() -> None:
    ran = [row["figures"] for row in read_record().values() if row["figures"]]
    assert ran
    assert not any(figures["wrong"] or figures["pixels_wrong"] for figures in ran)
    assert all(min(figures["tables"].values()) > 0 for figures in ran), "each kind is there"


def test_without_a_folder_it_says_that_nothing_runs_and_writes_the_page(tmp_path) -> None:
    record, page = tmp_path / "record.json", tmp_path / "page.md"
    record.write_bytes(RECORD.read_bytes())
    shown = PAGE.read_text(encoding="utf-8")
    page.write_text(shown.replace("| SAM 3 |", "| SAM |"), encoding="utf-8")
    done = CliRunner().invoke(app, ["--record", str(record), "--page", str(page)])
    assert (done.exit_code, done.output) == (0, "skipped: no loader runs without the FOLDER of their snapshots\n")
    assert record.read_bytes() == RECORD.read_bytes()
    assert page.read_text(encoding="utf-8") == shown


def test_an_unknown_trainer_is_refused(tmp_path) -> None:
    done = CliRunner().invoke(app, [str(tmp_path), "--only", "SAM 4", "--work", str(tmp_path / "work")])
    assert done.exit_code == 2
    assert "there is no trainer 'SAM 4'" in done.output
    assert not (tmp_path / "work").exists()


def test_all_that_is_given_as_it_is_counts_as_read(run, seen) -> None:
    found = figures_of(run.location, seen)
    assert found["read"] == found["tables"]
    assert min(found["tables"].values()) > 0
    assert (found["pixels_read"], found["pixels_wrong"], found["wrong"]) == (found["pixels"], 0, 0)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda each: replace(each, mask=np.roll(each.mask, 1)), id="another mask"),
        pytest.param(lambda each: replace(each, mask=each.mask.T), id="height and width exchanged"),
        pytest.param(lambda each: replace(each, boxes=[[x1 + 1, *rest] for x1, *rest in each.boxes]), id="another box"),
        pytest.param(lambda each: replace(each, boxes=each.boxes[1:]), id="a box less"),
        pytest.param(lambda each: replace(each, frame=(1000, 1000)), id="another frame"),
        pytest.param(lambda each: replace(each, text=f"{each.text}s"), id="another text"),
        pytest.param(lambda each: replace(each, image="another"), id="another image"),
        pytest.param(lambda each: replace(each, mask=None, boxes=None), id="nothing"),
    ],
)
def test_what_a_loader_changes_is_wrong_and_not_read(run, seen, changed) -> None:
    of_group = next(place for place, each in enumerate(seen) if len(each.boxes) > 1)
    seen[of_group] = changed(seen[of_group])
    found = figures_of(run.location, seen)
    assert (found["wrong"], found["tables"]["several"] - found["read"]["several"]) == (1, 1)


def test_pixels_are_counted_that_a_mask_has_too_many_and_lacks(run, seen) -> None:
    shrunk = seen[0].mask.copy()
    shrunk[tuple(np.argwhere(shrunk)[0])] = False
    shrunk[tuple(np.argwhere(~seen[0].mask)[0])] = True
    found = figures_of(run.location, [replace(seen[0], mask=shrunk), *seen[1:]])
    assert (found["pixels"] - found["pixels_read"], found["pixels_wrong"]) == (1, 2)


def test_an_expression_that_is_given_twice_is_wrong_once(run, seen) -> None:
    assert figures_of(run.location, [*seen, seen[0]])["wrong"] == 1


def test_boxes_are_compared_in_their_frame_and_need_no_mask(run, seen) -> None:
    height, width = seen[0].mask.shape
    scales = (1000 / width, 1000 / height) * 2
    scaled = [
        replace(
            each,
            mask=None,
            boxes=[[round(edge * scale) for edge, scale in zip(box, scales, strict=True)] for box in each.boxes],
            frame=(1000, 1000),
        )
        for each in seen
    ]
    found = figures_of(run.location, scaled)
    assert (found["read"], found["wrong"], found["pixels_wrong"]) == (found["tables"], 0, None)


def test_a_missing_snapshot_and_another_commit_are_named(tmp_path) -> None:
    with pytest.raises(MissingSnapshotError, match="has none of owner/name, not abc1234"):
        root_of(tmp_path, "owner/name abc1234")
    with pytest.raises(MissingSnapshotError, match=r"has none of no-such-package, not 1\.0"):
        root_of(tmp_path, "no-such-package 1.0")
    tree = tmp_path / "owner+name"
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b"]
    tree.mkdir()
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert root_of(tmp_path, f"owner/name {commit[:7]}") == tree
    with pytest.raises(MissingSnapshotError, match=f"has {commit.strip()} of owner/name, not abc1234"):
        root_of(tmp_path, "owner/name abc1234")


def test_functions_are_taken_out_of_a_file_that_does_not_import(tmp_path) -> None:
    path = tmp_path / "loader.py"
    path.write_text(
        "import no_such_model\n"
        "class Loader(no_such_model.Base):\n"
        "    @no_such_model.registered\n"
        "    def read(text: no_such_model.Text):\n"
        "        return [wrapped(each) for each in text.split(SEPARATOR)]\n"
        "def wrapped(text):\n"
        "    return {text}\n"
    )
    assert take(path, "Loader.read", "wrapped", SEPARATOR="|").read("a|b") == [{"a"}, {"b"}]
    with pytest.raises(MissingSnapshotError, match=r"loader\.py has no Loader\.write"):
        take(path, "Loader.write")
