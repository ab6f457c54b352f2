"""The benchmark of the slots of captions, on a few images: it ends, and slots are filled as they should be."""

import json

import numpy as np
import torch

from evidence.benchmarks.caption_slots import Ended, main
from pseudoris.workers.captions import static_slots
from pseudoris.workers.captions.static_towers import SlotShape


def test_slots_compute_little_more_pairs_and_steps_than_captions_need(tmp_path):
    main(["--gib", "2", "--images", "4", "--json", str(tmp_path / "found.json")])
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert 1 <= found["pairs"] <= 1.25
    assert 1 <= found["steps"] <= 1.3


def test_the_host_looks_at_the_slots_of_a_base_batch_no_more_than_five_times(monkeypatch):
    # 256 images are twenty batches of 640 crops. Half a read of each image is six of a batch; its captions are one.
    looks, to_host = [], static_slots.to_host
    monkeypatch.setattr(static_slots, "to_host", lambda *read: (looks.append(read), to_host(*read))[1])
    slots = Ended(SlotShape(rows=1024, pairs=8192, members=31, searches=103, beams=2, positions=29), 640, 10)
    steps = np.random.default_rng(2).integers(5, 29, size=7040)
    with torch.inference_mode():
        num_steps = slots.decode([12] * 640, steps[:6400], steps[6400:])
    assert len(looks) <= 5
    assert num_steps <= 1.3 * 12 * steps[:6400].sum() / 8192
