"""CutLER's table, written by the script against stubs of detectron2 and of CutLER's modules, as a prior reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.cutler_instances import CONFIG
from pseudoris.primitives import rle
from pseudoris.workers.masks.instances import read_instance_table
from tests.builders.images import oriented
from tests.builders.sources import write_files

SCRIPT = Path(__file__).parents[2] / "examples" / "cutler_instances.py"
SIZE = (12, 20)
# The names that the script uses, with what each does in the real package.
STUBS = {
    "detectron2/__init__.py": "",
    "detectron2/data/__init__.py": "",
    "detectron2/config.py": """
from types import SimpleNamespace as Node
class Settings(Node):
    def merge_from_file(self, path):
        assert self.has_cutler
        self.text = open(path).read()
def get_cfg():
    parts = dict(ROI_HEADS=Node(SCORE_THRESH_TEST=0.05), RESNETS=Node(NORM="SyncBN"), FPN=Node(NORM="SyncBN"))
    return Settings(MODEL=Node(WEIGHTS="", DEVICE="cuda", **parts), DATASETS=Node(TEST=("coco",)))
""",
    "detectron2/data/detection_utils.py": """
import numpy
from PIL import Image, ImageOps
def read_image(path, format):
    assert format == "BGR"
    return numpy.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))[:, :, ::-1]
""",
    "CutLER/cutler/config/__init__.py": """
def add_cutler_config(settings):
    settings.has_cutler = True
""",
    "CutLER/cutler/engine/__init__.py": "",
    "CutLER/cutler/engine/defaults.py": """
import torch
class Instances:
    def to(self, device):
        return self
class DefaultPredictor:
    def __init__(self, settings):
        model = settings.MODEL
        assert (settings.text, model.WEIGHTS, settings.DATASETS.TEST) == ("demo", "w.pth", ())
        assert {model.RESNETS.NORM, model.FPN.NORM} == {"BN" if model.DEVICE == "cpu" else "SyncBN"}
        self.least = model.ROI_HEADS.SCORE_THRESH_TEST
    def __call__(self, image):
        # Blue pixels, and all of it.
        masks = torch.from_numpy(image[:, :, 0] > 128)
        found, scores = torch.stack([masks, torch.ones_like(masks)]), torch.tensor([0.75, 0.5])
        instances = Instances()
        instances.pred_masks, instances.scores = found[scores > self.least], scores[scores > self.least]
        return {"instances": instances}
""",
    f"CutLER/cutler/{CONFIG}": "demo",
}


@pytest.fixture
def place(tmp_path):
    """The stubs, and a folder of two photographs, right half blue; the second lies on its side, by its EXIF."""
    write_files(tmp_path, {name: text.encode() for name, text in STUBS.items()})
    (tmp_path / "photos" / "more").mkdir(parents=True)
    upright = Image.new("RGB", SIZE[::-1], "red")
    upright.paste("blue", (SIZE[1] // 2, 0, SIZE[1], SIZE[0]))
    upright.save(tmp_path / "photos" / "a.png")
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    (tmp_path / "photos" / "more" / "b.png").write_bytes(oriented(sideways, 6))
    return tmp_path


def write(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "CutLER", "w.pth", "photos", "instances.parquet", *words]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=place, env=environment)


@pytest.mark.slow
@pytest.mark.long
def test_a_prior_reads_the_upright_instances_above_the_score(place):
    done = write(place, "--device", "cpu")
    assert (done.returncode, done.stdout) == (0, "2 instances of 2 images: instances.parquet\n"), done.stderr
    table = read_instance_table(str(place / "instances.parquet"), 0.5)
    expected = np.zeros((1, *SIZE), bool)
    expected[:, :, SIZE[1] // 2 :] = True
    for key in ("a.png", "more/b.png"):
        (counts,) = table.instances("0" * 16, key, SIZE).counts
        np.testing.assert_array_equal(rle.decode([counts], SIZE), expected)
    (place / "names.txt").write_text("b.png\nc.png\n")
    done = write(place, "--names", "names.txt", "--min-score", "0.4")
    assert done.stdout == "2 instances of 1 images: instances.parquet\n", done.stderr
    assert read_instance_table(str(place / "instances.parquet"), 0.5).instances("0" * 16, "a.png", SIZE).rows == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (f"CutLER/cutler/{CONFIG}", "CutLER is no clone of CutLER: there is no cutler/model_zoo"),
        ("names.txt", "--names names.txt is no file: give a text file of file names, one a line\n"),
        ("detectron2", "there is no detectron2 here: install what CutLER/INSTALL.md asks for\n"),
    ],
)
def test_what_is_missing_is_named(place, missing, message):
    (place / "names.txt").write_text("a.png\n")
    (place / missing).rename(place / "elsewhere")
    done = write(place, "--names", "names.txt")
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr
