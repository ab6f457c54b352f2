"""A captioner and a CLIP that learn further names start from finished weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pseudoris
from pseudoris.workers.checkpoints.tensor_files import TOKEN_IDS
from recipes.caption_recipe import ClipTrainee, CocaTrainee
from recipes.caption_styles import caption_with_names
from recipes.caption_vocabulary import caption_vocabulary

WEIGHTS = Path(pseudoris.__file__).parents[1] / "workers" / "checkpoints" / "tiny"


@pytest.mark.parametrize(("kind", "name"), [(CocaTrainee, "coca_longer"), (ClipTrainee, "clip")])
def test_known_tokens_have_the_finished_weights_and_new_ones_drawn_weights_of_their_size(kind, name):
    vocabulary, path = caption_vocabulary(caption_with_names), WEIGHTS / f"{name}.safetensors"
    finished = load_file(path)
    known = finished.pop(TOKEN_IDS).tolist()
    trainee = kind(vocabulary)
    trainee.start_from_weights(path)
    state = trainee.model.state_dict()
    places = [vocabulary.ids.index(token) for token in known]
    new = sorted(set(range(len(vocabulary.ids))) - set(places))
    by_token = 0
    for key, tensor in finished.items():
        own, whole = state[key], tensor.float()
        if own.shape != tensor.shape:
            by_token += 1
            axis = own.shape.index(len(vocabulary.ids))
            drawn, own = own.index_select(axis, torch.tensor(new)), own.index_select(axis, torch.tensor(places))
            assert drawn.std() == pytest.approx(float(whole.std()), rel=0.2)
        assert torch.equal(own, whole)
    assert by_token == (2 if kind is CocaTrainee else 1)
    assert len(new) > 40
