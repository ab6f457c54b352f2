"""The bytes of the tensors that a test makes, in a process where other tests' tensors still live, or go meanwhile."""

import gc
import weakref
from collections.abc import Iterable

import torch


class LivingTensors:
    """Weighs tensors that are born after it."""

    def __init__(self) -> None:
        self._others = [weakref.ref(each) for each in _living()]

    def bytes(self) -> int:
        """Return the bytes of these tensors that live, each storage once."""
        storages = _sizes(_living())
        others = _sizes(each for ref in self._others if (each := ref()) is not None)
        return sum(size for place, size in storages.items() if place not in others)


def _living() -> list[torch.Tensor]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, torch.Tensor) and each.layout == torch.strided]


def _sizes(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    memories = (each.untyped_storage() for each in tensors)
    return {memory.data_ptr(): memory.nbytes() for memory in memories}
