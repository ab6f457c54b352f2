"""The engine of `captions.decoder=static`: many images' crops in batches of fixed shapes. For `captioner`, `listener`.

Bits depend on the number of rows of a product. So the shape of a group must follow from the number of its own crops,
and a batch always has as many groups, some of them empty. What is decoded beside an image then changes no caption.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pseudoris.primitives.measures import CACHE_BYTES, record
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.decoding_rules import Beam, Ints, SampledCaption
from pseudoris.workers.captions.distinctive import Others, SamplerRows
from pseudoris.workers.captions.engine import CachedEngine, CropSet, EncodedImage
from pseudoris.workers.captions.prefix_tree_decoder import prefix_budget
from pseudoris.workers.captions.static_decoder import CropGroup, StaticDecoder
from pseudoris.workers.captions.static_towers import CacheMemory, GroupShape, RecordedStep, StaticTowers, group_bytes
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary, check_finite, score_dtype
from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.faults.freed_memory import OWNERS
from pseudoris.workers.pass_sizes import LISTENER_ROWS

# The number of crops of a group is padded to the next of these sizes, or above 31 to a multiple of `_FURTHER`.
_BUCKETS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 31)
_FURTHER = 8
_MOST_GROUPS = 64
# These are the most texts and the most crops of a listener's group, and the most groups of a batch.
_TEXTS_A_READ, _CROPS_A_READ, _MOST_READS = 32, 16, 8


def bucket_of(num_crops: int) -> int:
    """Return the number of crops that a group of `num_crops` is padded to."""
    return next((size for size in _BUCKETS if num_crops <= size), -(-num_crops // _FURTHER) * _FURTHER)


# A placed group has the numbers of its targets among all crops, and of its sampled rows among all rows.
_PlacedGroup = tuple[CropGroup, Ints, Ints]


class StaticEngine(CachedEngine):
    """Distinctive caption sampling and beam search in fixed shapes (method page section 3)."""

    towers: CachedCocaTowers
    is_static = True
    # This many crops are captioned together: 16 images of ten masks and four kinds, 1.4 GB of pixels and encodings.
    crops_together = 640

    def __init__(self, towers: CachedCocaTowers, *arguments: Any, **named: Any) -> None:
        """As `CachedEngine`; rows that the fixed shapes cannot decide are decoded over `towers`."""
        super().__init__(towers, *arguments, **named)
        self._decoders: dict[GroupShape, StaticDecoder] = {}
        self._readers: dict[GroupShape, StaticReader] = {}
        # All decoders and readers share this memory. Recorded steps use its addresses, so they are dropped with it.
        self._memory: CacheMemory | None = None
        self._budget = prefix_budget(self._config, image_bytes=0)
        OWNERS.add(self)

    def free_memory(self) -> None:
        """Free the caches and all that is recorded over them."""
        self._decoders.clear()
        self._readers.clear()
        self._memory = None
        # Steps and decoders refer to each other, so only the garbage collector frees them.
        gc.collect()

    def _decode(
        self,
        encoded: Sequence[EncodedImage],
        crop_sets: Sequence[CropSet],
        others: Sequence[Others],
        rows: SamplerRows,
        searched: Sequence[int],
    ) -> tuple[Callable[[int], SampledCaption], Callable[[int], Beam]]:
        tokens = torch.cat([image.tokens for image in encoded])
        # Captions are by row, beams by crop. None stands for what the tree decoder must decide.
        captions: dict[int, SampledCaption | None] = {}
        beams: dict[int, Beam | None] = dict.fromkeys(searched)
        for shape, groups in self._groups(encoded, crop_sets, others, rows, tokens.shape[1]).items():
            if shape not in self._decoders:
                towers = self._towers_of(shape, tokens.shape[1], _MOST_GROUPS)
                self._decoders[shape] = StaticDecoder(
                    towers, self.vocabulary, self.special, self._config, samplers=self._samplers
                )
            decoder = self._decoders[shape]
            for first in range(0, len(groups), decoder.num_groups):
                part = groups[first : first + decoder.num_groups]
                drawn = decoder.decode([group for group, _, _ in part], tokens)
                for (_, targets, of_targets), (of_rows, of_crops) in zip(part, drawn, strict=True):
                    captions |= zip(of_targets.tolist(), of_rows, strict=True)
                    beams |= zip(targets.tolist(), of_crops, strict=bool(of_crops))
            # The name `decoder` would keep the decoder's memory, which the next shape may need.
            del decoder
        self._decide_in_tree(encoded, crop_sets, others, rows, captions, beams)
        caption_of, beam_of = (cast(Callable[[int], Any], each.__getitem__) for each in (captions, beams))
        return caption_of, beam_of

    def _groups(
        self,
        encoded: Sequence[EncodedImage],
        crop_sets: Sequence[CropSet],
        others: Sequence[Others],
        rows: SamplerRows,
        num_image_tokens: int,
    ) -> Mapping[GroupShape, Sequence[_PlacedGroup]]:
        """Return groups by shape. Each crop is a target of one group; the targets are a group's first crops."""
        before = np.cumsum([0, *(len(image.tokens) for image in encoded)])
        chosen = [each.indices for each in others if each.how == "nearest"]
        named = iter(to_host(*chosen) if chosen else ())
        rules, num_beams = np.arange(len(self._samplers)), self._config.beam.num_beams // self._config.beam.num_groups
        found: defaultdict[GroupShape, list[_PlacedGroup]] = defaultdict(list)
        first_crop = 0
        for (image, kind), part in zip(crop_sets, others, strict=True):
            num_crops, num_others = part.indices.shape
            is_all, members = part.how == "all", list[tuple[Ints, torch.Tensor]]()
            size = bucket_of(num_crops if is_all else 1 + num_others)
            shape = GroupShape(size, size if is_all else 1, len(rules), num_beams, self._config.max_length - 1)
            shape = self._fitting(shape, num_image_tokens)
            if is_all:
                weights = part.weights.new_zeros(num_crops, num_crops).scatter_(1, part.indices, part.weights)
                for first in range(0, num_crops, shape.targets):
                    rolled = weights.roll((-first, -first), (0, 1)) if first else weights
                    rolled = rolled[: min(shape.targets, num_crops - first)]
                    members.append((np.roll(np.arange(num_crops), -first), rolled))
            else:
                indices = next(named) if num_others else np.zeros((num_crops, 0), dtype=np.int64)
                for crop, of_crop in enumerate(indices):
                    members.append((np.array([crop, *of_crop]), F.pad(part.weights[crop : crop + 1], (1, 0))))
            encodings = before[image] + encoded[image].unique_crop_of[kind]
            for crops, of_members in members:
                targets = first_crop + crops[: len(of_members)]
                of_targets = (targets[:, None] * len(rules) + rules).reshape(-1)
                group = CropGroup(encodings[crops], of_members, rows.uniform[of_targets])
                found[shape].append((group, targets, of_targets))
            first_crop += num_crops
        return found

    def _fitting(self, shape: GroupShape, num_image_tokens: int) -> GroupShape:
        while shape.targets > 1 and self._bytes(shape, num_image_tokens) > self._budget:
            shape = replace(shape, targets=shape.targets - 1)
        return shape

    def _bytes(self, shape: GroupShape, num_image_tokens: int) -> int:
        """Return the bytes of a group: its caches, and what a step makes of them, which a recording keeps."""
        blocks = self.towers.blocks
        # `of_pairs` counts the MLP before and after activation and some states, `of_vocabulary` logits and their order.
        of_pairs = shape.pairs * 14 * blocks.width * blocks.like.element_size()
        of_vocabulary = shape.prefixes * self.vocabulary.size * 2 * score_dtype(blocks.like.dtype).itemsize
        return group_bytes(blocks, shape, num_image_tokens) + of_pairs + of_vocabulary

    def _towers_of(self, shape: GroupShape, num_image_tokens: int, most_groups: int) -> StaticTowers:
        """Return towers over as many groups as the budget has room for, at least one."""
        blocks = self.towers.blocks
        each, caches = self._bytes(shape, num_image_tokens), group_bytes(blocks, shape, num_image_tokens)
        num_groups = min(max(self._budget // each, 1), most_groups)
        if self._memory is None or self._memory.num_bytes < num_groups * caches:
            # The whole budget is taken at once, so that recordings stay valid until a larger group comes.
            self.free_memory()
            self._memory = CacheMemory(blocks.like, max(num_groups * caches, self._budget))
        record(CACHE_BYTES, num_groups * each)
        return StaticTowers(blocks, shape, num_groups, num_image_tokens, self._memory)

    def read(self, encodings: Sequence[torch.Tensor], texts: Sequence[Ints]) -> NDArray[np.float64]:
        """Return Σ log p(token | prefix, crop) of R texts, EOS included, under U encoded crops, (R, U)."""
        image_tokens = torch.stack(tuple(encodings))
        num_crops, longest = len(image_tokens), max(map(len, texts))
        num_positions = -(-longest // _FURTHER) * _FURTHER
        shape = GroupShape(bucket_of(min(num_crops, _CROPS_A_READ)), _TEXTS_A_READ, 1, 0, num_positions)
        shape = self._fitting(shape, image_tokens.shape[1])
        if shape not in self._readers:
            towers = self._towers_of(shape, image_tokens.shape[1], _MOST_READS)
            self._readers[shape] = StaticReader(towers, self.vocabulary, self.special)
        places = [
            (slice(row, row + shape.targets), slice(crop, crop + shape.crops))
            for row in range(0, len(texts), shape.targets)
            for crop in range(0, num_crops, shape.crops)
        ]
        reader, numbers, sums = self._readers[shape], np.arange(num_crops), np.zeros((len(texts), num_crops))
        for first in range(0, len(places), reader.num_groups):
            part = places[first : first + reader.num_groups]
            found = reader.read([(texts[rows], numbers[crops]) for rows, crops in part], image_tokens)
            for place, of_group in zip(part, found, strict=True):
                sums[place] = of_group
        return sums

    def _decide_in_tree(
        self,
        encoded: Sequence[EncodedImage],
        crop_sets: Sequence[CropSet],
        others: Sequence[Others],
        rows: SamplerRows,
        captions: dict[int, SampledCaption | None],
        beams: dict[int, Beam | None],
    ) -> None:
        """Decode over a prefix tree, one crop set at a time, what the top logits could not decide."""
        first = 0
        for crop_set, part in zip(crop_sets, others, strict=True):
            crops = range(first, first + len(part.indices))
            first = crops.stop
            of_set = [row for row in np.flatnonzero(np.isin(rows.target, crops)).tolist() if captions[row] is None]
            of_crops = [crop for crop in crops if beams and beams[crop] is None]
            if not of_set and not of_crops:
                continue
            if self._memory is not None:
                # The memory of the fixed shapes is freed, because the caches of the tree decoder need it.
                self.free_memory()
            some = SamplerRows(
                rows.target[of_set] - crops.start, rows.top_k[of_set], rows.top_p[of_set], rows.uniform[of_set]
            )
            searched = [crop - crops.start for crop in of_crops]
            caption_of, beam_of = super()._decode(encoded, [crop_set], [part], some, searched)
            captions |= {row: caption_of(number) for number, row in enumerate(of_set)}
            beams |= {crop: beam_of(number) for crop, number in zip(of_crops, searched, strict=True)}


class StaticReader:
    """Scores texts under crops in fixed shapes, as `listener.TeacherForcing` does over a prefix tree: without a draw.

    It reads batches of one shape, of up to G groups; a group has R texts and C crops, and scores all by all.
    """

    def __init__(self, towers: StaticTowers, vocabulary: Vocabulary, special: SpecialTokens) -> None:
        """Allocate the state of a batch of `towers`, which have no beams."""
        self._towers, self._vocabulary, self._special = towers, vocabulary, special
        self.num_groups, shape, device = towers.num_groups, towers.shape, towers.blocks.like.device
        new = partial(torch.zeros, device=device)
        texts = (towers.num_groups, shape.rows)
        # Column 1 is SOT. Column 0 is -1, because there is no token before SOT.
        self._tokens = new((*texts, 2 + shape.positions), dtype=torch.int64)
        self._lengths, self._position = new(texts, dtype=torch.int64), new(1, dtype=torch.int64)
        self._sums = new((towers.num_groups, shape.crops, shape.rows), dtype=torch.float64)
        self._zero = new(())
        self._step = RecordedStep(self._one_step, towers.recordings)

    @torch.inference_mode()
    def read(
        self, groups: Sequence[tuple[Sequence[Ints], Ints]], image_tokens: torch.Tensor
    ) -> list[NDArray[np.float64]]:
        """Return Σ log p(token | prefix, crop) of each group, (texts, crops) float64.

        Args:
            groups: Up to R texts, EOS included, and up to C numbers of encodings.
            image_tokens: All encodings (U, T, D).

        Raises:
            ImageError: A score is beyond the range of the precision.
        """
        shape, special, device = self._towers.shape, self._special, self._tokens.device
        tokens = np.full(self._tokens.shape, special.eos)
        tokens[:, :, 0], tokens[:, :, 1] = -1, special.sot
        lengths, crops = np.zeros(tokens.shape[:2], np.int64), np.zeros((len(tokens), shape.crops), np.int64)
        for number, (texts, of_group) in enumerate(groups):
            crops[number, : len(of_group)] = of_group
            for row, text in enumerate(texts):
                tokens[number, row, 2 : 2 + len(text)], lengths[number, row] = text, len(text)
        self._tokens.copy_(to_device(tokens, device))
        self._lengths.copy_(to_device(lengths, device))
        self._position.zero_()
        self._sums.zero_()
        self._towers.attend_to(image_tokens[to_device(crops.reshape(-1), device)])
        for _ in range(int(lengths.max())):
            self._step()
        (sums,) = to_host(self._sums)
        check_finite(np.isfinite(sums).all())
        return [sums[number, : len(of_group), : len(texts)].T for number, (texts, of_group) in enumerate(groups)]

    def _one_step(self) -> None:
        position = self._position
        before, newest, following = (self._tokens.index_select(2, position + ahead)[..., 0] for ahead in range(3))
        hidden = self._towers.step(newest, before, position).flatten(0, 2)
        totals = self._vocabulary.log_totals(hidden, rows_together=LISTENER_ROWS)
        following = following[:, None].expand(self._sums.shape).flatten()
        logits = self._vocabulary.logits_at(hidden, following[:, None])[:, 0]
        log_probs = (logits.double() - totals.double()).view(self._sums.shape)
        self._sums.add_(log_probs.where((position < self._lengths)[:, None], self._zero))
        position.add_(1)
