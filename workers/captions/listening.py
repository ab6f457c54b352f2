"""The captioner as its own listener: of a candidate t of mask i, how likely is t under the crops of all masks?

    caption_score(i, t)  =  log p(t | crop i)
    truth(i, t)          =  caption_score(i, t) / number of tokens of t, the end included
    listener(i, t)       =  softmax over masks k at i of  log p(t | crop k) / temperature

A mask alone in its image has a listener of 1: there is nothing to confuse it with. Of several crop kinds the mean
of their log-probabilities counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from schemas.config import CaptionsConfig, SamplingConfig
from schemas.listening import ListeningConfig
from schemas.shard import ExpressionRecord, MaskRecord
from workers.captions.drafts import ImageCrops
from workers.captions.engine import CachedEngine
from workers.captions.forced import Floats, ForcedReader, Questions, TokenRows
from workers.captions.pictures import EncodedImage, Unit, gather, passes
from workers.captions.rules import choose_others
from workers.captions.tree import Bools, Ints
from workers.captions.walk import prefix_budget


@dataclass(frozen=True, slots=True)
class Heard:
    """What a listener says of R candidates, (R,) float64 each."""

    caption_score: Floats
    listener: Floats
    truth: Floats


@dataclass(frozen=True, slots=True)
class _Image:
    """One image's candidates and who is asked about them.

    Attributes:
        encoded: Its crops of the kinds that are listened to.
        texts: R candidates.
        targets: (R,) places of their masks.
        asked: (N, N) bool, the masks that are asked about a candidate of each mask, itself included.
        sums: (R, N) float64, log-probabilities, summed over the kinds so far.
    """

    encoded: EncodedImage
    texts: TokenRows
    targets: Ints
    asked: Bools
    sums: Floats


class Listener:
    """Reads the candidates of images over the crops that their captioner has encoded."""

    def __init__(
        self,
        engine: CachedEngine,
        config: CaptionsConfig,
        listening: ListeningConfig,
        encode: Callable[[str], list[int]],
    ) -> None:
        """Share the engine's towers and caches; `encode` gives a text's token ids without SOT and EOS."""
        self._engine, self._config, self._listening, self._encode = engine, config, listening, encode
        # Pairs (prefix, picture) computed so far; a benchmark reads it.
        self.num_computed = 0

    def listen(
        self,
        crops: ImageCrops,
        encoded: EncodedImage,
        masks: Sequence[MaskRecord],
        expressions: Sequence[ExpressionRecord],
    ) -> tuple[ExpressionRecord, ...]:
        """Return an image's candidates, of one mask each, with what the listener says of them."""
        if not expressions:
            return ()
        place_of = {mask.mask_id: place for place, mask in enumerate(masks)}
        targets = np.array([place_of[each.target_mask_ids[0]] for each in expressions], dtype=np.int64)
        heard = self.hear(crops, encoded, targets, [each.text for each in expressions])
        columns = zip(heard.caption_score.tolist(), heard.listener.tolist(), heard.truth.tolist(), strict=True)
        return tuple(
            replace(each, caption_score=score, listener=listener, truth=truth)
            for each, (score, listener, truth) in zip(expressions, columns, strict=True)
        )

    @torch.inference_mode()
    def hear(self, crops: ImageCrops, encoded: EncodedImage, targets: Ints, texts: Sequence[str]) -> Heard:
        """Return what the listener says of R texts of one image, at least one.

        Args:
            crops: Of the image.
            encoded: The same, by the engine.
            targets: (R,) int64, places of the masks that the texts are of.
            texts: R candidates.
        """
        image = self._image(crops, encoded, targets, texts)
        decoder = self._engine.decoder
        bytes_a_crop = decoder.image_bytes(1, encoded.crops.tokens.shape[1])
        for units in passes([image.encoded], bytes_a_crop=bytes_a_crop, budget_bytes=self._config.cache_bytes // 2):
            self._read(image, units)
        return _heard(image, self._listening)

    def _image(self, crops: ImageCrops, encoded: EncodedImage, targets: Ints, texts: Sequence[str]) -> _Image:
        kinds = [crops.kinds.index(kind) for kind in self._listening.crops]
        embeddings = encoded.embeddings(kinds[0])
        limit = SamplingConfig(others_max=self._listening.others_max, over_max="nearest")
        others = choose_others(embeddings @ embeddings.t(), limit).indices.cpu().numpy()
        asked = np.eye(crops.num_masks, dtype=np.bool_)
        asked[np.arange(crops.num_masks)[:, None], others] = True
        tokens = TokenRows.of(
            [self._encode(text) for text in texts],
            eos=self._engine.special.eos,
            max_prefix_length=self._engine.decoder.max_prefix_length,
        )
        heard = EncodedImage(encoded.crops, encoded.picture_of[kinds])
        return _Image(heard, tokens, targets, asked, np.zeros((len(texts), crops.num_masks)))

    def _read(self, image: _Image, units: Sequence[Unit]) -> None:
        """Add what the crops of some kinds say to the image's sums."""
        engine = self._engine
        picture_of, pictures = gather([image.encoded], units)
        picture_of = picture_of.reshape(len(units), -1)
        engine.decoder.begin(pictures)
        budget = prefix_budget(self._config, image_bytes=engine.decoder.image_bytes(*pictures.shape[:2]))
        reader = ForcedReader(engine.decoder, engine.vocabulary, engine.special, budget_bytes=budget)
        answers = reader.read(self._questions(image, picture_of, num_pictures=len(pictures)))
        self.num_computed += reader.num_computed
        for pictures_of_kind in picture_of:
            image.sums[:] += answers[:, pictures_of_kind]

    def _questions(self, image: _Image, picture_of: Ints, *, num_pictures: int) -> Questions:
        num_masks = picture_of.shape[1]
        shows = np.zeros((num_masks, num_pictures), np.int64)
        for pictures_of_kind in picture_of:
            np.add.at(shows, (np.arange(num_masks), pictures_of_kind), 1)
        asked = (image.asked @ shows) > 0
        give_up_at = np.full(len(image.targets), -np.inf)
        if self._listening.min_truth is not None:
            # Log-probabilities only fall: below this sum the mean of all kinds cannot come out above the bound.
            so_far = image.sums[np.arange(len(image.targets)), image.targets]
            num_kinds = len(self._listening.crops)
            give_up_at = self._listening.min_truth * num_kinds * image.texts.lengths - so_far
        return Questions(image.texts, asked[image.targets], shows[image.targets], give_up_at)


def _heard(image: _Image, listening: ListeningConfig) -> Heard:
    scores = image.sums / len(listening.crops)
    rows = np.arange(len(scores))
    own = scores[rows, image.targets]
    truth = own / image.texts.lengths
    odds = np.where(image.asked[image.targets], scores / listening.temperature, -np.inf)
    odds -= odds.max(axis=1, keepdims=True)
    share = np.exp(odds[rows, image.targets]) / np.exp(odds).sum(axis=1)
    if listening.min_truth is not None:
        share[truth <= listening.min_truth] = 0.0
    return Heard(own, share, truth)
