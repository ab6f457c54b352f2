import pytest
import torch

from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.tensor_files import FULL_VOCABULARY, expand_vocabulary

IDS = torch.tensor([0, 5, 320, 49406, 49407])


def full_state():
    embedding = torch.zeros(FULL_VOCABULARY, 3)
    embedding[IDS] = torch.randn(len(IDS), 3)
    projection = torch.zeros(4, FULL_VOCABULARY)
    projection[:, IDS] = torch.randn(4, len(IDS))
    return {
        "text.token_embedding.weight": embedding,
        "text_decoder.text_projection": projection,
        "proj": torch.ones(2, 2),
    }


def test_a_vocabulary_survives_the_round_trip_exactly():
    full = full_state()
    compact = full | {
        "token_ids": IDS,
        "text.token_embedding.weight": full["text.token_embedding.weight"][IDS],
        "text_decoder.text_projection": full["text_decoder.text_projection"][:, IDS],
    }
    restored = expand_vocabulary(compact, where="here")
    assert restored.keys() == full.keys()
    assert all(torch.equal(restored[name], full[name]) for name in full)


@pytest.mark.parametrize("ids", [[0, 0, 1], [0, FULL_VOCABULARY], [-1, 2]])
def test_impossible_ids_are_refused(ids):
    with pytest.raises(ConfigError, match="distinct numbers in"):
        expand_vocabulary({"token_ids": torch.tensor(ids)}, where="here")


def test_a_table_of_another_length_is_refused():
    state = {"token_ids": torch.tensor([0, 1, 2]), "token_embedding.weight": torch.zeros(2, 4)}
    with pytest.raises(ConfigError, match="has 2 tokens and token_ids 3"):
        expand_vocabulary(state, where="here")
