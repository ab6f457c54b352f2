"""The `datasets` folder through `load_dataset` itself, offline, with nothing but the folder."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pseudoris.interchange.exports import huggingface
from tests.interchange.exports.builders import LONG_TEXT, UPRIGHT, BuiltRun, build_run, export, jpeg
from tests.interchange.exports.readers_huggingface import open_folder

HAS_PLAIN_PATHS = True


def test_the_folder_opens_without_a_network(exported, built_run, monkeypatch):
    root, _ = exported("hf")
    refused = Mock(side_effect=AssertionError("the network was asked"))
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    rows = list(open_folder(root))
    assert [row["image_id"] for row in rows] == list(built_run.with_texts())
    for row in rows:
        assert row["image"].size == (row["width"], row["height"]) == UPRIGHT.shape[1::-1]
        assert all(len(mask["distinctiveness"]) == len(mask["expressions"]) for mask in row["masks"])


def test_objects_are_a_dict_of_lists_as_the_detection_example_of_transformers_reads_them(built_run, place):
    """examples/pytorch/object-detection/run_object_detection.py (3a275d3): `image_id` an int, boxes x, y, w, h."""
    export("hf", built_run, place, layout="objects")
    rows = open_folder(Path(place.root))
    found = rows.features["objects"]
    category = getattr(found["category"], "feature", found["category"])
    assert getattr(category, "names", None) == ["object"]
    due = built_run.with_texts()
    assert [row["source_image_id"] for row in rows] == list(due)
    numbers = [number for row in rows for number in row["objects"]["id"]]
    assert numbers == [*range(1, 1 + len(numbers))]
    for number, row in enumerate(rows, 1):
        objects, masks = row["objects"], due[row["source_image_id"]]
        assert row["image_id"] == number
        assert {len(values) for values in objects.values()} == {len(masks)}
        assert objects["category"] == [0] * len(masks)
        assert objects["area"] == [int(mask.pixels.sum()) for mask in masks]
        assert objects["expressions"] == [list(mask.texts) for mask in masks]
        for picture, (x, y, width, height), mask in zip(objects["mask"], objects["bbox"], masks, strict=True):
            assert np.array_equal(np.asarray(picture), np.where(mask.pixels, 255, 0))
            assert mask.pixels[y : y + height, x : x + width].sum() == mask.pixels.sum()


def test_each_export_loads_its_own_rows_out_of_one_cache(built_run, tmp_path_factory):
    """Two in folders of one name, another run in place of the first, another layout, an image that is gone."""
    cache, photos = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("photos")
    pictures = tuple((key, jpeg(), (("words of another run",),)) for key in ("a/plain.jpg", "b.jpg"))
    other = build_run(tmp_path_factory.mktemp("other") / "run", pictures, embed=False, source=photos)
    place, same_name = (tmp_path_factory.mktemp("exports") / "hf" for _ in range(2))

    def loaded(run: BuiltRun, place: Path, *, is_overwriting: bool = False, layout: str = "masks") -> list[str]:
        export("hf", run, place, is_overwriting=is_overwriting, layout=layout)
        texts = [row[layout] for row in open_folder(place, cache).select_columns([layout])]
        masks = [each if layout == "masks" else [each] for each in texts]
        return [mask["expressions"] for each in masks for mask in each]

    texts = [[list(mask.texts) for mask in masks] for masks in built_run.with_texts().values()]
    assert loaded(built_run, place) == [each for of_image in texts for each in of_image]
    words = ["words of another run"]
    assert loaded(other, same_name) == [words, words]
    assert loaded(other, place, is_overwriting=True) == [words, words]
    assert loaded(other, place, is_overwriting=True, layout="objects") == [[words], [words]]
    (photos / "b.jpg").unlink()
    assert loaded(other, place, is_overwriting=True, layout="objects") == [[words]]


def test_row_groups_are_bounded_so_that_a_reader_holds_one(tmp_path_factory, place):
    pictures = tuple((f"{number:03d}.jpg", jpeg(), (("a half",),)) for number in range(101))
    export("hf", build_run(tmp_path_factory.mktemp("many") / "run", pictures, per_shard=101), place)
    metadata = pq.read_metadata(Path(place.root) / "data" / "train-00000.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [100, 1]
    assert open_folder(Path(place.root)).num_rows == 101


def test_files_end_at_the_target_size_and_read_as_one_split(built_run, place):
    report = export("hf", built_run, place, target_bytes=2_000, split="validation")
    root = Path(place.root)
    names = sorted(path.name for path in (root / "data").iterdir())
    assert names == [f"validation-{number:05d}.parquet" for number in range(len(names))]
    assert report.files["validation"] == len(names) > 1
    assert open_folder(root).num_rows == report.rows["validation"]
    assert open_folder(root).split == "validation"


def test_the_card_tells_the_hub_what_it_is_and_leaves_the_licence_open(built_run, place):
    export("hf", built_run, place, max_tokens=17)
    _, head, text = (Path(place.root) / "README.md").read_text("utf-8").split("---\n", 2)
    found = yaml.safe_load(head)
    assert found["license"] == "unknown"
    assert found["task_categories"] == ["image-segmentation"]
    assert found["size_categories"] == ["n<1K"]
    (config,) = found["configs"]
    assert config["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert f"| images | {len(built_run.with_texts(lambda text: text != LONG_TEXT))} |" in text
    assert "| left out: expressions of more than 17 CLIP tokens | 3 |" in text
    assert "| quarantined images | 1 |" in text
    assert built_run.header.identity.weights["propose"] in text
    assert "To be filled in" in text
    assert "made by models" in found["pretty_name"]


@pytest.mark.parametrize("layout", ["masks", "objects"])
def test_the_card_names_the_fields_of_its_layout(exported, layout):
    root, _ = exported("hf", layout=layout)
    text = (root / "README.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    (row,) = open_folder(root).select([0])
    inner, before = (row[layout], layout) if layout == "objects" else (row[layout][0], "masks[]")
    wanted = {*(row.keys() - {layout}), *(f"{before}.{name}" for name in inner)}
    assert {name for each in rows for name in re.findall("`([^`]+)`", each)} == wanted
    assert f'row["{layout}"]' in text


def test_the_card_of_an_import_says_that_people_wrote_it(built_run, place):
    header = built_run.header.model_copy(update={"origin": "import"})
    export("hf", type(built_run)(built_run.location, header, built_run.truth), place)
    text = (Path(place.root) / "README.md").read_text("utf-8")
    assert "written by people" in text
    assert "No person" not in text
    assert "distinctiveness >" not in text
    assert "synthetic" not in text
    assert "null of people's |" in text


@pytest.mark.parametrize(
    ("num_images", "size"), [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (50_000_000, "10M<n<100M"), (10**9, None)]
)
def test_the_size_has_the_hubs_name(built_run, num_images, size):
    found = huggingface.head({"train": num_images}, built_run.header, title="x", licence=None, sha256="")
    assert found["size_categories"] == [size or "100M<n<1B"]
