from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.sessions.combined_run import combine
from pseudoris.training.learning import ResumableFeed
from pseudoris.training.learning.training_data import DataConfig, check_moved, open_runs, weighted_mean
from tests.builders.seals import forge_header
from tests.interchange.dataset.builders import build_run


class Items:
    """Masks of images, `a-0000` and on; an item is its mask and the epoch."""

    def __init__(self, **counts: int) -> None:
        self._masks = [f"{image}-{at:04d}" for image, count in counts.items() for at in range(count)]
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self._masks[index], self._epoch

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def mask_ids(self) -> list[str]:
        return self._masks

    def image_keys(self) -> list[str]:
        return [mask.rpartition("-")[0] for mask in self._masks]


def feed(items=None, *, units=2, masks=3, seed=0, **ranks):
    items = items or Items(a=1, b=3, c=7, d=2, e=4)
    return ResumableFeed(items, list, units_per_batch=units, masks_per_unit=masks, seed=seed, **ranks)


def taken(feed, first, count):
    return list(itertools.islice(feed.batches(first), count))


def test_an_epoch_holds_every_mask_once_but_for_what_fills_its_last_batch():
    # Units: a 1, b 3, c 3 + 3 + 1, d 2, e 3 + 1: eight of them.
    whole = feed()
    assert whole.num_batches() == 4
    for epoch in range(3):
        drawn = [item for batch in taken(whole, 4 * epoch, 4) for item in batch]
        assert {each for _, each in drawn} == {epoch}
        assert Counter(mask for mask, _ in drawn) == Counter(whole._dataset.mask_ids())
    filled = feed(units=3)
    counts = Counter(mask for batch in taken(filled, 0, 3) for mask, _ in batch)
    assert set(counts) == set(filled._dataset.mask_ids())
    assert max(counts.values()) == 2


def test_a_batch_holds_few_images_and_few_masks_of_each():
    for batch in taken(feed(), 0, 8):
        # Two units of one image may meet.
        assert len({mask.partition("-")[0] for mask, _ in batch}) <= 2
        assert len(batch) <= 6


@pytest.mark.parametrize("first", [1, 3, 4, 9])
def test_batch_number_n_is_the_same_from_wherever_one_begins(first):
    assert taken(feed(), first, 6) == taken(feed(), 0, first + 6)[first:]


def test_ranks_share_out_the_batches_of_one_process():
    parts = [taken(feed(rank=rank, world_size=2), 0, 5) for rank in range(2)]
    for whole, *own in zip(taken(feed(), 0, 5), *parts, strict=True):
        assert Counter(whole) == Counter(itertools.chain(*own))


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="batch of 3 images cannot be split over 2 processes"):
        feed(units=3, world_size=2)


def test_items_come_as_often_as_their_chances_say_and_the_same_again():
    items = Items(a=40, b=40)
    chances = [0.25] * 40 + [1.0] * 39 + [0.0]
    thinned = feed(items, units=4, chances=chances)
    counts = Counter()
    for epoch in range(60):
        drawn = {item for batch in thinned._epoch(epoch) for item in batch}
        assert set(range(40, 79)) <= drawn
        counts.update(drawn)
    assert counts[79] == 0
    assert sum(counts[item] for item in range(40)) / (40 * 60) == pytest.approx(0.25, abs=0.04)
    assert len({counts[item] for item in range(40)}) > 3
    assert taken(thinned, 5, 9) == taken(feed(items, units=4, chances=chances), 0, 14)[5:]


def test_excluded_images_are_not_learnt_from_nor_a_humans_and_the_settings_say_so(tmp_path):
    run, human = (
        build_run(tmp_path / it, num_shards=1, per_shard=4, prefix=it).location.root for it in ("run", "human")
    )
    opened = [open_runs([each], None, DataConfig(), seed=0)[1] for each in (run, human)]
    known = {digest for each in opened for digest in each.image_digests()}
    table = tmp_path / "seen.csv"
    table.write_text("\n".join(["sha256", *sorted(known)[:3]]) + "\n", encoding="utf-8")
    data = DataConfig(exclude=(str(table),))
    with pytest.raises(ConfigError, match="is no human annotation"):
        open_runs([run], human, data, seed=0)
    forge_header(RunLocation.open(human), lambda tree: tree.update(origin="import"))
    targets, images, _ = open_runs([run], human, data, seed=0)
    assert len(targets) == len(images)
    assert set(images.image_digests()) == set(sorted(known)[3:])
    # A training resumes only if these are equal.
    assert data.decisive() == {**DataConfig().decisive(), "exclude": data.spec(0).as_json()["exclude"]}
    assert DataConfig().decisive()["exclude"] == []


@pytest.mark.parametrize(
    ("settings", "draw", "parts"),
    [
        ({}, "pseudo_ris", ("mask", "text")),
        ({"draw": "distinct"}, "distinct", ("mask", "text")),
        ({"weighting": "loss"}, "pseudo_ris", ("mask", "text", "scores")),
        ({"weighting": "draw"}, "weighted", ("mask", "text")),
        ({"weighting": "both"}, "weighted", ("mask", "text", "scores")),
        ({"rewording": True}, "pseudo_ris", ("mask", "text")),
    ],
)
def test_a_draw_and_weights_are_settings_that_a_training_resumes_with(settings, draw, parts):
    data = DataConfig(**settings)
    spec = data.spec(3)
    assert (spec.draw, spec.parts, spec.seed, spec.rewording) == (draw, parts, 3, data.rewording)
    assert data.decisive() == {**DataConfig().decisive(), **settings, "draw": draw}
    with pytest.raises(ValueError, match=r"weighting=both and draw=.* exclude each other"):
        DataConfig(weighting="both", draw="pseudo_ris")


def test_losses_count_by_their_weights_whatever_the_scale():
    losses, weights = torch.tensor([[1.0, 3.0], [8.0, 8.0]]), torch.tensor([0.3, 0.1])
    assert weighted_mean(losses, weights).item() == weighted_mean(losses, 2 * weights).item()
    torch.testing.assert_close(weighted_mean(losses, weights), torch.tensor((0.3 * 2 + 0.1 * 8) / 0.4))


def test_equal_weights_are_the_plain_mean_bit_by_bit():
    losses = torch.rand(7, 5, 5)
    assert torch.equal(weighted_mean(losses, torch.ones(7)), losses.mean())
    assert torch.equal(weighted_mean(losses, None), losses.mean())


def test_names_of_moved_images_are_of_any_run_of_the_training(tmp_path):
    moved, places = {}, []
    for names in (("v1", "v2"), ("v3", "v4")):
        runs = {name: build_run(tmp_path / name, is_embedding=False, prefix=name) for name in names}
        for name, run in runs.items():
            write_manifest(run.location)
            moved[name] = str(run.source.rename(tmp_path / f"{name} moved"))
        places.append(str(tmp_path / "".join(names)))
        combine([(name, run.location) for name, run in runs.items()], RunLocation.open(places[-1]))
    check_moved(moved, places)
    _, images, _ = open_runs(places, None, DataConfig(moved=moved), seed=0)
    assert len([images[at]["image"] for at in range(len(images))]) == len(images)
    with pytest.raises(ConfigError, match=r"no images 'v5' to be moved: the runs have the names v1, v2, v3, v4"):
        check_moved({**moved, "v5": "/elsewhere"}, places)
