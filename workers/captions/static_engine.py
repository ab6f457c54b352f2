"""The engine of `captions.decoder=static`: crops of many images over a fixed number of slots.

Bits depend on the number of rows of a product. So a run has one number of slots, by its settings and its models alone,
and what is decoded beside an image changes no caption.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.measures import CACHE_BYTES, record
from pseudoris.schemas.card_settings import crops_in_fixed_shapes
from pseudoris.schemas.config import CaptionsConfig, ComputeConfig
from pseudoris.schemas.fitted import Floats
from pseudoris.workers.captions.cached_towers import CachedCocaTowers, CocaBlocks
from pseudoris.workers.captions.decoding_rules import Beam, Bools, Ints, SampledCaption
from pseudoris.workers.captions.distinctive import Others, SamplerRows, join_others
from pseudoris.workers.captions.engine import CachedEngine, CropSet, EncodedImage
from pseudoris.workers.captions.prefix_tree_decoder import prefix_budget
from pseudoris.workers.captions.recorded_step import RecordedStep
from pseudoris.workers.captions.static_decoder import StaticDecoder
from pseudoris.workers.captions.static_slots import STEPS_A_REFILL, RowSlots, Targets, run_slots
from pseudoris.workers.captions.static_towers import CacheMemory, SlotShape, StaticTowers, slot_elements
from pseudoris.workers.captions.vocabulary_logits import Vocabulary, check_finite, score_dtype
from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.device import compute_dtype, to_device, to_host
from pseudoris.workers.faults.freed_memory import OWNERS
from pseudoris.workers.pass_sizes import LISTENER_ROWS

# Pairs come in multiples of this number, up to what fills an H200. A row has so many of them on average, or as many as
# it may have, if that is less.
_PAIR_GRAIN, _MOST_PAIRS, _PAIRS_A_ROW = 64, 8192, 8
# A row of a text has at most so many pairs: the text's other crops are read by further rows.
_CROPS_A_TEXT = 16
# At most so many rows of texts are queued at once.
_QUEUED_TEXTS = 4096


def caption_slots(blocks: CocaBlocks, config: CaptionsConfig) -> SlotShape:
    """Return how many slots captions have: by `slots`, or if that is None by the other settings and the model.

    Raises:
        ConfigError: A row has no room.
    """
    num_beams, num_rules = config.beam.num_beams // config.beam.num_groups, len(config.decoding_rules())
    num_rules -= num_beams > 0
    shape = SlotShape(0, 0, 1 + config.sampling.num_others, 0, num_beams, config.max_length - 1)
    grains = (config.slots or 0) // _PAIR_GRAIN
    if not grains:
        # Image tokens may take half of the bytes.
        budget = prefix_budget(config, image_bytes=config.cache_bytes // 2)
        grains = min(budget // _num_bytes(blocks, _scaled(shape, 1, num_rules)), _MOST_PAIRS // _PAIR_GRAIN)
    return _scaled(shape, max(grains, least_slots(config) // _PAIR_GRAIN), num_rules)


def least_slots(config: CaptionsConfig) -> int:
    """Return the least `captions.slots` in which a row has room: a caption is drawn under all its crops at once.

    Raises:
        ConfigError: `captions.slots` is lower, or can never be so high.
    """
    most = config.sampling.num_others
    least, slots = -(-(1 + most) // _PAIR_GRAIN) * _PAIR_GRAIN, config.slots or _MOST_PAIRS
    if least <= slots:
        return least
    named = f"captions.slots is {slots}" if config.slots else f"captions.slots is at most {slots}"
    raised = f"set captions.slots to {least} at least, " if least <= _MOST_PAIRS else ""
    raise ConfigError(
        f"captions.sampling.max_others={most}: fixed shapes need a slot for a mask and each other, but {named}: "
        f"{raised}lower max_others to {slots - 1}, or set captions.decoder=tree"
    )


def _num_bytes(blocks: CocaBlocks, shape: SlotShape) -> int:
    """Return the bytes of caches and of a step's temporaries, which a recording keeps."""
    itemsize: int = blocks.like.element_size()
    # The MLP before and after activation and some states of each pair, logits and their order of each prefix.
    of_pairs = shape.all_pairs * 14 * blocks.width * itemsize
    of_vocabulary = shape.prefixes * int(blocks.text.vocab_size) * 2 * score_dtype(blocks.like.dtype).itemsize
    return slot_elements(blocks, shape) * itemsize + of_pairs + of_vocabulary


def num_slots(config: CaptionsConfig, compute: ComputeConfig) -> int:
    """Return `captions.slots`, or if that is None how many there are, by the description of the model alone.

    Raises:
        ConfigError: As `least_slots`.
    """
    least_slots(config)
    if config.slots is not None:
        return config.slots
    with torch.device("meta"):
        model: Any = build_from_config(read_model_config(config.architecture, is_captioner=True))
    shape = caption_slots(CocaBlocks(model.to(compute_dtype(compute))), config)
    return shape.pairs or shape.searches * _PAIR_GRAIN


def _scaled(shape: SlotShape, grains: int, num_rules: int) -> SlotShape:
    """Return a shape with so many slots. Rows and searches come in the ratio in which crops need them."""
    pairs = grains * _PAIR_GRAIN if num_rules else 0
    rows = pairs // min(_PAIRS_A_ROW, shape.members)
    searches = -(-rows // num_rules) if num_rules else grains
    return replace(shape, rows=rows, pairs=pairs, searches=searches if shape.beams else 0)


class StaticEngine(CachedEngine):
    """Distinctive caption sampling and beam search over fixed slots (method page section 3).

    Attributes:
        shape: The slots, by the settings and the models alone.
    """

    towers: CachedCocaTowers
    is_static = True

    def __init__(self, towers: CachedCocaTowers, *arguments: Any, **named: Any) -> None:
        super().__init__(towers, *arguments, **named)
        self.shape = caption_slots(towers.blocks, self._config)
        # Texts that are scored take about the memory of captions.
        of_texts = SlotShape(0, 0, _CROPS_A_TEXT, 0, 0, towers.max_prefix_length)
        num_bytes, of_a_grain = (_num_bytes(towers.blocks, each) for each in (self.shape, _scaled(of_texts, 1, 1)))
        self._texts = _scaled(of_texts, -(-num_bytes // of_a_grain), 1)
        self.crops_together = crops_in_fixed_shapes(self._config.crops_together)
        # Decoder and reader share this memory. Recorded steps use its addresses, so they are dropped with it.
        self._memory: CacheMemory | None = None
        self._decoder: StaticDecoder | None = None
        self._reader: StaticReader | None = None
        OWNERS.add(self)

    def free_memory(self) -> None:
        """Free the caches and all that is recorded over them."""
        self._decoder = self._reader = self._memory = None
        # Steps and decoders refer to each other, so only the garbage collector frees them.
        gc.collect()

    def _memory_for(self, tokens: torch.Tensor, shape: SlotShape) -> CacheMemory:
        """Return memory of these slots and of the crops whose image tokens (U, T, D) are given, or of more."""
        blocks, config = self.towers.blocks, self._config
        size, memory = slot_elements(blocks, shape), self._memory
        if memory is None or memory.image.shape[2] < len(tokens) or memory.slots.numel() < size:
            self.free_memory()
            shapes = (shape, self.shape, self._texts) if config.listening else (shape, self.shape)
            most = min(config.cache_bytes // 2 // self.towers.image_bytes([tokens[0]]), self.crops_together)
            size = max(slot_elements(blocks, each) for each in shapes)
            memory = self._memory = CacheMemory(blocks, size, max(len(tokens), most), tokens.shape[1])
        record(CACHE_BYTES, memory.slots.nbytes + memory.image.nbytes)
        return memory

    def _decode(
        self,
        encoded: Sequence[EncodedImage],
        crop_sets: Sequence[CropSet],
        others: Sequence[Others],
        rows: SamplerRows,
        searched: Sequence[int],
    ) -> tuple[Callable[[int], SampledCaption], Callable[[int], Beam]]:
        # Without a search for equal crops there is one of each kind and mask, in this order.
        of_kinds = ((encoded[image], kind) for image, kind in crop_sets)
        tokens = torch.cat([each.tokens.unflatten(0, each.unique_crop_of.shape)[kind] for each, kind in of_kinds])
        memory = self._memory_for(tokens, self.shape)
        if self._decoder is None:
            towers = StaticTowers(self.towers.blocks, self.shape, memory)
            self._decoder = StaticDecoder(towers, self.vocabulary, self._config)
        found = self._decoder.decode(self._targets(others), rows, np.asarray(searched, np.int64), tokens)
        self.towers.num_pairs += found.num_pairs
        self.towers.num_asked += found.num_needed
        self.num_decisions += found.num_decisions
        self.num_wide += found.num_wide
        return found.captions.__getitem__, found.beams.__getitem__

    def _targets(self, others: Sequence[Others]) -> Targets:
        """Return the crops of all sets as targets, with the crops that each reads."""
        joined = join_others(others)
        own = torch.arange(len(joined.indices), device=joined.indices.device)[:, None]
        # Behind its last crop a target reads its own, with weight 0.
        missing = self.shape.members - 1 - joined.indices.shape[1]
        crops = torch.cat((own, joined.indices, own.expand(-1, missing)), dim=1)
        sizes = [np.full(len(part.indices), 1 + part.indices.shape[1]) for part in others]
        return Targets(crops, np.concatenate(sizes), F.pad(joined.weights, (1, missing)))

    def read(self, encodings: Sequence[torch.Tensor], texts: Sequence[Ints], asked: Bools) -> Floats:
        """As `listener.TeacherForcing.read`, under the encodings given."""
        tokens = torch.stack(tuple(encodings))
        memory = self._memory_for(tokens, self._texts)
        if self._reader is None:
            towers = StaticTowers(self.towers.blocks, self._texts, memory)
            self._reader = StaticReader(towers, self.vocabulary)
        return self._reader.read(texts, asked, tokens)


class StaticReader:
    """Scores texts under crops over fixed slots, as `listener.TeacherForcing` over a prefix tree: without a draw."""

    def __init__(self, towers: StaticTowers, vocabulary: Vocabulary) -> None:
        self._towers, self._vocabulary, self._special = towers, vocabulary, vocabulary.special
        shape, like = towers.shape, towers.blocks.like
        new = partial(torch.zeros, device=like.device)
        ints = partial(new, dtype=torch.int64)
        self._rows = RowSlots(shape, _QUEUED_TEXTS, 1, like)
        # Of the queue: tokens, SOT first, and their number without it. Its last row is none.
        self._tokens, self._lengths = ints((_QUEUED_TEXTS + 1, 2 + shape.positions)), ints(_QUEUED_TEXTS + 1)
        self._sums = new(shape.pairs, dtype=torch.float64)
        self._results = new((_QUEUED_TEXTS + 1, shape.members), dtype=torch.float64)
        self._zero = new(())
        self._step = RecordedStep(self._one_step, towers.memory.recordings)
        self._refill = RecordedStep(self._one_refill, towers.memory.recordings)

    @torch.inference_mode()
    def read(self, texts: Sequence[Ints], asked: Bools, image_tokens: torch.Tensor) -> Floats:
        """As `listener.TeacherForcing.read`, under all encodings (U, T, D)."""
        sums, most = np.zeros(asked.shape), self._towers.shape.members
        rows = [
            (text, crops[first : first + most])
            for text, crops in enumerate(map(np.flatnonzero, asked))
            for first in range(0, len(crops), most)
        ]
        self._towers.attend_to(image_tokens)
        for first in range(0, len(rows), _QUEUED_TEXTS):
            part = rows[first : first + _QUEUED_TEXTS]
            found = self._read([(texts[text], crops) for text, crops in part])
            for (text, crops), of_row in zip(part, found, strict=True):
                sums[text, crops] = of_row[: len(crops)]
        check_finite(np.asarray(np.isfinite(sums).all()))
        return sums

    def _read(self, rows: Sequence[tuple[Ints, Ints]]) -> Floats:
        device, shape, special = self._tokens.device, self._towers.shape, self._special
        tokens = np.full((len(rows), self._tokens.shape[1]), special.eos)
        crops = np.zeros((len(rows), shape.members), np.int64)
        tokens[:, 0] = special.sot
        for number, (text, of_row) in enumerate(rows):
            tokens[number, 1 : 1 + len(text)], crops[number, : len(of_row)] = text, of_row
        lengths, sizes = (np.array([len(row[which]) for row in rows]) for which in (0, 1))
        self._tokens[: len(rows)].copy_(to_device(tokens, device))
        self._lengths[: len(rows)].copy_(to_device(lengths, device))
        targets = Targets(to_device(crops, device), sizes, self._sums.new_zeros(crops.shape))
        self._rows.restart(targets, len(rows))
        run_slots(self._step, self._refill, self._rows, least=self._num_steps(sizes, lengths), longest=tokens.shape[1])
        return to_host(self._results[: len(rows)])[0]

    def _num_steps(self, sizes: Ints, lengths: Ints) -> int:
        """Return after how many steps all rows have ended. No draw decides it, so the host looks once, at the end."""
        shape, now, ends = self._towers.shape, 0, list[tuple[int, int]]()
        num_free = shape.pairs
        for size, length in zip(sizes.tolist(), lengths.tolist(), strict=True):
            # Rows enter in this order, each at the first refill with a free slot and enough free pairs.
            while len(ends) == shape.rows or num_free < size:
                now, freed = heappop(ends)
                num_free += freed
            heappush(ends, (now - (-length // STEPS_A_REFILL) * STEPS_A_REFILL, size))
            num_free -= size
        return max(ends)[0]

    def _one_refill(self) -> None:
        rows = self._rows
        self._results.index_copy_(
            0, rows.number, self._sums.index_select(0, rows.members.view(-1)).view(rows.members.shape)
        )
        begins = rows.refill()
        self._towers.begin(begins, self._special.sot, rows.pair_rows, rows.pair_crops)
        self._sums.masked_fill_(begins.index_select(0, rows.pair_rows), 0.0)

    def _one_step(self) -> None:
        rows, towers = self._rows, self._towers
        position, hidden = towers.position, towers.step()
        following = self._tokens.view(-1).index_select(0, rows.number * self._tokens.shape[1] + position + 1)
        totals = self._vocabulary.log_totals(hidden, rows_together=LISTENER_ROWS)
        of_pairs = following.index_select(0, rows.pair_rows)
        logits = self._vocabulary.logits_at(hidden, of_pairs[:, None])[:, 0]
        is_open = rows.is_open.index_select(0, rows.pair_rows)
        self._sums.add_((logits.double() - totals.double()).where(is_open, self._zero))
        towers.before.copy_(towers.newest)
        towers.newest.copy_(following)
        position.add_(rows.is_open)
        rows.is_open.logical_and_(position < self._lengths.index_select(0, rows.number))
