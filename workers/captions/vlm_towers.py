"""A vision-language model's decoder over a prefix tree. For `vlm_captioner`.

Each crop is a row of the batch. The keys and values of its prompt, without the last token, are its first columns. The
last prompt token is equal for all crops: it is the tree's root, as SOT is CoCa's. A level appends its pairs (prefix,
crop) as columns of their crop's row, and the mask lets each see the prompt and its own ancestors. So no cache is copied
when a prefix forks. The result must equal the model's own forward of whole sequences up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F

from pseudoris.primitives.errors import ConfigError
from pseudoris.workers.captions.decoding_rules import Ints, PrefixLevel, extend
from pseudoris.workers.captions.vocabulary_logits import score_dtype
from pseudoris.workers.device import to_device
from pseudoris.workers.faults.quarantine import may_blame_image
from pseudoris.workers.pass_sizes import PROMPTS_A_PASS

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"
# These outputs of a processor have one column for each token of the prompt.
_BY_TOKEN: Final = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
# Logits may differ from the model's own by this share of the largest logit. Half precision rounds more.
_TOLERANCES: Final = {torch.float64: 1e-9, torch.float32: 1e-3}
_HALF_TOLERANCE: Final = 0.1


# `Inputs` is a processor's output for one crop, as a batch of one.
Inputs = Mapping[str, torch.Tensor]


def layer_kinds(model: Any) -> tuple[str, ...]:
    """Return the kinds of the text model's attention layers, sorted, each once."""
    text = model.config.get_text_config()
    named = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    return tuple(sorted(set(named))) if named else ((SLIDING,) if window else (FULL,))


def longest_prefix(model: Any, sample: Inputs) -> int:
    """Return how many tokens a model has positions for from the prompt's last token on, which is a prefix's first."""
    return int(model.config.get_text_config().max_position_embeddings) - sample["input_ids"].shape[1] + 1


def shortened(inputs: Inputs, length: int) -> dict[str, torch.Tensor]:
    """Return a processor's output with the first `length` tokens of its prompt, behind all of the image's."""
    return {name: part[:, :length] if name in _BY_TOKEN else part for name, part in inputs.items()}


class VlmTowers:
    """The `Towers` of a model of `AutoModelForImageTextToText`; an encoding is the processor's output for a crop.

    The vision tower and the prompt are computed when a crop is attended to, with others of the same shape.
    """

    def __init__(self, model: Any, sample: Inputs) -> None:
        """Check on the prompt `sample` that the tree gives the logits of the model's own forward.

        Raises:
            ConfigError: They differ: the model computes with something that the tree does not know.
        """
        self._base, self._device, self._dtype = model.base_model, model.device, model.dtype
        window = getattr(model.config.get_text_config(), "sliding_window", None)
        self._kinds, self._window = layer_kinds(model), int(window or 0)
        self._root = int(sample["input_ids"][0, -1])
        self.max_prefix_length = longest_prefix(model, sample)
        self.num_pairs = self.num_asked = 0
        # A column of one crop takes this many bytes in the cache, as `_check` measures.
        self.node_bytes = 0
        try:
            with torch.inference_mode():
                self._check(model, sample)
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
            if not may_blame_image(error):
                raise
            raise ConfigError(
                f"captions: {type(model).__name__} cannot be decoded over a tree of prefixes "
                f"({type(error).__name__}: {error}): choose another model (docs/guides/vlm.md)"
            ) from error

    def image_bytes(self, encodings: Sequence[Inputs]) -> int:
        """Return the bytes of the prompts' keys and values, padded to the longest."""
        return len(encodings) * (max(each["input_ids"].shape[1] for each in encodings) - 1) * self.node_bytes

    def attend_to(self, encodings: Sequence[Inputs]) -> None:
        """Compute the prompts, a pass for some of one shape."""
        lengths = [each["input_ids"].shape[1] - 1 for each in encodings]
        longest, self._num_crops = max(lengths), len(encodings)
        # The previous crops' columns are freed first, because old and new ones may not fit at the same time.
        self._cache = self._new_cache()
        stacks: list[torch.Tensor] = []
        self._positions = torch.empty(len(encodings), dtype=torch.int64, device=self._device)
        of_shape: dict[tuple[Any, ...], list[int]] = {}
        for number, each in enumerate(encodings):
            of_shape.setdefault(tuple((name, part.shape) for name, part in each.items()), []).append(number)
        passes = (
            numbers[first : first + PROMPTS_A_PASS]
            for numbers in of_shape.values()
            for first in range(0, len(numbers), PROMPTS_A_PASS)
        )
        for some in passes:
            self._forget_offsets()
            prompts = [encodings[number] for number in some]
            batch = self._placed({name: torch.cat([each[name] for each in prompts]) for name in prompts[0]})
            cut, cache = shortened(batch, batch["input_ids"].shape[1] - 1), self._new_cache()
            self._base(**cut, cache=cache, use_cache=True)
            self._positions[some] = cut["input_ids"].shape[1]
            if getattr(self._base, "rope_deltas", None) is not None:
                self._positions[some] += self._base.rope_deltas.reshape(-1)
            filled = [part for layer in cache.layers for part in (layer.keys, layer.values)]
            stacks = stacks or [
                each.new_zeros(len(encodings), each.shape[1], longest, each.shape[3]) for each in filled
            ]
            for stack, part in zip(stacks, filled, strict=True):
                stack[some, :, : part.shape[2]] = part
        for layer, (keys, values) in enumerate(zip(stacks[::2], stacks[1::2], strict=True)):
            self._cache.update(keys, values, layer)
        numbers, lengths_of = np.arange(longest), np.array(lengths)[:, None]
        # Both are (C, L): whether a column belongs to the prompt, and its distance to the first column after it.
        self._is_prompt, self._distance = numbers < lengths_of, lengths_of - numbers

    def mark(self) -> int:
        """Return the number of columns."""
        return int(self._cache.get_seq_length())

    def rewind(self, mark: int) -> None:
        """Remove the columns at the end."""
        if (num_removed := self.mark() - mark) > 0:
            # `crop` removes as many columns as a negative number says, and refuses a positive number.
            self._cache.crop(-num_removed)

    def bytes_after(self, level: PrefixLevel, num_steps: int) -> int:
        """Count columns: as many as the crop with the most pairs needs, in each row."""
        columns: int = self.mark() - self._is_prompt.shape[1] + num_steps * int(np.bincount(level.pair_crop).max())
        return columns * self._num_crops * self.node_bytes

    def make_room(self, level: PrefixLevel, num_steps: int, budget_bytes: int) -> int:
        """Allocate nothing: a step makes its own room."""
        return self.bytes_after(level, 1)

    def step(self, level: PrefixLevel, before: Ints | None) -> tuple[torch.Tensor, Ints]:
        """Append the level's columns. The index is (P, t) int64: the columns of each pair's ancestors, and its own."""
        crops = level.pair_crop
        self.num_pairs += len(crops)
        counts = np.bincount(crops, minlength=self._num_crops)
        numbers = np.arange(len(crops)) - (np.cumsum(counts) - counts)[crops]
        own = (self.mark() + numbers)[:, None]
        paths = own if before is None else np.concatenate((before[level.pair_parent], own), axis=1)
        # Rows with fewer pairs are padded with the root token, which no other column attends to.
        tokens = np.full((self._num_crops, int(counts.max())), self._root, dtype=np.int64)
        tokens[crops, numbers] = level.tokens[level.pair_prefix]
        depth = paths.shape[1] - 1
        ids, crop, number = (to_device(each, self._device) for each in (tokens, crops, numbers))
        output = self._base(
            input_ids=ids,
            attention_mask=self._masks(crops, numbers, paths, width=tokens.shape[1]),
            position_ids=(self._positions[:, None] + depth).expand(ids.shape),
            cache=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state[crop, number], paths

    def _masks(self, crops: Ints, numbers: Ints, paths: Ints, *, width: int) -> Any:
        """Return the additive mask (C, 1, G, T) of the columns that each new one sees, by kind if layers slide."""
        masks, depth, own = {}, paths.shape[1] - 1, np.arange(width)
        for kind in self._kinds:
            prompt, ancestors = self._is_prompt, paths
            if kind == SLIDING:
                # In a sliding layer a column attends to the last `window` columns of its path, itself included.
                prompt = prompt & (self._distance + depth < self._window)
                ancestors = paths[:, -self._window :]
            # `sees` is built in host memory, because on a GPU each assignment would make the host wait.
            sees = np.zeros((self._num_crops, width, self.mark() + width), dtype=np.bool_)
            sees[:, :, : prompt.shape[1]] = prompt[:, None]
            sees[crops[:, None], numbers[:, None], ancestors] = True
            # A row that attends to nothing would be NaN, so padding attends to itself.
            sees[:, own, self.mark() + own] = True
            is_hidden = ~to_device(sees[:, None], self._device)
            zeros = torch.zeros(is_hidden.shape, dtype=self._dtype, device=self._device)
            masks[kind] = zeros.masked_fill(is_hidden, torch.finfo(self._dtype).min)
        return masks if SLIDING in masks and len(masks) > 1 else next(iter(masks.values()))

    def _forget_offsets(self) -> None:
        # A model with positions in several dimensions keeps offsets of its last images, which would shift the next.
        if hasattr(self._base, "rope_deltas"):
            self._base.rope_deltas = None

    def _placed(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        return {
            name: part.to(self._device, self._dtype if part.is_floating_point() else part.dtype)
            for name, part in inputs.items()
        }

    def _new_cache(self) -> Any:
        # The cache gets no model config, because with one, sliding layers drop columns that other prefixes need.
        from transformers import DynamicCache

        return DynamicCache()

    def _check(self, model: Any, sample: Inputs) -> None:
        self.attend_to([sample, sample])
        self.node_bytes = sum(each.keys[0, :, 0].nbytes + each.values[0, :, 0].nbytes for each in self._cache.layers)
        head, length = model.get_output_embeddings().weight, sample["input_ids"].shape[1]
        # A level is one prefix under the second of the two crops.
        parent, needs = np.zeros(1, dtype=np.int64), np.array([[False, True]])
        level, paths, newest = None, None, self._root
        whole = self._placed(sample)
        for _ in range(3):
            level = extend(level, parent, parent + newest, needs)
            hidden, paths = self.step(level, paths)
            found = hidden.to(score_dtype(hidden.dtype)) @ head.to(score_dtype(hidden.dtype)).t()
            self._forget_offsets()
            due = model(**whole, use_cache=False).logits[:, -1].to(found.dtype)
            apart = float((found - due).abs().max() / due.abs().max())
            if not apart <= _TOLERANCES.get(self._dtype, _HALF_TOLERANCE):
                raise ConfigError(
                    f"captions: {type(model).__name__} cannot be decoded over a tree of prefixes: {length} tokens and "
                    f"its logits differ from those of its own forward by {apart:.2g} of the largest. Its attention or "
                    "its head is of a kind that is not known here: choose another model"
                )
            newest = int(found.argmax())
            value_of = {"input_ids": newest, "attention_mask": 1}
            for name in whole.keys() & _BY_TOKEN:
                whole[name] = F.pad(whole[name], (0, 1), value=value_of.get(name, 0))
            length += 1
