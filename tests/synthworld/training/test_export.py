import hashlib

import pytest
import torch
from safetensors.torch import load_file

from schemas.config import WeightsConfig
from synthworld.training.clip import ClipTrainee
from synthworld.training.export import shipped_state, write_weights
from synthworld.training.vocabulary import caption_vocabulary
from workers.checkpoints.models import load_clip


def test_a_model_trained_on_the_compact_vocabulary_is_the_full_one(tmp_path):
    torch.manual_seed(0)
    vocabulary = caption_vocabulary()
    trainee = ClipTrainee(vocabulary).eval()
    path = tmp_path / "clip.safetensors"
    digest = write_weights(path, shipped_state(trainee.model.state_dict(), vocabulary))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    full = load_clip("builtin:tiny/clip.json", WeightsConfig(uri=str(path)))
    compact_tokens = vocabulary.encode(["a photo of a small red circle", "the star with a hat"])
    full_tokens = torch.tensor(vocabulary.ids)[compact_tokens]
    trainee.model.load_state_dict({name: t.half().float() for name, t in trainee.model.state_dict().items()})
    with torch.no_grad():
        assert torch.equal(trainee.model.encode_text(compact_tokens), full.encode_text(full_tokens))


def test_the_file_holds_half_precision_and_the_used_ids(tmp_path):
    vocabulary = caption_vocabulary()
    write_weights(tmp_path / "w.safetensors", shipped_state({"token_embedding.weight": torch.ones(3, 2)}, vocabulary))
    state = load_file(tmp_path / "w.safetensors")
    assert state["token_embedding.weight"].dtype == torch.float16
    assert tuple(state["token_ids"].tolist()) == vocabulary.ids


def test_a_weight_beyond_half_precision_is_refused():
    with pytest.raises(ValueError, match=r"1 tensors are not finite in float16, first \['w'\]"):
        shipped_state({"w": torch.tensor([1e6])})
