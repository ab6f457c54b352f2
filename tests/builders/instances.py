"""An instance table's smallest content: one box on a small image."""

import numpy as np
import torch

from pseudoris.workers.masks import rle
from pseudoris.workers.masks.instance_files import read_instance_table

SIZE = (20, 30)
BOX = (4, 5, 14, 12)


def box_mask(box=BOX):
    x0, y0, x1, y1 = box
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def code(box=BOX):
    return rle.encode(torch.from_numpy(box_mask(box))[None])[0]


def segmentation(box=BOX):
    return {"size": list(SIZE), "counts": code(box)}


def instances(path, *, min_score=0.5, key="a.jpg", size=SIZE):
    return read_instance_table(path, min_score).instances("0" * 16, key, size)


def masks(path, **settings):
    return rle.decode(instances(path, **settings).counts, SIZE)
