"""`pseudoris annotate` as a user meets it, with the real models on a real local Ray; a run that goes on with stubs."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import ray

from pseudoris.files.location import RunLocation
from pseudoris.pipeline.identity import measure_identity
from pseudoris.pipeline.run_contract import RunSummary
from pseudoris.primitives.errors import TransientError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.pending_work import Planned, Step
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.runs.receipts import RunTotals, latest_receipts
from pseudoris.store.sources import open_source
from pseudoris.synthworld.demo import write_demo
from tests.builders.command import NUM_SCENES, OPTIONS, invoke, pseudoris, pseudoris_here, start_pseudoris, wait_for
from tests.builders.hub import TOKEN, serving_hub
from tests.builders.images import png
from tests.builders.plain_runs import work_off
from tests.builders.runs import SMALL, STUBS, part_digests, stub_config, write_source
from tests.builders.seals import forge_header
from tests.builders.sources import write_files
from tests.store.builders import commit

PHOTOS = Path(__file__).parents[3] / "shared" / "assets" / "photos"
pytestmark = pytest.mark.ray
NUM_BROKEN = 5


def written(out):
    """Return what each part holds, and when it was written."""
    return part_digests(out), {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}


def test_the_summary_counts_images_masks_candidates_and_quarantine(tiny_run):
    assert tiny_run.printed.returncode == 0, tiny_run.printed.stderr
    printed = tiny_run.printed.stdout
    assert f"{NUM_SCENES + NUM_BROKEN} of {NUM_SCENES + NUM_BROKEN}: {NUM_SCENES} annotated" in printed
    assert f"{NUM_BROKEN} quarantined" in printed
    assert "empty_file" in printed
    assert all(word in printed for word in ("masks", "candidates", "kept expressions", "images/s", "seconds per stage"))
    assert re.search(r"[\d,]+ drawn, [\d,]+ distinct", printed)
    assert str(tiny_run.out / "expressions") in printed


def test_the_demo_prints_summaries_tables_rows_the_comparison_and_the_pages(tiny_run):
    shown = tiny_run.printed.stdout
    told = ("summary", "tables", "3 rows of expressions", "both against the truth", "is an absence", "--quarantined")
    assert all(words in shown for words in told)
    (composed,) = tiny_run.out.parent.glob("tiny-composed-*")
    for out in (tiny_run.out, composed):
        page = out / "gallery" / "index.html"
        assert str(page) in shown
        assert page.stat().st_size > 10_000
    (right,) = (line.split()[-2:] for line in shown.splitlines() if "share that is right" in line)
    assert all(0 < float(each) <= 1 for each in right)


def test_the_tables_read_with_pyarrow_alone_and_join(tiny_run):
    tables = {name: ds.dataset(tiny_run.out / name).to_table().to_pylist() for name in SCHEMAS}
    masks = {row["mask_id"] for row in tables["masks"]}
    assert masks
    assert {target for row in tables["expressions"] for target in row["target_mask_ids"]} <= masks
    assert any(row["kept"] for row in tables["expressions"])
    assert all(sum(1 for _ in row["samples"]) == row["count"] for row in tables["expressions"])
    assert len(tables["images"]) == NUM_SCENES + NUM_BROKEN
    assert {row["status"] for row in tables["images"]} == {"annotated", "quarantined"}
    assert len(tables["failures"]) == NUM_BROKEN


def test_a_run_without_results_that_another_cpu_planned_is_planned_anew(ray_session, tmp_path, caplog):
    source, location = write_source(tmp_path / "in", 1), RunLocation.open(str(tmp_path / "out"))
    config = load_config("tiny", None, STUBS)
    listing = open_source(str(source), config.source)
    plan_run(location, RunRequest("annotate", listing.name, measure_identity(config), config), listing.list)
    forge_header(location, lambda tree: tree["identity"].update(device_kind="cpu another kind"))
    # It is planned before Ray starts, so the listing must not need Ray.
    stubs = (f"--set={each}" for each in STUBS)
    pseudoris_here("annotate", "--preset=tiny", str(source), location.root, *OPTIONS, *stubs, code=0)
    assert "planned anew" in caplog.text


@pytest.mark.slow
@pytest.mark.long
def test_a_run_of_a_cpu_that_rounds_otherwise_goes_on_only_mixed(tmp_path):
    source, location = write_source(tmp_path / "in", 2), RunLocation.open(str(tmp_path / "out"))
    config = load_config("tiny", None, ["shards.max_images=3"])
    identity, listing = measure_identity(config), open_source(str(source), config.source)
    other = identity.model_copy(update={"device_kind": f"{identity.device_kind[:-4]}0000"})
    commit(location, plan_run(location, RunRequest("annotate", listing.name, other, config), listing.list).header, 0)
    words = ("annotate", "--preset=tiny", str(source), location.root, *OPTIONS, "--set=shards.max_images=3")
    # In processes of their own, which start a Ray.
    refused = pseudoris(*words, code=2)
    line = f"device_kind: {other.device_kind!r} in the run, {identity.device_kind!r} now ("
    assert (line in refused.stderr, "--allow-mixed" in refused.stderr) == (True, True)
    told = pseudoris(*words, "--allow-mixed", code=0)
    assert f"not byte-reproducible (accepted by --allow-mixed): {line}" in told.stdout + told.stderr
    mixed = [receipt.mixed for receipt in latest_receipts(location)]
    assert [[each.startswith(line) for each in lines] for lines in mixed] == [[], [True]]
    # Where nothing is left to compute, any CPU may ask.
    assert re.search(r"shards +2, 2 of them committed", pseudoris(*words, "--dry-run", code=0).stdout)


def test_the_same_command_again_touches_nothing_and_starts_no_ray(tiny_run):
    before = written(tiny_run.out)
    # In a process of its own: this one may be connected to a Ray, whose actors it would name.
    again = start_pseudoris("annotate", "--preset=tiny", str(tiny_run.source), str(tiny_run.out), *OPTIONS)
    told, warned = again.communicate(timeout=180)
    assert (again.returncode, "annotating (nothing left to do)" in told) == (0, True), warned
    assert written(tiny_run.out) == before


def test_a_dry_run_prints_the_plan_and_writes_nothing(ray_session, tiny_run, tmp_path):
    out = tmp_path / "new"
    dry = pseudoris_here("annotate", "--preset=tiny", str(tiny_run.source), str(out), *OPTIONS, "--dry-run", code=0)
    assert all(word in dry.stdout for word in ("shards", "actors", "sha256", "estimated output"))
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing-folder", "out"), "missing-folder"),
        (("{source}", "out", "--set", "masks.points_per_sid=3"), "did you mean masks.points_per_side"),
        (("{source}", "out", "--preset", "tinny"), "did you mean 'tiny'"),
        (("{source}", "out", "--address", "ray://head:10001"), "job submit"),
        (("{run}", "out"), "is the folder of a run"),
        (("s3://key:secret@bucket/images", "out"), "environment"),
        (("{source}", "out", "--set", "masks.weights.uri=nowhere.pth"), "nowhere.pth"),
        (("{source}", "out", "--set", "placement.fused.num_cpus=4096"), "4096"),
        (("{folder}/empty", "out"), "lists no image"),
        (("{folder}", "out", "--set=source.extensions=[.nothing]"), "table.parquet cannot be read as Parquet"),
    ],
)
def test_a_users_mistake_is_one_message_without_a_traceback(ray_session, tiny_run, tmp_path, arguments, message):
    source = write_source(tmp_path / "in", num_images=1)
    (tmp_path / "folder" / "empty").mkdir(parents=True)
    (tmp_path / "folder" / "table.parquet").write_bytes(b"no table")
    words = [word.format(source=source, run=tiny_run.out, folder=tmp_path / "folder") for word in arguments]
    options = () if "--address" in words else OPTIONS
    failed = pseudoris_here("annotate", "--preset=tiny", *words, *options, cwd=tmp_path, code=2)
    assert message in failed.stderr
    assert "secret" not in failed.stderr
    assert not [*filter(Path.is_file, (tmp_path / "out").rglob("*"))]


def test_a_run_whose_images_are_all_quarantined_is_a_problem_and_says_how_to_begin_anew(ray_session, tmp_path):
    broken = write_files(tmp_path / "broken", {"a.png": b"no image"})
    right, out = write_source(tmp_path / "in", num_images=1), tmp_path / "out"
    options = (*OPTIONS, *(f"--set={each}" for each in STUBS))
    failed = pseudoris_here("annotate", "--preset=tiny", str(broken), str(out), *options, code=1)
    assert "problem no image could be annotated. The reasons are above" in failed.stderr
    again = pseudoris_here("annotate", "--preset=tiny", str(right), str(out), *options, code=2)
    assert f"That run annotated no image: delete {out} to begin anew there" in again.stderr


def test_a_folder_of_other_files_is_refused_before_ray_starts_and_stays_as_it_is(tiny_run, tmp_path):
    own = write_files(tmp_path / "mine", {"images/own.jpg": b"own"}) / "images" / "own.jpg"
    places = (str(tiny_run.source), str(tmp_path / "mine"))
    refused = pseudoris_here("annotate", "--preset=tiny", *places, *OPTIONS, code=2)
    assert "is an unexpected file" in refused.stderr
    assert "Ray" not in refused.stderr
    assert [path for path in (tmp_path / "mine").rglob("*") if path.name != "images"] == [own]


@pytest.mark.parametrize(
    ("signal_number", "is_stub"), [(signal.SIGINT, True), pytest.param(signal.SIGTERM, False, marks=pytest.mark.long)]
)
def test_a_signal_stops_cleanly_says_how_to_resume_and_the_same_command_finishes(
    ray_session, tmp_path, signal_number, is_stub
):
    out = tmp_path / "out"
    if is_stub:
        source = write_source(tmp_path / "in", num_images=9)
        slow = (*STUBS, *SMALL, "masks.options={sleep_s: 0.2}")
        options = ["--address", ray.get_runtime_context().gcs_address, *(f"--set={each}" for each in slow)]
    else:
        source = write_demo(tmp_path / "in", num_scenes=NUM_SCENES)
        options = [*OPTIONS, "--limit=7", "--shard-size=3"]
    arguments = ("annotate", "--preset=tiny", str(source), str(out), *options)
    process = start_pseudoris(*arguments)
    # The header stands, so Ray runs and shards are about to start; before it, `to resume` holds as well.
    wait_for(lambda: (out / "_run.json").exists())
    process.send_signal(signal_number)
    shown, printed = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "to resume run the same command again" in printed
    assert not re.search(r"Traceback|UserWarning|site-packages|retries remaining", shown + printed)
    pseudoris_here(*arguments, code=0)
    pseudoris_here("verify", str(out), code=0)


@pytest.mark.parametrize("is_planned", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), TransientError("the store is down")], ids=["stop", "failure"])
def test_committed_shards_are_spoken_of_only_where_a_run_exists(monkeypatch, tmp_path, is_planned, error):
    def pipeline(source, out, config, *, options, on_event):
        on_event(Step("connecting to Ray"))
        if is_planned:
            on_event(Planned(3, 0, 1, 0, {"fused": 1}))
        raise error

    monkeypatch.setattr("pseudoris.pipeline.annotation.annotate", pipeline)
    code = 130 if isinstance(error, KeyboardInterrupt) else 3
    ended = pseudoris_here("annotate", "--preset=tiny", str(tmp_path), str(tmp_path / "out"), code=code)
    assert ("committed shard" in ended.stderr) == is_planned


def test_an_interrupt_before_the_first_commit_shows_no_summary_of_nothing(monkeypatch, tmp_path):
    stopped = RunSummary("out", RunTotals(), 3, 1, 0, 0, 1.0, {"masks": "out/masks"}, interrupted=True)
    monkeypatch.setattr("pseudoris.pipeline.annotation.annotate", lambda *_, **__: stopped)
    ended = pseudoris_here("annotate", "--preset=tiny", str(tmp_path), str(tmp_path / "out"), code=130)
    assert "summary" not in ended.stdout
    assert "to resume run the same command again" in ended.stderr


def test_a_run_that_is_complete_ends_with_what_to_do_next(monkeypatch, tmp_path):
    done = RunSummary("out", RunTotals(shards=1, images=1, annotated=1), 1, 1, 0, 1, 1.0, {"masks": "out/masks"})
    monkeypatch.setattr("pseudoris.pipeline.annotation.annotate", lambda *_, **__: done)
    ended = pseudoris_here("annotate", "--preset=tiny", str(tmp_path), str(tmp_path / "out"), code=0)
    assert "this command took 1.0 s for 1 image, with its start" in " ".join(ended.stdout.split())
    assert f"pseudoris verify {tmp_path / 'out'}\n" in ended.stdout.partition("\nnext\n")[2].replace("'", "")
    for preset in ("tiny-composed", "base-composed"):
        ended = pseudoris_here("annotate", f"--preset={preset}", str(tmp_path), str(tmp_path / "out"), code=0)
        shown = [each in ended.stdout for each in ("--composer --to fitted.yaml", "NEW --weights fitted.yaml")]
        assert shown == [preset == "base-composed"] * 2


@pytest.mark.parametrize(
    "command", ["annotate --preset=tiny --address local", "annotate --preset=tiny --dry-run", "doctor"]
)
def test_weights_that_cannot_be_read_are_refused_before_there_is_a_plan(ray_session, tmp_path, command):
    source, out, weights = write_source(tmp_path / "in", num_images=1), tmp_path / "out", tmp_path / "sam.safetensors"
    weights.write_bytes(b"\xff" * 100)
    words, code = (*command.split(), str(source), str(out)), 1 if command == "doctor" else 2
    failed = pseudoris_here(*words, f"--set=masks.weights.uri={weights}", code=code)
    assert "cannot be read as tensors: it is cut or damaged" in failed.stdout + failed.stderr
    assert not [*out.glob("_*")]


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the test photographs are absent: {PHOTOS.name} beside the clone")
@pytest.mark.parametrize("num_photos", [1, pytest.param(3, marks=pytest.mark.long)])
def test_photographs_are_annotated_in_their_own_size_and_verify(ray_session, tmp_path, num_photos):
    out = tmp_path / "out"
    # A coarse grid: what counts is that real files get through, not how many masks they have.
    coarse = ("--limit", str(num_photos), "--set", "masks.points_per_side=3")
    shown = pseudoris_here("annotate", "--preset=tiny", str(PHOTOS), str(out), *OPTIONS, *coarse, code=0)
    listed = json.loads((PHOTOS / "instances.json").read_text(encoding="utf-8"))["images"]
    sizes = {image["file_name"]: (image["height"], image["width"]) for image in listed}
    rows = ds.dataset(out / "images").to_table().to_pylist()
    assert len(rows) == num_photos
    assert all((row["height"], row["width"]) == sizes[row["key"]] for row in rows)
    assert {row["status"] for row in rows} <= {"annotated", "empty"}
    pseudoris_here("verify", str(out), code=0)
    for page in (shown.stdout, pseudoris_here("stats", str(out)).stdout, (out / "DATACARD.md").read_text()):
        assert "The preset tiny knows drawn scenes alone" in " ".join(page.split())


@pytest.mark.long
def test_extend_then_retry(ray_session, tmp_path):
    source, out = write_source(tmp_path / "in", num_images=6), tmp_path / "out"
    settings = [word for assignment in (*STUBS, *SMALL) for word in ("--set", assignment)]
    work_off(source, out, stub_config(), limit=1)

    def annotated(*words: str) -> str:
        return invoke("annotate", "--preset=tiny", source, out, *words, *settings, columns=300).output

    dry = annotated("--extend", "--dry-run")
    assert "8 images in 2 shards; 0 planned images changed, 0 missing" in dry
    extended = annotated("--extend")
    assert "SOURCE has 8 new images, planned in 2 new shards" in extended
    assert "9 of 9" in extended
    assert "3 quarantined" in extended

    dry = annotated("--retry-failed", "--dry-run")
    assert "3 quarantined images" in dry
    retried = annotated("--retry-failed", "--retry-reasons", "corrupt,empty_file")
    assert "2 images, 0 recovered; 0 of " in retried


@pytest.mark.slow
@pytest.mark.long
def test_a_private_dataset_is_annotated_and_resumed_at_the_commit_of_the_plan(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with serving_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        dataset = hub.add("me/photos", {f"{n}.png": png(96, 96, seed=n) for n in range(3)}, is_private=True)
        planned = dataset.sha()
        command = ("annotate", "--preset=tiny", "hf://datasets/me/photos", str(out), "--address", "local")
        first = pseudoris(*command, code=0)
        images = ds.dataset(out / "images").to_table(columns=["key", "status"]).to_pylist()
        assert sorted(row["key"] for row in images) == ["0.png", "1.png", "2.png"]
        assert {row["status"] for row in images} <= {"annotated", "empty"}
        assert require_header(RunLocation.open(str(out))).source == f"hf://datasets/me/photos@{planned}"
        hub.add("me/photos", {"0.png": png(96, 96, seed=9)})
        again = pseudoris(*command, code=0)
        later = pseudoris("annotate", "--preset=tiny", "hf://datasets/me/photos@main", *command[3:], code=2)
        assert f"planned from SOURCE 'hf://datasets/me/photos@{planned}', but SOURCE is" in later.stderr
        printed = "".join(each.stdout + each.stderr for each in (first, again, later))
    held = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert TOKEN not in printed
    assert TOKEN.encode() not in held
