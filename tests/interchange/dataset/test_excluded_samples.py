"""Datasets without a benchmark's images: by key, and by the sha256 that the images table stores."""

from __future__ import annotations

import pickle

import pytest

from pseudoris.interchange.dataset import RisDataset, RisIterableDataset, SampleSpec
from pseudoris.interchange.dataset.samples import PARTS
from pseudoris.interchange.dataset.shard_reader import DatasetRun
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import PartRecord
from pseudoris.store.exclusions.exclusion_rules import ExclusionRecord, exclusion


@pytest.fixture
def exclude(run, tmp_path) -> list[str]:
    """One image by its name, one by its bytes."""
    (tmp_path / "names.txt").write_text("s0-1.png\n")
    digest = sha256_hex((run.source / "s2-3.png").read_bytes())
    (tmp_path / "bench.csv").write_text(f"sha256\n{digest}\n")
    return [str(tmp_path / "names.txt"), str(tmp_path / "bench.csv")]


def spec(exclude, **values) -> SampleSpec:
    return SampleSpec(exclude=exclude, **values)


@pytest.mark.parametrize("parts", [("text",), PARTS])
def test_both_datasets_leave_the_images_out(run, exclude, parts):
    gone = {image_id("s0-1.png"), image_id("s2-3.png")}
    whole = RisDataset(run.location, SampleSpec(parts=parts))
    mapped = RisDataset(run.location, spec(exclude, parts=parts))
    assert (len(whole), len(mapped)) == (24, 20)
    assert not gone & {mapped[at]["image_id"] for at in range(len(mapped))}
    streamed = RisIterableDataset(run.location, spec(exclude, parts=parts))
    found = {sample["image_id"] for sample in streamed}
    assert len(found) == 10
    assert not gone & found
    assert streamed.count() == 20


def test_the_state_names_the_rules_in_one_order(exclude):
    assert len(spec(exclude).as_json()["exclude"]) == 2
    assert spec(exclude).as_json() == spec(exclude[::-1]).as_json()


def test_a_spec_reads_its_files_once_and_can_be_sent_to_workers(exclude, tmp_path):
    made = spec(exclude)
    (tmp_path / "names.txt").unlink()
    assert pickle.loads(pickle.dumps(made)).exclusions == made.exclusions


def test_perceptual_hashes_are_refused_unless_the_run_was_planned_with_them(run):
    looks = exclusion("phash", "bench", ["00" * 8], settings={"max_distance": 8})
    with pytest.raises(ConfigError, match="bench has perceptual hashes, but a dataset compares names and sha256 alone"):
        RisDataset(run.location, spec(looks))
    part = PartRecord(name="g0001/exclusions-00000000.parquet", rows=1, size_bytes=1, sha256="00" * 32)
    header = run.header.model_copy(
        update={"exclusions": ExclusionRecord(rules=looks, part=part).model_dump(mode="json")}
    )
    assert _opens(run, header, looks)


def _opens(run, header, looks) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pseudoris.interchange.dataset.shard_reader.require_header", lambda location: header)
        return DatasetRun.open(run.location, spec(looks, parts=("text",))).count_samples().sum() == 24
