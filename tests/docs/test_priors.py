"""The recipes of `docs/guides/priors.md` write files that a prior reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.instance_files import read_instance_table

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "priors.md").read_text(encoding="utf-8")
DETECT, WRITE_TABLE, WRAP_RESULTS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SIZE = (12, 20)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of two photographs below the working folder; the second lies on its side, by its EXIF."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    Image.new("RGB", SIZE[::-1], "red").save("photos/a.png")
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.new("RGB", SIZE, "blue").save("photos/more/b.jpg", exif=sideways)


def left_half(height, width):
    masks = np.zeros((1, height, width), dtype=bool)
    masks[:, :, : width // 2] = True
    return masks


def predictor(image):
    """Find the left half of an image, as a `DefaultPredictor` of detectron2 answers."""
    found = SimpleNamespace(pred_masks=torch.from_numpy(left_half(*image.shape[:2])), scores=torch.tensor([0.75]))
    return {"instances": SimpleNamespace(to=lambda device: found)}


def test_the_table_of_a_detector_names_each_photograph_and_its_upright_instances(photos):
    exec(DETECT + WRITE_TABLE, {"predictor": predictor})
    table = read_instance_table("instances.parquet", 0.5)
    for key in ("a.png", "more/b.jpg"):
        (counts,) = table.instances("0" * 16, key, SIZE).counts
        np.testing.assert_array_equal(rle.decode([counts], SIZE), left_half(*SIZE))
    assert read_instance_table("instances.parquet", 0.8).instances("0" * 16, "a.png", SIZE).rows == ()


def test_coco_results_beside_their_images_are_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = coco.encode(np.asfortranarray(left_half(*SIZE)[0], dtype=np.uint8))
    result = {
        "image_id": 7,
        "category_id": 1,
        "score": 0.9,
        "segmentation": {**code, "counts": code["counts"].decode()},
    }
    listed = {"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    Path("images.json").write_text(json.dumps({"images": [listed], "annotations": []}))
    Path("coco_instances_results.json").write_text(json.dumps([result, {**result, "score": 0.2}]))
    exec(WRAP_RESULTS, {})
    found = read_instance_table("instances.json", 0.5).instances("0" * 16, "a.png", SIZE)
    assert found.rows == (0,)
    np.testing.assert_array_equal(rle.decode(found.counts, SIZE), left_half(*SIZE))


def test_the_page_tells_the_priors_of_the_presets():
    prior = load_config("paper").masks.prior
    assert (prior.kind, prior.duplicates, prior.untouched) == ("unset", "keep", "first_mask")
    for name, kind in {"duplicates": "keep", "untouched": "first_mask", "match": "intersection"}.items():
        assert re.search(rf"^\| `{name}` .* \| `{kind}` \|$", PAGE, re.MULTILINE)
    assert {load_config(preset).masks.prior.kind for preset in ("tiny", "base")} == {"none"}
