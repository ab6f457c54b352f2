from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.evaluation.run_images import CANDIDATE_COLUMNS, committed_images
from tests.builders.scene_runs import quarantined, said, scene_run, scenes


@pytest.fixture
def location(tmp_path):
    location = RunLocation.open(str(tmp_path / "run"))
    scene_run(location, scenes(4), per_shard=3, change=lambda i: quarantined(i) if i.key == "scene-001.png" else i)
    return location


def images(location):
    return [each for shard in OpenRun.at(location).shards() for each in committed_images(shard, *CANDIDATE_COLUMNS)]


@pytest.mark.parametrize("table", ["masks", "expressions"])
def test_rows_in_another_order_than_their_images_are_refused(location, table):
    (part,) = Path(location.root).glob(f"{table}/shard-00000000.*.parquet")
    found = pq.read_table(part)
    pq.write_table(found.take(np.arange(len(found))[::-1]), part)
    with pytest.raises(ConfigError, match=rf"the {table} of shard 0 .* not those of its images, in their order"):
        images(location)


def test_a_decoder_of_a_plug_in_counts_beside_the_known_ones(tmp_path):
    location = RunLocation.open(str(tmp_path / "run"))

    def change(image):
        mask = image.masks[0].mask_id
        return replace(image, expressions=(said(mask, "a", "greedy", "beam"), said(mask, "b")))

    scene_run(location, scenes(1), change=change)
    (image,) = images(location)
    assert image.candidates.draws.tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]
    assert image.candidates.weights().tolist() == [[1, 0, 0, 0, 2, 1], [0, 0, 0, 0, 1, 1]]
