"""Tensors are read; a pickle with more than tensors is refused, without advice to load it nevertheless."""

from __future__ import annotations

import os
import pickle
import traceback
import tracemalloc

import numpy as np
import pytest
import torch

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.learning.checkpoint_folder import load_checkpoint
from pseudoris.workers.checkpoints.tensor_files import FULL_VOCABULARY, expand_vocabulary, load_into, load_tensors
from pseudoris.workers.masks.instances import load_detector


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


READERS = {
    "tensors": load_tensors,
    "weights": lambda path: load_into(torch.nn.Linear(1, 1), WeightsConfig(uri=str(path))),
    "detector": lambda path: load_detector(str(path)),
    "training": load_checkpoint,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", ["archive", "bare pickle", "numpy number"])
def test_a_refusal_gives_no_advice_to_load_the_file_unsafely(tmp_path, reader, form):
    path = tmp_path / "w.pth"
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(Evil(), protocol=2))
    else:
        torch.save({"model": Evil() if form == "archive" else np.float64(3)}, path)
    with pytest.raises(
        (ConfigError, ValueError), match=r"can run any program\. Get the weights as safetensors"
    ) as caught:
        READERS[reader](path)
    shown = "".join(traceback.format_exception(caught.value))
    for advice in ("weights_only", "trusted source", "safe_globals", "\x1b"):
        assert advice not in shown.replace("weights_only=True)", "")


def test_a_refusal_names_what_the_pickle_would_call(tmp_path):
    torch.save({"a": np.float64(3)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"more than tensors and plain values \(numpy\.\S+\.scalar\)"):
        load_tensors(tmp_path / "w.pt")


def test_a_text_that_claims_two_gigabytes_takes_no_memory(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"\x80\x02X\xff\xff\xff\x7fa.")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"\w"):
            load_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


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
