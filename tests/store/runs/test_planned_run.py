"""The plan that a run stands on: made once, continued by the same request alone, refused to every other by name."""

from __future__ import annotations

import re
import shutil

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.runs.attempts import begin_attempt
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.lock import Claim, RunLock, claim_to_bytes
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.parents import Parent
from pseudoris.store.runs.plan import iter_plan
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources import SourceItem
from tests.builders.scored_runs import scored_run
from tests.builders.seals import edit_sealed
from tests.builders.sources import write_files
from tests.store.builders import commit, extend_run, make_entries, make_identity, start_run

CONFIG = load_config("tiny", None, ["shards.max_images=2"])
MIXED = load_config("tiny", None, ["shards.max_images=2", "placement.allow_mixed=true"])


def request(**changes) -> RunRequest:
    fields = {"origin": "import", "source": "/photos", "identity": make_identity(), "config": CONFIG}
    return RunRequest(**{**fields, **changes})


def items(count=5):
    return lambda: [SourceItem(key=f"{number}.png", size_bytes=1) for number in range(count)]


def unlisted():
    pytest.fail("a plan that stands was listed anew")


def test_a_plan_is_made_once_and_a_limit_changes_none_that_stands(disk):
    made = plan_run(disk, request(limit=3), items())
    assert (made.header.num_images, made.header.num_shards, made.mixed, made.notices) == (3, 2, (), ())
    again = plan_run(disk, request(limit=1), unlisted)
    assert again.header == made.header
    assert again.notices == ("the run already has a plan of 3 images; --limit 1 does not change it",)
    with pytest.raises(ValueError, match="planned without a parent"):
        _ = again.parent


def test_a_new_run_refuses_a_folder_of_other_files_and_a_run_that_stands_never_does(tmp_path):
    (folder := tmp_path / "photos").mkdir()
    for name in (".DS_Store", "lost+found", "slurm-7.out", "run.log", "settings.yaml", "logs"):
        (folder / name).mkdir()
    location = RunLocation.open(str(folder))
    for number in range(4):
        (folder / f"{number}.jpg").touch()
    with pytest.raises(ConfigError, match=r"photos holds other files: \d\.jpg, \d\.jpg, \d\.jpg and more\. Name a new"):
        plan_run(location, request(), unlisted)
    for number in range(4):
        (folder / f"{number}.jpg").unlink()
    (folder / "thesis").mkdir()
    with pytest.raises(ConfigError, match=r"holds other files: thesis\. Name a new or an empty folder as OUT"):
        plan_run(location, request(), unlisted)
    (folder / "thesis").rmdir()
    for name, told in (
        ("_old/thesis.txt", "photos holds other files: _old"),
        ("gallery/a.png", "gallery holds .*: a.png"),
    ):
        write_files(folder, {name: b"mine"})
        with pytest.raises(ConfigError, match=told):
            plan_run(location, request(), unlisted)
        shutil.rmtree((folder / name).parent)
    write_files(folder, {"gallery/index.html": b"", "_plan/part-of-a-killed-plan": b""})
    made = plan_run(location, request(), items()).header
    (folder / "thesis").mkdir()
    assert plan_run(location, request(), unlisted).header == made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": "annotate"}, "`pseudoris import`. `annotate` cannot continue it"),
        ({"identity": make_identity(device_kind="cuda")}, "device_kind: 'cpu' in the run, 'cuda' now"),
        ({"source": "/other"}, "was planned from SOURCE '/photos'"),
        # The first of several differences is told.
        ({"origin": "ppt", "source": "/other"}, "`pseudoris import`"),
        ({"source": "/other", "identity": make_identity(device_kind="cuda")}, "device_kind"),
    ],
)
def test_another_request_is_refused_by_what_differs(disk, changes, message):
    plan_run(disk, request(), items())
    with pytest.raises(ConfigError, match=message):
        plan_run(disk, request(**changes), unlisted)


def requested(disk, lock, **changes):
    return plan_run(disk, request(**changes, lock=lock), items()).header


def test_a_run_without_receipts_gives_way_to_another_identity_and_leaves_nothing(disk):
    header = start_run(disk, make_entries(2), origin="import")
    extend_run(disk, header, make_entries(1, first_shard=2))
    begin_attempt(disk, 1, 0, pool="fused", session_nonce="a", node="b")
    disk.put_part("images/shard-00000001.g0-51d20b6e.parquet", b"lost")
    with RunLock.held(disk) as lock:
        made = requested(disk, lock, source="/other")
        assert (made.source, made.num_images) == ("/other", 5)
        assert requested(disk, lock, source="/other") == made == require_header(disk)
    assert not [*disk.list("images"), *disk.list("_attempts"), *disk.list("_plan")]


def test_a_run_that_gives_way_stands_until_the_folder_is_accepted(disk):
    header = start_run(disk, make_entries(2), origin="import")
    disk.replace("thesis.pdf", b"mine")
    with RunLock.held(disk) as lock, pytest.raises(ConfigError, match=r"holds other files: thesis\.pdf"):
        requested(disk, lock, source="/other")
    assert require_header(disk) == header


def test_a_run_that_was_killed_while_it_gave_way_is_planned_anew(disk):
    header = start_run(disk, make_entries(2), origin="import")
    extend_run(disk, header, make_entries(1, first_shard=2))
    disk.delete("_run.json")
    with RunLock.held(disk) as lock:
        assert requested(disk, lock) == require_header(disk)


def test_a_run_that_another_driver_creates_meanwhile_is_held_to_the_request(disk):
    def listed():
        start_run(disk, make_entries(2), origin="import")
        return items()()

    with pytest.raises(ConfigError, match="was planned from SOURCE 'images/'"):
        plan_run(disk, request(source="/other"), listed)


@pytest.mark.parametrize("guard", ["no lock", "a receipt", "a lost lock", "another command"])
def test_no_run_gives_way_that_may_have_results(disk, guard):
    header = start_run(disk, make_entries(2), origin="ppt" if guard == "another command" else "import")
    with RunLock.held(disk) as lock:
        if guard == "a receipt":
            commit(disk, header, 1)
        if guard == "a lost lock":
            disk.create_once("_lock/claim-00000002.json", claim_to_bytes(Claim("another", 0, "elsewhere", 1)))
        with pytest.raises(ConfigError):
            requested(disk, None if guard == "no lock" else lock, source="/other")
    assert require_header(disk) == header


def test_the_tables_of_a_run_that_lost_its_header_are_kept(disk):
    header = start_run(disk, make_entries(2), origin="import")
    (receipt,) = commit(disk, header, 1)
    disk.delete("_run.json")
    with RunLock.held(disk) as lock, pytest.raises(ConfigError, match=r"_run\.json is gone, .* Restore the file"):
        requested(disk, lock)
    assert not disk.exists("_run.json")
    assert disk.exists(f"images/{receipt.parts['images'].name}")


def test_another_identity_is_refused_by_every_difference_and_the_version_that_can_finish_it_is_named(disk):
    plan_run(disk, request(identity=make_identity(versions={"pseudoris": "0.1.0"})), items())
    other = make_identity(device_kind="NVIDIA H200", weights={"propose": "b" * 64}, versions={"pseudoris": "0.2.0"})
    with pytest.raises(ConfigError, match="another identity") as caught:
        plan_run(disk, request(identity=other), unlisted)
    said = ("device_kind: 'cpu' in the run, 'NVIDIA H200' now", "weights.propose", "finish it with pseudoris 0.1.0")
    assert [words for words in (*said, "name another output", "--allow-mixed") if words not in str(caught.value)] == []


def test_what_was_read_from_a_file_is_given_again_by_its_uri(disk):
    method = {**make_identity().method, "fitted": {"uri": "a.yaml", "values": {"bias": 1}}}
    plan_run(disk, request(origin="annotate", identity=make_identity(method=method)), items())
    with pytest.raises(
        ConfigError, match=r"fitted\.values\.bias: (?s:.*)started with: --set 'fitted\.uri=\"a\.yaml\"', or"
    ):
        plan_run(disk, request(origin="annotate"), unlisted)


def test_if_only_the_device_is_another_the_refusal_names_no_settings(disk):
    plan_run(disk, request(), items())
    with pytest.raises(
        ConfigError,
        match=r"'cuda' now\nContinue on its kind of device, or name another output, or accept other devices",
    ):
        plan_run(disk, request(identity=make_identity(device_kind="cuda")), unlisted)


def test_all_that_one_command_needs_is_named_together(disk):
    method = {**make_identity().method, "filtering": {"tau": 2.0}}
    plan_run(disk, request(origin="annotate", identity=make_identity(method=method)), items())
    moved = request(origin="annotate", source="/other", identity=make_identity(device_kind="cuda"))
    with pytest.raises(
        ConfigError,
        match=r"started with: --set filtering\.tau=2\.0, and accept other devices and package versions with "
        r"--allow-mixed, and if its images have moved, add --moved-from /photos, or name another output$",
    ):
        plan_run(disk, moved, unlisted)


def test_another_device_goes_on_only_where_that_is_asked_for(disk):
    plan_run(disk, request(), items())
    other = make_identity(device_kind="cuda", versions={"x": "2"})
    with pytest.raises(ConfigError, match="or accept other devices and package versions with --allow-mixed"):
        plan_run(disk, request(identity=other), unlisted)
    planned = plan_run(disk, request(identity=other, config=MIXED), unlisted)
    assert planned.mixed == ("device_kind: 'cpu' in the run, 'cuda' now", "versions.x: '1' in the run, '2' now")
    assert planned.notices == (f"not byte-reproducible (accepted by --allow-mixed): {'; '.join(planned.mixed)}",)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("weights.propose", {"weights": {"propose": "b" * 64}}),
        ("compute.seed", {"method": {**make_identity().method, "compute": {"seed": 7}}}),
        # The weights of the model folder are the same.
        ("folders.caption.tokenizer", {"folders": {"caption": {"tokenizer": "c" * 64}}}),
    ],
)
def test_other_weights_folders_or_another_method_are_never_accepted(disk, field, changed):
    plan_run(disk, request(), items())
    other = make_identity(device_kind="NVIDIA H200", **changed)
    with pytest.raises(ConfigError, match=rf"{re.escape(field)}: (?s:.*)or name another output$") as refusal:
        plan_run(disk, request(identity=other, config=MIXED), unlisted)
    assert "device_kind" not in str(refusal.value)
    assert "--allow-mixed" not in str(refusal.value)


@pytest.mark.parametrize(("triton", "told"), [("absent", ["plain torch attends on this GPU"]), ("3.5.0", [])])
def test_plain_attention_on_a_gpu_is_told_before_work_begins(disk, triton, told):
    planned = plan_run(disk, request(identity=make_identity(versions={"triton": triton}), limit=9), items())
    assert [text.partition(",")[0] for text in planned.notices] == told


def test_a_header_that_names_no_parent_any_more_is_refused(disk, tmp_path):
    scored_run(location := RunLocation.open(str(tmp_path / "parent")), num_shards=2)
    wanted = request(parent=Parent.open(location, disk))
    assert plan_run(disk, wanted, items()).parent.location == location.root
    edit_sealed(disk, "_run.json", lambda tree: tree.update(parent=None))
    with pytest.raises(ConfigError, match="names no parent: it was edited"):
        plan_run(disk, wanted, unlisted)


def test_a_plan_as_the_parents_is_its_own_shard_by_shard(disk, tmp_path):
    location = RunLocation.open(str(tmp_path / "parent"))
    extended = extend_run(location, start_run(location, make_entries(1)), make_entries(1, first_shard=1))
    commit(location, extended, 0, 1)
    write_manifest(location)
    parent = Parent.open(location, disk)
    planned = plan_run(disk, request(origin="ppt"), parent)
    assert list(iter_plan(disk, planned.header)) == list(iter_plan(parent.location, parent.header))
    assert (planned.header.origin, planned.header.source) == ("ppt", parent.header.source)
    assert planned.header.config.shards == parent.header.config.shards
    assert planned.header.plan_parts == parent.header.plan_parts
    again = plan_run(disk, request(origin="ppt"), parent)
    assert again.header == planned.header == require_header(disk)
    with pytest.raises(ConfigError, match=r"was begun from .*: name it again, or another output"):
        plan_run(disk, request(origin="ppt"), unlisted)
