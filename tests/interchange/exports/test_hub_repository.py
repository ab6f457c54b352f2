"""`export --format hf --push`: what stands on the Hub afterwards, a push that is killed, and what is refused before."""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import constants

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports.hub_repository import HubRepository
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.config import SourceConfig
from pseudoris.store.sources import open_source
from tests.builders.command import pseudoris_here
from tests.builders.hub import TOKEN, serving_hub, use_hub
from tests.interchange.exports.builders import build_run, export, jpeg, request_for
from tests.interchange.exports.readers_huggingface import open_folder

OPTIONS = {"license": "cc-by-4.0", "target_bytes": 2_000}
HAS_PLAIN_PATHS = True


@pytest.fixture
def hub(monkeypatch):
    with serving_hub() as hub:
        use_hub(hub, monkeypatch, TOKEN)
        yield hub


def push(out, place, *words: str, name: str = "me/set", licence: str | None = "cc-by-4.0", export_format: str = "hf"):
    given = ("--license", licence) if licence else ()
    return pseudoris_here(
        *("export", out.location.root, str(place.root), "--format", export_format, "--push", name, *given, *words)
    )


def pushed_files(hub, name: str = "me/set") -> dict[str, bytes]:
    return {path: data for path, data in hub.datasets[name].commits[-1].items() if path != ".gitattributes"}


def test_the_command_creates_a_private_dataset_with_card_and_rows_and_no_place(hub, built_run, place):
    ended = push(built_run, place)
    assert ended.returncode == 0, ended.stderr
    assert f"{hub.url}/datasets/me/set: 3 files, private" in ended.stdout
    files, root = pushed_files(hub), Path(place.root)
    assert files.keys() == {"_export.json", "README.md", "croissant.json", "data/train-00000.parquet"}
    assert json.loads(files["_export.json"]).keys() == {"format", "state", "request"}
    assert all((root / path).read_bytes() == data for path, data in files.items() if path != "_export.json")
    card = files["README.md"].decode()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == json.loads(files["croissant.json"])["license"] == "cc-by-4.0"
    assert "`cc-by-4.0`, as the publisher states" in card
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    features = open_folder(root).features
    assert features["image"].dtype == "PIL.Image.Image"
    assert "Fill in the licence" not in ended.stdout
    for data in (*files.values(), *(repr(request).encode() for request in hub.requests)):
        assert built_run.header.source.encode() not in data
        assert TOKEN.encode() not in data
    assert TOKEN not in (root / "_export.json").read_text("utf-8") + ended.stdout + ended.stderr


def test_what_was_pushed_opens_as_a_source(hub, built_run, place):
    push(built_run, place, "--public")
    assert not hub.datasets["me/set"].is_private
    items = list(open_source("hf://datasets/me/set/data", SourceConfig()).list())
    assert len(items) == len(built_run.with_texts())


@pytest.mark.slow
@pytest.mark.long
def test_each_push_loads_its_own_rows_out_of_one_cache(hub, built_run, run_of_several, tmp_path_factory):
    """Of one name, the second after the first was deleted."""
    loads = "import datasets; print(datasets.load_dataset('me/set', split='train').num_rows)"
    stub = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    home = {"HF_HOME": str(tmp_path_factory.mktemp("home"))}
    for run in (built_run, run_of_several):
        push(run, RunLocation.open(str(tmp_path_factory.mktemp("exports") / "set")))
        ended = subprocess.run(
            [sys.executable, "-c", loads], env={**os.environ, **stub, **home}, capture_output=True, text=True
        )
        assert ended.stdout == f"{len(run.with_texts())}\n", ended.stderr
        del hub.datasets["me/set"]


def test_the_same_command_again_does_nothing(hub, built_run, place):
    push(built_run, place)
    num_commits = len(hub.datasets["me/set"].commits)
    ended = push(built_run, place, name="set")
    assert (ended.returncode, ended.stdout) == (0, f"{hub.url}/datasets/me/set already holds this export.\n")
    assert len(hub.datasets["me/set"].commits) == num_commits


def test_files_that_the_hub_does_not_list_are_no_part_of_the_report_and_are_sent_again(hub, built_run, place):
    hub.loses = {"croissant.json", "data/train-00000.parquet"}
    ended = push(built_run, place)
    assert ended.returncode == 3
    assert re.search(r"the Hub lists 2 files, and lacks croissant\.json, data/train-00000\.parquet", ended.stderr)
    hub.loses = set()
    assert "me/set: 3 files, private" in push(built_run, place).stdout
    dataset = hub.datasets["me/set"]
    dataset.commits.append({path: data for path, data in dataset.commits[-1].items() if "data/" not in path})
    assert "me/set: 3 files, private" in push(built_run, place).stdout
    # The card may be edited there.
    dataset.commits.append({**dataset.commits[-1], "README.md": b"Our own words."})
    assert "already holds this export" in push(built_run, place).stdout


def test_an_export_that_lacks_images_is_not_pushed_and_its_remedy_pushes_all(hub, place, tmp_path):
    pictures = tuple((f"{name}.jpg", jpeg(), ((f"the {name} one",),)) for name in ("first", "second"))
    run = build_run(tmp_path / "run", pictures, embed=False, source=tmp_path / "source")
    (tmp_path / "source" / "second.jpg").unlink()
    ended = push(run, place)
    assert ended.returncode == 1
    assert ended.stdout.endswith("me/set: nothing is pushed while images are missing\n")
    assert not any("/" in name for commit in hub.datasets["me/set"].commits for name in commit)
    (tmp_path / "source" / "second.jpg").write_bytes(jpeg())
    assert push(run, place).returncode == 2
    for _ in range(2):
        assert "me/set: 3 files, private" in push(run, place, "--overwrite").stdout
        data = [data for name, data in pushed_files(hub).items() if name.startswith("data/")]
        assert sum(pq.read_metadata(io.BytesIO(each)).num_rows for each in data) == 2


def test_a_card_that_was_edited_before_the_push_is_what_is_pushed(hub, built_run, place):
    pseudoris_here("export", built_run.location.root, place.root, "--format", "hf", "--license", "cc-by-4.0", code=0)
    card = Path(place.root) / "README.md"
    card.write_text(card.read_text("utf-8") + "\nOur own words.\n", "utf-8")
    assert push(built_run, place).returncode == 0
    assert pushed_files(hub)["README.md"].endswith(b"Our own words.\n")


def uploaded(run, root: str) -> None:
    request = request_for(run, RunLocation.open(root), **OPTIONS)
    HubRepository.open("me/set", request, is_public=False).upload()


def test_a_push_that_is_killed_goes_on_and_sends_no_file_twice(hub, built_run, place):
    export("hf", built_run, place, **OPTIONS)
    num_large = len(list(Path(place.root).glob("data/*")))
    assert num_large > 3
    sent, numbers, killed = [], itertools.count(1), threading.Event()
    process = multiprocessing.get_context("fork").Process(target=uploaded, args=(built_run, place.root))

    def kill_at_the_third(data: bytes) -> bool:
        number = next(numbers)
        if number == 3:
            # Files are sent at the same time: the first two may not be stored yet.
            while len(hub.blobs) < 2:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            killed.set()
        return number < 3

    hub.on_blob = kill_at_the_third
    process.start()
    assert killed.wait(60)
    process.join()
    assert len(hub.blobs) == 2
    assert json.loads(pushed_files(hub)["_export.json"])["state"] == "begun"
    hub.on_blob = lambda data: sent.append(data) is None
    uploaded(built_run, place.root)
    assert len(sent) == num_large - 2
    files = pushed_files(hub)
    assert json.loads(files["_export.json"])["state"] == "whole"
    for path in Path(place.root).glob("data/*"):
        assert files[f"data/{path.name}"] == path.read_bytes()


def test_the_clients_pipeline_of_several_commits_gives_the_same(hub, built_run, place, monkeypatch):
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.large = ()
    export("hf", built_run, place, **OPTIONS)
    uploaded(built_run, place.root)
    assert pushed_files(hub).keys() == {
        *("_export.json", "README.md", "croissant.json"),
        *(f"data/{path.name}" for path in Path(place.root).glob("data/*")),
    }


def test_a_hub_that_fails_in_the_midst_is_told_and_the_same_call_goes_on(hub, built_run, place):
    export("hf", built_run, place, **OPTIONS)
    hub.failures = [("/commit/", 409, {})]
    with pytest.raises(TransientError, match="the Hub answers 409; run the same command again to continue"):
        uploaded(built_run, place.root)
    hub.failures = [("/datasets/me/set/commit/", 400, {"X-Error-Message": "license is unknown"})]
    with pytest.raises(ConfigError, match=r"the Hub refuses it \(400\): license is unknown"):
        uploaded(built_run, place.root)
    uploaded(built_run, place.root)
    assert json.loads(pushed_files(hub)["_export.json"])["state"] == "whole"


@pytest.mark.parametrize("held", [{"_export.json": None}, {"notes.txt": b"mine"}])
def test_a_destination_that_holds_something_else_is_refused_before_the_dataset_is_created(hub, built_run, place, held):
    for path, data in held.items():
        export("hf", built_run, place, license="mit") if data is None else place.replace(path, data)
    ended = push(built_run, place)
    assert ended.returncode == 2
    assert re.search("already has an export|is not a file of an export", ended.stderr)
    assert not hub.datasets


REFUSED = {
    "no token": ({}, r"--push needs a token that may write there: run `hf auth login`, or set HF_TOKEN\."),
    "a wrong token": ({}, "--push needs a token that may write there"),
    "a name of others": ({"name": "other/set"}, "cannot create http://[^ ]+/datasets/other/set. --push needs a token"),
    "a dataset that exists": ({"name": "me/photos"}, "me/photos exists and holds something else than this export"),
    "another export": ({"name": "me/export"}, r"me/export exists .* Give --push another name, or delete it there\."),
    "no licence": ({"licence": None}, "--push needs --license, that of the images: cc-by-4.0, other"),
    "another format": ({"export_format": "coco", "licence": None}, "--push needs --format hf"),
    "no name": ({"name": "a/b/c"}, "--push 'a/b/c' is not the name of a dataset. Give OWNER/NAME"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_push_that_cannot_succeed_is_refused_in_one_sentence(hub, built_run, place, monkeypatch, case):
    hub.add("me/photos", {"a.jpg": b"x"})
    hub.add("me/export", {"_export.json": b'{"format": "hf", "state": "begun", "request": "of another"}'})
    if case == "no token":
        monkeypatch.delenv("HF_TOKEN")
    if case == "a wrong token":
        monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 34)
    before = {name: dataset.sha() for name, dataset in hub.datasets.items()}
    options, said = REFUSED[case]
    ended = push(built_run, place, **options)
    assert ended.returncode == 2
    assert re.search(said, ended.stderr)
    assert {name: dataset.sha() for name, dataset in hub.datasets.items()} == before
    # It is known before anything is written.
    assert not Path(place.root).exists()


def test_public_alone_is_refused(built_run, place):
    ended = pseudoris_here("export", built_run.location.root, place.root, "--format", "hf", "--public")
    assert "--public needs --push OWNER/NAME." in ended.stderr
