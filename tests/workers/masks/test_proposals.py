"""Candidates become proposals: encoded, with exclusive boxes, none of them empty."""

import numpy as np
import torch

from pseudoris.workers.masks import rle
from pseudoris.workers.masks.generator import MaskCandidates, encode_proposals, inclusive_boxes, pack_bits


def candidates_of(masks):
    scores = torch.arange(len(masks)) / 10
    return MaskCandidates(
        (masks.shape[1], masks.shape[2]), pack_bits(masks), inclusive_boxes(masks), scores, scores + 0.5
    )


def test_empty_masks_are_left_out_and_the_scores_stay_with_their_masks():
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[2, 4, 6] = True
    proposals = encode_proposals(candidates_of(masks))
    assert len(proposals) == 2
    assert proposals.boxes_px == ((2, 1, 6, 3), (6, 4, 7, 5))
    assert proposals.areas_px.tolist() == [8, 1]
    assert proposals.predicted_iou.tolist() == [0.0, np.float32(0.2)]
    np.testing.assert_array_equal(rle.decode(proposals.counts, (5, 7)), masks[[0, 2]].numpy())


def test_encoding_in_chunks_changes_nothing(monkeypatch):
    masks = torch.rand(7, 9, 11, generator=torch.Generator().manual_seed(0)) > 0.5
    whole = encode_proposals(candidates_of(masks))
    monkeypatch.setattr("pseudoris.workers.masks.generator._CHUNK_PIXELS", 2 * 9 * 11)
    assert encode_proposals(candidates_of(masks)).counts == whole.counts


def test_no_candidates_give_no_proposals():
    proposals = encode_proposals(candidates_of(torch.zeros(0, 4, 4, dtype=torch.bool)))
    assert (len(proposals), proposals.size, proposals.boxes_px) == (0, (4, 4), ())
