"""The chain of digests from the header down: what changed after it was written is found, by `verify` and by readers."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset.snapshot import Snapshot
from pseudoris.primitives.errors import ConfigError, PseudorisError
from pseudoris.schemas.run_records import HEADER_NAME, RunHeader
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.reports.data_card import CARD_NAME, write_datacard
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.header import extension_path, read_header, require_header
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.receipts import latest_receipts, receipt_path
from pseudoris.store.sessions.session import RunSession
from pseudoris.store.tables.run_reader import Run
from tests.builders.seals import edit_sealed, forge_header
from tests.store.builders import commit, extend_run, make_entries, start_run, whats


def write_run(location: RunLocation, **changes) -> None:
    """Write a run with every kind of file: also a retried shard, an extension of the plan, two manifests, a card."""
    header = start_run(location, make_entries(num_shards=2, per_shard=4), **changes)
    commit(location, header, 0, 1)
    write_manifest(location)
    commit(location, extend_run(location, header, make_entries(num_shards=1, first_shard=2)), 2)
    commit(location, read_header(location), 1, generation=1)
    run_gc(location)
    write_manifest(location)
    write_datacard(location)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "run"
    write_run(RunLocation.open(str(folder)))
    return folder


@pytest.fixture
def folder(written, tmp_path) -> Path:
    return shutil.copytree(written, tmp_path / "run")


@pytest.fixture
def run(folder) -> RunLocation:
    return RunLocation.open(str(folder))


def edits() -> dict[str, Callable[[dict], object]]:
    """Return a change of every field of the header, and of those within it that decide what the run means."""
    fields = {name: lambda tree, name=name: tree.update({name: None}) for name in RunHeader.model_fields}
    within = {
        "seed": lambda tree: tree["config"]["compute"].update(seed=7),
        "weights": lambda tree: tree["config"]["masks"]["weights"].update(uri="s3://elsewhere/sam.pt"),
        "weights digest": lambda tree: tree["identity"]["weights"].update(propose="b" * 64),
        "source": lambda tree: tree.update(source="other/"),
        "device": lambda tree: tree["identity"].update(device_kind="cuda"),
        "config digest": lambda tree: tree.update(config_sha256="0" * 64),
        "an unknown section": lambda tree: tree.update(licences={"images": "CC0"}),
        "no digest": lambda tree: tree.pop("sha256"),
    }
    # What this run has none of is added.
    for name in ("parent", "domain", "audits", "exclusions"):
        fields[name] = lambda tree, name=name: tree.update({name: {"location": "elsewhere"}})
    return {**fields, **within}


@pytest.mark.parametrize("field", edits())
def test_a_changed_field_of_the_header_is_found_by_all_who_open_it(folder, run, field):
    path = folder / HEADER_NAME
    tree = json.loads(path.read_text(encoding="utf-8"))
    edits()[field](tree)
    path.write_text(json.dumps(tree, indent=2), encoding="utf-8")
    for read in (verify_run, Run, write_datacard):
        with pytest.raises(ConfigError, match=rf"{HEADER_NAME} (was changed after it was written|is of version None)"):
            read(run)


@pytest.mark.parametrize("name", ["header", "receipt", "extension"])
def test_a_record_that_only_looks_otherwise_was_changed_too(folder, run, name):
    path = folder / {"header": HEADER_NAME, "receipt": receipt_path(0, 0), "extension": extension_path(2)}[name]
    path.write_text(json.dumps(json.loads(path.read_bytes())), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{path.name} was changed after it was written"):
        list(latest_receipts(run))


def files_by_kind(folder: Path) -> dict[str, list[Path]]:
    kinds: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            place = path.relative_to(folder)
            kinds.setdefault("plan header" if place.name == "g0002.json" else place.parts[0], []).append(path)
    return kinds


def found(location: RunLocation, sample: int | None = None) -> str:
    """Return how `verify` finds the damage: the kind of its problem, a refusal, or a notice; else nothing."""
    try:
        report = verify_run(location, sample=sample)
    except ConfigError:
        return "refused"
    return ",".join(dict.fromkeys([*whats(report), *(["notice"] if report.notices else [])]))


@pytest.mark.slow
@pytest.mark.parametrize("num_flips", [30, pytest.param(200, marks=pytest.mark.long)])
def test_every_flipped_byte_in_a_file_of_the_run_is_found(folder, num_flips):
    location = RunLocation.open(str(folder))
    kinds = files_by_kind(folder)
    assert set(kinds) == {
        *(HEADER_NAME, "plan header", "_plan", "_receipts", "_manifest", CARD_NAME),
        *("images", "masks", "expressions", "failures"),
    }
    draw = random.Random(20)
    missed = []
    for number in range(num_flips):
        path = draw.choice(kinds[sorted(kinds)[number % len(kinds)]])
        whole = path.read_bytes()
        at, flip = draw.randrange(len(whole)), draw.randrange(1, 256)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        if not found(location, sample=None if path.parent.name in SCHEMAS else 0):
            missed.append((path.name, at, whole[at], flip))
        path.write_bytes(whole)
    assert missed == []
    assert found(location) == ""


def test_readers_refuse_a_changed_receipt_and_name_the_remedy(folder, run):
    # The manifest would stand in for the receipt.
    shutil.rmtree(folder / "_manifest")
    path = folder / receipt_path(0, 0)
    path.write_text(path.read_text(encoding="utf-8").replace('"node-a"', '"node-b"'), encoding="utf-8")

    def resume() -> None:
        with RunLock.held(run) as lock:
            RunSession(run, require_header(run), lock)

    readers = (lambda: Run(run).counts, lambda: Snapshot.take(run), resume)
    for read in readers:
        with pytest.raises(ConfigError, match=r"g0\.json was changed after it was written.*command then computes"):
            read()


def test_readers_take_the_receipts_where_the_manifest_was_changed_and_a_dataset_refuses_it(folder, run, caplog):
    before = Run(run).counts
    path = folder / "_manifest" / "0002.parquet"
    data = bytearray(path.read_bytes())
    data[-12] ^= 1  # in the name of the program that wrote it: no value of a row
    path.write_bytes(data)
    assert Run(run).counts == before
    assert "Cannot use the manifest" in caplog.text
    said = r"0002\.parquet was changed after it was written: delete it, unless a child run"
    with pytest.raises(PseudorisError, match=said):
        Snapshot.take(run)


def test_a_receipt_of_another_run_is_refused_also_where_its_own_digest_holds(run, tmp_path):
    other = RunLocation.open(str(tmp_path / "other"))
    write_run(other, source="other/")
    run.replace(receipt_path(0, 0), other.read_bytes(receipt_path(0, 0)))
    assert "receipt" in whats(verify_run(run))
    shutil.rmtree(run.uri("_manifest"))
    for read in (lambda: Run(run).counts, lambda: list(latest_receipts(run))):
        with pytest.raises(ConfigError, match="was committed under another header than this run's"):
            read()


def test_a_dataset_refuses_the_manifest_of_another_run(run, tmp_path):
    other = RunLocation.open(str(tmp_path / "other"))
    write_run(other, source="other/")
    run.replace("_manifest/0002.parquet", other.read_bytes("_manifest/0002.parquet"))
    with pytest.raises(ConfigError, match="names another header than this run's"):
        Snapshot.take(run)
    assert "manifest" in whats(verify_run(run))


def test_an_extension_of_another_header_is_refused(run):
    edit_sealed(run, extension_path(2), lambda tree: tree.update(header_sha256="0" * 64))
    with pytest.raises(ConfigError, match=r"g0002\.json extends another plan"):
        read_header(run)


def test_an_edited_data_card_is_a_notice(run):
    run.replace(CARD_NAME, run.read_bytes(CARD_NAME) + b"Mine.\n")
    report = verify_run(run)
    assert (report.is_clean, report.notices) == (True, ("DATACARD.md was edited",))


def test_runs_of_equal_bytes_have_one_root_whatever_happened_on_the_way(tmp_path):
    quiet, eventful = (RunLocation.open(str(tmp_path / name)) for name in ("quiet", "eventful"))
    for location, created in ((quiet, "2026-01-01T00:00:00Z"), (eventful, "2026-05-05T00:00:00Z")):
        commit(location, start_run(location, created_utc=created), 0, 1, 2)

    def suffer(tree: dict) -> None:
        tree.update(seconds={"read": 99.0}, attempts={"fused": 3}, nodes=["node-z"])

    edit_sealed(eventful, receipt_path(1, 0), suffer)
    commit(eventful, read_header(eventful), 2, generation=1)
    run_gc(eventful)
    root = verify_run(quiet).root
    assert verify_run(eventful, root=root).is_clean
    assert quiet.read_bytes(HEADER_NAME) != eventful.read_bytes(HEADER_NAME)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(source="elsewhere/"),
        lambda tree: tree["config"]["compute"].update(seed=7),
        lambda tree: tree["identity"]["weights"].update(propose="b" * 64),
    ],
)
def test_who_changes_the_header_and_all_digests_still_changes_the_root(location, change):
    commit(location, start_run(location), 0, 1, 2)
    root = verify_run(location).root
    forge_header(location, change)
    assert verify_run(location).is_clean
    (problem,) = verify_run(location, root=root).problems
    assert problem.what == "root"
    assert f"not {root}: it is another run, or it was changed" in problem.detail


@pytest.mark.parametrize(
    "change",
    [
        lambda part, tree: part.update(sha256=part["sha256"][:8] + "0" * 56),
        lambda part, tree: tree.update(degraded={"masks.points_per_batch": 8}),
        lambda part, tree: tree.update(mixed=["device_kind: …"]),
    ],
    ids=["sha256", "degraded", "mixed"],
)
def test_who_changes_a_receipt_and_its_digest_still_changes_the_root(location, change):
    commit(location, start_run(location), 0, 1, 2)
    root = verify_run(location).root
    edit_sealed(location, receipt_path(1, 0), lambda tree: change(tree["parts"]["masks"], tree))
    assert verify_run(location).root not in (root, None)


def test_another_receipt_gives_another_root_and_an_unusable_one_gives_none(location):
    header = start_run(location)
    commit(location, header, 0, 1)
    before = verify_run(location).root
    commit(location, header, 2)
    assert verify_run(location).root != before
    location.replace(receipt_path(2, 0), b"{}")
    report = verify_run(location, root=before)
    assert report.root is None
    assert whats(report) == ["receipt", "root"]


PUT: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "folder of strays": lambda path: (path.mkdir(), (path / "x.parquet").write_bytes(b"x")),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}
PLACES = {
    "masks/*.g1-*.parquet": "part_missing",
    "_receipts/*0.g0.json": "receipt",
    "_manifest/0002.parquet": "manifest",
    "_plan/g0001/*.parquet": "plan_part",
    "images/more": "stray_file",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", PUT)
def test_what_is_no_file_in_the_place_of_one_is_a_finding_and_the_report_goes_on(folder, run, monkeypatch, what, place):
    monkeypatch.chdir(folder)  # a socket's path is short
    path = next(iter(sorted(Path().glob(place))), Path(place))
    path.unlink(missing_ok=True)
    PUT[what](path)
    other = next(iter(sorted(Path("failures").glob("*00002.g0*"))))
    other.write_bytes(other.read_bytes()[:-1])
    for quick in (False, True):
        report = verify_run(run, quick=quick)
        expected = [] if quick and PLACES[place] == "stray_file" else [PLACES[place]]
        # Strays are looked for only if all shards are whole; the other damage is found in any case.
        assert sorted(whats(report)) == sorted([*expected, "part_size"])


@pytest.mark.parametrize("what", PUT)
def test_what_is_no_file_in_the_place_of_a_header_is_refused_by_name(folder, run, monkeypatch, what):
    monkeypatch.chdir(folder)
    for name in (extension_path(2), HEADER_NAME):
        Path(name).unlink()
        PUT[what](Path(name))
        with pytest.raises(ConfigError, match=Path(name).name):
            verify_run(run)


@pytest.mark.parametrize("what", PUT)
def test_a_run_with_a_data_card_that_is_no_file_verifies(folder, run, monkeypatch, what):
    monkeypatch.chdir(folder)
    Path(CARD_NAME).unlink()
    PUT[what](Path(CARD_NAME))
    report = verify_run(run)
    assert report.is_clean
    assert report.notices[0].startswith("DATACARD.md is a ")
