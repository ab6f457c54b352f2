"""Masks, texts and objects of an annotation, crossed."""

from __future__ import annotations

import pytest

from experiments.crossing import CELLS, Cell, CrossedScene, counts_of
from experiments.quality.scene_runs import SPEAKERS, said_by_annotators, write_scenes
from experiments.quality.written_runs import write_run
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.training.dataset import RisDataset, SampleSpec
from tests.builders.scene_runs import annotated

TEXTS = SampleSpec(parts=("text",), expressions_per_mask=None)


@pytest.fixture(scope="module")
def crossed() -> list[CrossedScene]:
    """Return scenes with most of their masks, ragged, and texts of every quality, some of them kept."""
    scenes = [make_scene(Split.DEMO, number) for number in range(4)]
    keys = [f"scene-{number}.png" for number in range(4)]
    entries = [PlanEntry(0, at, image_id(key), key, 100, None, 5) for at, key in enumerate(keys)]
    return [CrossedScene.of(scene, annotated(entry, scene)) for scene, entry in zip(scenes, entries, strict=True)]


def _texts(scene: CrossedScene, *cell: str) -> list[tuple[str, ...]]:
    image = scene.of_cell(Cell(*cell))
    return [
        tuple(each.text for each in image.expressions if each.target_mask_ids == (mask.mask_id,))
        for mask in image.masks
    ]


def test_every_object_with_a_mask_has_all_of_its_captions_or_the_right_ones_or_the_annotators(crossed) -> None:
    for scene in crossed:
        matched = sorted(scene.mask_of)
        assert _texts(scene, "SAM's", "drawn", "all") == [tuple(e.text for e in scene.drawn[at]) for at in matched]
        right = [tuple(each.text for each in scene.right[at]) for at in matched if scene.right[at]]
        assert _texts(scene, "SAM's", "right", "all") == right
        said = [tuple(said_by_annotators(scene.scene, at)) for at in matched]
        assert _texts(scene, "SAM's", "simulated annotators'", "all") == [each for each in said if each]


def test_what_the_filter_leaves_is_every_object_of_which_it_keeps_a_caption(crossed) -> None:
    counts = counts_of(crossed)
    left = sum(len(scene.of_cell(Cell("SAM's", "drawn", "left by the filter")).masks) for scene in crossed)
    assert left == counts["left_by_filter"] <= counts["objects"] - counts["without_mask"]


def test_every_cell_is_a_run_that_datasets_read(crossed, tmp_path) -> None:
    write_scenes(tmp_path, [scene.scene for scene in crossed], SPEAKERS["first"])
    for number, cell in enumerate((CELLS[0], CELLS[-1])):
        run = write_run(tmp_path, tmp_path / f"run-{number}", [scene.of_cell(cell) for scene in crossed])
        read = [tuple(sample["expressions"]) for sample in RisDataset(run, TEXTS)]
        assert sorted(read) == sorted(
            texts for scene in crossed for texts in _texts(scene, cell.masks, cell.texts, cell.objects) if texts
        )
