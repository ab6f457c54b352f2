"""The pseudo-masks of texts: which phrases are asked for, and which masks are one."""

import numpy as np
import pytest

from pseudoris.store.location import RunLocation
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.training.ppt.recipes import grounded_runs
from pseudoris.training.ppt.recipes.grounded_runs import frequent_nouns, merged, pair_masks
from pseudoris.training.ppt.recipes.grounding import GroundedMask
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config
from tests.interchange.dataset.builders import build_run


def _columns(start: int, stop: int) -> np.ndarray:
    """A mask (1, 100) of whole columns, so that IoUs are quotients of numbers of columns."""
    mask = np.zeros((1, 100), np.bool_)
    mask[:, start:stop] = True
    return mask


def _found(phrase: str, start: int, stop: int, agreement: float = 0.5) -> GroundedMask:
    return GroundedMask(phrase, _columns(start, stop), 0.9, agreement)


def test_masks_that_overlap_by_seven_tenths_are_one_pseudo_mask_and_by_less_are_two() -> None:
    whole = _found("star", 0, 100)

    assert merged([whole, _found("shape", 0, 70, 0.4)], 0.7) == [whole]
    assert len(merged([whole, _found("shape", 0, 69, 0.4)], 0.7)) == 2


def test_pseudo_masks_come_in_the_order_of_their_phrases_and_no_chain_of_masks_is_one() -> None:
    # IoUs: 17/20 of the first two, 15/19 of the last two, and 15/22 of the first and the last.
    ends, middle = [_found("star", 0, 20, 0.6), _found("cup", 5, 22, 0.4)], _found("shape", 3, 20, 0.5)

    assert merged([ends[1], middle, ends[0]], 0.7) == [ends[1], ends[0]]
    assert merged([ends[0], middle, ends[1]], 0.7) == [ends[0], ends[1]]
    # Of near-equal masks that agree alike the first stays.
    found = [_found("star", 0, 100, 0.4), _found("shape", 0, 90, 0.6), _found("thing", 0, 95, 0.6)]
    assert merged(found, 0.7) == [found[1]]


SAID = ("the red circle left of the star", "a small cup", "the crab on the left")


class _Asked:
    """In the place of CLIP and SAM: keeps what it was asked, and finds nothing."""

    asked: list[tuple[set[str], int]]

    def __init__(self, *models: object) -> None:
        type(self).asked = []

    def __call__(self, image, phrases, redundant, peaks) -> list[GroundedMask]:
        self.asked.append(({*phrases}, peaks.count))
        return []


@pytest.mark.slow
def test_whole_noun_phrases_are_asked_for_and_not_their_heads_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(grounded_runs, "Grounder", _Asked)
    rows = [(0, text, {}) for text in SAID]
    source = build_run(tmp_path / "said", num_shards=1, per_shard=1, rows=lambda number: rows).location
    write_manifest(source)
    peaks = load_recipe_config("paper").pairs.peaks_per_phrase
    config = load_recipe_config("tiny", None, ("filtering.weights.uri=random:0", f"pairs.peaks_per_phrase={peaks}"))
    out = RunLocation.open(str(tmp_path / "h"))

    pair_masks(source.root, out, config, on_progress=lambda done, total: None, on_wait=print)

    # One candidate a phrase.
    assert _Asked.asked == [({"red circle", "star", "small cup", "crab"}, 1)]


def test_frequent_nouns_are_heads_of_kept_texts_alone_and_ties_go_by_the_alphabet(tmp_path) -> None:
    texts = ["the red circle left of the star", "a blue circle", "a small cup", "the crab"]
    rows = [*((0, text, {}) for text in texts), *((0, f"kite {at}", {"kept": False}) for at in range(3))]
    location = build_run(tmp_path, num_shards=1, per_shard=2, rows=lambda number: rows).location

    assert frequent_nouns(location, 8) == ["circle", "crab", "cup"]
    assert frequent_nouns(location, 1) == ["circle"]
