from __future__ import annotations

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.dataset import JoinedDataset, MixedDataset, RisDataset, SampleSpec
from tests.training.dataset.builders import build_run

TEXTS = SampleSpec(parts=("text",))


@pytest.fixture
def runs(tmp_path):
    return [
        RisDataset(build_run(tmp_path / prefix, prefix=prefix, num_shards=count).location, TEXTS)
        for prefix, count in (("a", 2), ("b", 1))
    ]


def test_runs_follow_each_other(runs):
    joined = JoinedDataset(runs)
    joined.set_epoch(3)
    plain = [run[at] for run in runs for at in range(len(run))]
    assert len(joined) == len(plain) == 24
    assert [joined[at] for at in range(len(joined))] == plain
    assert joined.__getitems__([20, 1, 15]) == [plain[20], plain[1], plain[15]]
    assert joined[-1] == plain[-1]
    assert joined.mask_ids() == [sample["mask_id"] for sample in plain]


def test_what_lies_outside_is_refused(runs):
    with pytest.raises(IndexError, match="mask 24 of 24"):
        JoinedDataset(runs)[24]
    with pytest.raises(ConfigError, match="no run to join"):
        JoinedDataset([])


@pytest.mark.parametrize("human_share", [None, 0.6])
def test_a_mix_names_the_mask_of_every_item_of_its_epoch(runs, human_share):
    mixed = MixedDataset(JoinedDataset(runs[:1]), runs[1], fraction=0.5, human_share=human_share)
    for epoch in (0, 1):
        mixed.set_epoch(epoch)
        assert mixed.mask_ids() == [mixed[at]["mask_id"] for at in range(len(mixed))]
