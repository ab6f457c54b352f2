"""Writes trained weights as the package ships them: half precision, used vocabulary rows only, safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from synthworld.training.vocabulary import CompactVocabulary
from workers.checkpoints.compact import TOKEN_IDS


def shipped_state(
    state: Mapping[str, torch.Tensor], vocabulary: CompactVocabulary | None = None
) -> dict[str, torch.Tensor]:
    """Return a state in float16, with the ids of a compact vocabulary where the model has one.

    Raises:
        ValueError: a weight is not finite in float16.
    """
    shipped = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in state.items()}
    broken = [name for name, tensor in shipped.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(f"{len(broken)} tensors are not finite in float16, first {broken[:3]}: lower the peak rate")
    if vocabulary is not None:
        shipped[TOKEN_IDS] = torch.tensor(vocabulary.ids, dtype=torch.int64)
    return shipped


def write_weights(path: Path, state: Mapping[str, torch.Tensor]) -> str:
    """Writes a safetensors file whole and returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(dict(sorted(state.items())), unfinished)
    unfinished.rename(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
