"""A run with splits is learnt from as `train`, unless another split is asked for."""

from __future__ import annotations

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset import JoinedDataset, RisDataset, RisIterableDataset, SampleSpec
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.tables import IMAGES
from pseudoris.store.runs.held_out_pictures import HoldOut
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.ppt.pairs import LabelFrame, PairDataset, PairSpec
from tests.interchange.dataset.builders import build_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[str, str]:
    """Return a run without splits, and one of it with splits."""
    folder = tmp_path_factory.mktemp("splits")
    plain = build_run(folder, num_shards=3, per_shard=5).location
    write_manifest(plain)
    combine([("", plain)], split := RunLocation.open(str(folder / "split")), hold_out=HoldOut.of({"val": 0.4}))
    return plain.root, split.root


def ids(run: str, split: str | None = None) -> set[str]:
    rows = OpenRun.at(RunLocation.open(run)).table(IMAGES, ("image_id", "split")).to_pylist()
    return {row["image_id"] for row in rows if split in (None, row["split"])}


def images(dataset) -> set[str]:
    return {mask.partition("-")[0] for mask in dataset.mask_ids()}


@pytest.mark.parametrize("draw", ["distinct", "pseudo_ris"])
def test_train_is_taken_unless_another_split_or_all_are_asked_for(runs, draw):
    plain, split = runs
    text = {"parts": ("text",), "draw": draw}
    assert ids(split, "val")
    for given, due in ((None, "train"), ("train", "train"), ("val", "val"), ("all", None)):
        spec = SampleSpec(**text, split=given)
        assert images(RisDataset(split, spec)) == ids(split, due), given
        streamed = {sample["image_id"] for sample in RisIterableDataset(split, spec)}
        assert streamed == ids(split, due), given
    assert images(RisDataset(plain, SampleSpec(**text))) == ids(plain)
    joined = JoinedDataset([RisDataset(run, SampleSpec(**text)) for run in runs])
    assert images(joined) == ids(plain)
    assert len(joined) == len(RisDataset(plain, SampleSpec(**text))) + len(RisDataset(split, SampleSpec(**text)))


def test_a_split_that_is_not_there_is_told(runs):
    plain, split = runs
    with pytest.raises(ConfigError, match=r"has no split 'test', but train \(\d+ images\), val \(\d+ images\)"):
        RisDataset(split, SampleSpec(split="test"))
    with pytest.raises(ConfigError, match=r"No expression of the run at .* is of split 'val' and passes the filter"):
        RisDataset(plain, SampleSpec(parts=("text",), split="val"))


def test_a_state_of_another_split_is_refused_and_no_split_is_as_it_was(runs):
    dataset = RisDataset(runs[1], SampleSpec(parts=("text",)))
    assert "split" not in dataset.describe()
    with pytest.raises(ConfigError, match="split"):
        dataset.load_state_dict(RisDataset(runs[1], SampleSpec(parts=("text",), split="val")).state_dict())


def test_pairs_of_ppt_are_those_of_train(runs):
    pairs = PairDataset(runs[1], PairSpec(4, LabelFrame(64, 16)))
    assert {pairs[at].image_id for at in range(len(pairs))} == ids(runs[1], "train")
