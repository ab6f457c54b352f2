"""CutLER's instances of a folder of images as the table that `masks.prior.kind=table` reads.

    python examples/cutler_instances.py CUTLER WEIGHTS IMAGES instances.parquet [--names train.txt] [--device cuda]

It runs in an environment of its own: detectron2 and what CutLER's INSTALL.md asks for, with numpy, pyarrow and
pycocotools; pseudoris is not imported. CUTLER is a clone of github.com/facebookresearch/CutLER, WEIGHTS one of its
checkpoints. An image without an instance has no row, and so no mask in the run.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as coco

# In CUTLER/cutler; the one that its README names for inference.
CONFIG: Final = "model_zoo/configs/CutLER-ImageNet/cascade_mask_rcnn_R_50_FPN_demo.yaml"
# The authors of Pseudo-RIS keep instances above it; detectron2 drops those at the threshold too.
MIN_SCORE: Final = 0.5
_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_IMAGES_A_GROUP: Final = 500
_SEGMENTATION: Final = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
_SCHEMA: Final = pa.schema([("file_name", pa.string()), ("segmentation", _SEGMENTATION), ("score", pa.float64())])
Predict = Callable[[Any], Any]


def load_predictor(cutler: Path, weights: str, *, config: str, min_score: float, device: str) -> Predict:
    """Return CutLER's predictor, which takes an image (H, W, 3) uint8 in BGR."""
    # CutLER's modules are called `config`, `engine`, …: they are found from its own folder alone.
    sys.path.insert(0, str(cutler / "cutler"))
    settings = importlib.import_module("detectron2.config").get_cfg()
    importlib.import_module("config").add_cutler_config(settings)
    settings.merge_from_file(str(cutler / "cutler" / config))
    settings.MODEL.WEIGHTS = weights
    settings.MODEL.DEVICE = device
    settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST = min_score
    # The metadata of a data set that is not there would be asked for.
    settings.DATASETS.TEST = ()
    if device == "cpu":
        # SyncBN needs CUDA; in evaluation both are the same.
        settings.MODEL.RESNETS.NORM = settings.MODEL.FPN.NORM = "BN"
    predictor: Predict = importlib.import_module("engine.defaults").DefaultPredictor(settings)
    return predictor


def rows_of(path: Path, name: str, predict: Predict) -> Iterator[dict[str, Any]]:
    """Yield a row for each instance of an image; detectron2's reader turns it upright, as ours does."""
    image = importlib.import_module("detectron2.data.detection_utils").read_image(str(path), format="BGR")
    found = predict(image)["instances"].to("cpu")
    for mask, score in zip(found.pred_masks.numpy(), found.scores.tolist(), strict=True):
        code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        segmentation = {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}
        yield {"file_name": name, "segmentation": segmentation, "score": score}


def write_table(images: Path, table: Path, predict: Predict, *, names: frozenset[str] | None = None) -> tuple[int, int]:
    """Write the table, whole or not at all; return the numbers of images and of instances."""
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in _SUFFIXES)
    paths = [path for path in paths if names is None or path.name in names]
    unfinished, num_rows = table.with_suffix(".unfinished"), 0
    with pq.ParquetWriter(unfinished, _SCHEMA) as writer:
        for start in range(0, len(paths), _IMAGES_A_GROUP):
            group = paths[start : start + _IMAGES_A_GROUP]
            rows = [row for path in group for row in rows_of(path, path.relative_to(images).as_posix(), predict)]
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
            num_rows += len(rows)
            sys.stderr.write(f"{start + len(group):,} of {len(paths):,} images: {num_rows:,} instances\n")
    unfinished.replace(table)
    return len(paths), num_rows


def main() -> int:
    """Write the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("cutler", type=Path, help="clone of facebookresearch/CutLER")
    parser.add_argument("weights", help="a checkpoint of CutLER, path or url")
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("table", type=Path, help="the .parquet to write")
    parser.add_argument("--names", type=Path, help="text file: only images of these file names, one a line")
    parser.add_argument("--config", default=CONFIG, help="in CUTLER/cutler (%(default)s)")
    parser.add_argument("--min-score", type=float, default=MIN_SCORE, help="instances above it (%(default)s)")
    parser.add_argument("--device", default="cuda", help="cuda or cpu (%(default)s)")
    given = parser.parse_args()
    if not (given.cutler / "cutler" / given.config).is_file():
        parser.error(f"{given.cutler} is no clone of CutLER: there is no cutler/{given.config}")
    if given.names is not None and not given.names.is_file():
        parser.error(f"--names {given.names} is no file: give a text file of file names, one a line")
    if find_spec("detectron2") is None:
        parser.error(f"there is no detectron2 here: install what {given.cutler / 'INSTALL.md'} asks for")
    names = None if given.names is None else frozenset(given.names.read_text(encoding="utf-8").splitlines())
    predict = load_predictor(
        given.cutler, given.weights, config=given.config, min_score=given.min_score, device=given.device
    )
    num_images, num_rows = write_table(given.images, given.table, predict, names=names)
    sys.stdout.write(f"{num_rows:,} instances of {num_images:,} images: {given.table}\n")
    return 0 if num_rows else 1


if __name__ == "__main__":
    sys.exit(main())
