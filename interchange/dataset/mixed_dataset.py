"""Machine-made and human annotation in one dataset: the semi-supervised setting of the paper (its Figure 4).

Called by users (it is public) and by `train student`. A seed chooses the same human masks in every epoch and rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pseudoris.interchange.dataset.iterable_dataset import RisIterableDataset
from pseudoris.interchange.dataset.map_dataset import Decoded, JoinedDataset, RisDataset
from pseudoris.interchange.dataset.stream_order import Stream
from pseudoris.interchange.dataset.streamed_dataset import Position, StreamedDataset
from pseudoris.primitives.counter_rng import draw_below, key_of, permutation
from pseudoris.primitives.errors import ConfigError

_PROBABILITY_STEPS: Final = 2**32


def choose_fraction(mask_ids: Sequence[str], fraction: float, seed: int) -> NDArray[np.int64]:
    """Return the masks of a fraction of the annotation, as ascending positions; at least one above 0.

    Every mask has a number by (seed, mask id), and the smallest are chosen: 1 % is part of 5 %, 5 % is part of 10 %.
    The choice is the same in every epoch, as if the others had no annotation.
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(f"fraction is {fraction}. Give the share of the human annotation to use, from 0 to 1.")
    key = str(seed).encode()
    numbers = [hashlib.blake2b(each.encode(), digest_size=8, key=key).digest() for each in mask_ids]
    num_chosen = max(round(fraction * len(mask_ids)), 1) if fraction and mask_ids else 0
    chosen = sorted(range(len(mask_ids)), key=numbers.__getitem__)[:num_chosen]
    return np.array(sorted(chosen), np.int64)


class MixedDataset(JoinedDataset):
    """All masks of a machine's run, and a fraction of a human's, map-style.

    Items 0 ... len(pseudo)-1 are the machine's, the others human. Shuffle and split it with torch's samplers
    (`DistributedSampler`); the same index in the same epoch gives the same sample on every rank.
    """

    def __init__(
        self,
        pseudo: RisDataset | JoinedDataset,
        human: RisDataset,
        *,
        fraction: float = 1.0,
        human_share: float | None = None,
        seed: int = 0,
    ) -> None:
        """Mix two datasets; a share out of its range, or of nothing, is a ConfigError.

        Args:
            pseudo: Made by models; of one run or of several.
            human: The masks of an imported run.
            fraction: Share of the human masks that is used, in [0, 1]: the paper's 1, 5, 10, … %. The same masks in
                every epoch.
            human_share: Share of the human items in an epoch, in [0, 1): few human masks then come several times an
                epoch, each time with another draw of expressions. None takes each chosen mask once.
            seed: Seed of the choice.
        """
        super().__init__([pseudo, human])
        self._pseudo, self._human, self._seed = pseudo, human, seed
        self._chosen = choose_fraction(human.mask_ids(), fraction, seed)
        _check_share(human_share, len(self._chosen))
        share = human_share
        self.num_human = len(self._chosen) if share is None else round(len(pseudo) * share / (1 - share))
        # Holds the last requested epoch and its order, so that the next item does not compute the order again.
        self._shuffled: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Return the items of an epoch."""
        return len(self._pseudo) + self.num_human

    def draw(self, index: int, epoch: int, decoded: Decoded) -> Any:
        """Return an item of either dataset; raises as that does."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        at = index % len(self) - len(self._pseudo)
        if at < 0:
            return self._pseudo.draw(at, epoch, decoded)
        lap, place = divmod(at, len(self._chosen))
        mask = int(self._order(epoch)[place])
        return self._human.draw(mask, _epoch_of_lap(epoch, lap), decoded, among=self._chosen)

    def mask_ids(self) -> list[str]:
        """Return the mask of every item of the epoch, in order."""
        return [*self._pseudo.mask_ids(), *self._repeated(self._human.mask_ids())]

    def best_weights(self) -> NDArray[np.float64]:
        """Return the largest weight of each item's expressions, in every epoch; 1 for human items."""
        return np.concatenate([self._pseudo.best_weights(), np.ones(self.num_human)])

    def image_digests(self) -> list[str]:
        """Return the sha256 of the image of every item of the epoch."""
        return [*self._pseudo.image_digests(), *self._repeated(self._human.image_digests())]

    def all_images(self) -> frozenset[str]:
        """Return those of the machine's masks, and of all human ones that may come."""
        human = self._human.image_digests()
        return self._pseudo.all_images().union(human[at] for at in self._chosen)

    def _repeated(self, human: Sequence[str]) -> list[str]:
        """Return for each human item of the epoch what `human` returns for its mask."""
        order = self._order(self.epoch)
        return [human[int(order[at % len(order)])] for at in range(self.num_human)]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the chosen masks in the order of an epoch: shuffled, unless each comes once."""
        num_chosen = len(self._chosen)
        if self.num_human == num_chosen:
            return self._chosen
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = permutation(key_of("human", self._seed, epoch), num_chosen)
            self._shuffled = epoch, self._chosen[order]
        return self._shuffled[1]


class MixedIterableDataset(StreamedDataset):
    """A stream of a machine's run, mixed with human samples; ranks, workers and epochs follow the stream.

    Before each sample a number by (seed, epoch, worker, position) decides whether it is human. It does not depend on
    the rank: with `uneven="drop"` or `"pad"` ranks stay even. The epoch ends with the machine's stream.
    """

    def __init__(
        self,
        pseudo: RisIterableDataset,
        human: RisDataset,
        *,
        fraction: float = 1.0,
        human_share: float | None = None,
        seed: int = 0,
    ) -> None:
        """Mix two datasets, as `MixedDataset` does; `pseudo` brings ranks and order.

        `human_share` is the probability that a sample is human. None gives each chosen human mask once per epoch on
        average; for that the machine's samples are counted.
        """
        super().__init__(pseudo.rank, pseudo.world_size)
        self._pseudo = pseudo
        self._human = human
        self._fraction = fraction
        self._given_share = human_share
        self._seed = seed
        self._chosen = choose_fraction(human.mask_ids(), fraction, seed)
        _check_share(human_share, len(self._chosen))
        self.human_share = self._find_share()

    @property
    def num_skipped(self) -> int:
        """Masks of both datasets whose image could not be used."""
        return self._pseudo.num_skipped + self._human.num_skipped

    def _find_share(self) -> float:
        if self._given_share is not None:
            return self._given_share
        num_human = len(self._chosen)
        if not num_human:
            return 0.0
        num_pseudo = self._pseudo.count()
        if not num_pseudo:
            raise ConfigError(
                "The pseudo-labelled run gives no samples, so an epoch would never end. Check its filter, or "
                "give human_share."
            )
        return num_human / (num_human + num_pseudo)

    def _samples(self, stream: Stream, epoch: int, position: Position) -> Iterator[tuple[Any, Position]]:
        machine = self._pseudo._samples(stream, epoch, position.get("pseudo", {}))
        reached = position.get("pseudo", {})
        num_human, num_drawn = position.get("human", 0), position.get("drawn", 0)
        key = key_of("mix", self._seed, epoch, stream.worker, stream.num_workers)
        # Streams share no human mask. If there are fewer human masks than streams, each stream has all of them.
        shuffled = self._chosen[permutation(key_of("human", self._seed, epoch), len(self._chosen))]
        number = stream.rank * stream.num_workers + stream.worker
        own = shuffled[number :: stream.world_size * stream.num_workers]
        own = own if len(own) else shuffled
        # A number below the limit gives a human sample. The largest never does: an epoch ends with the pseudo-labels.
        limit = min(round(self.human_share * _PROBABILITY_STEPS), _PROBABILITY_STEPS - 1)
        while True:
            if draw_below(key, num_drawn, _PROBABILITY_STEPS) < limit:
                lap, at = divmod(num_human, len(own))
                sample = self._human.draw(int(own[at]), _epoch_of_lap(epoch, lap), {}, among=self._chosen)
                num_human += 1
            else:
                following = next(machine, None)
                if following is None:
                    return
                sample, reached = following
            num_drawn += 1
            yield sample, {"pseudo": reached, "human": num_human, "drawn": num_drawn}

    def _fingerprint(self) -> dict[str, Any]:
        parts = {"pseudo": self._pseudo._fingerprint(), "human": self._human.describe()}
        rest = {
            f"{side}.{name}": each for side, all_ in parts.items() for name, each in all_.items() if name != "snapshot"
        }
        return {
            **rest,
            "snapshot": {side: all_["snapshot"] for side, all_ in parts.items()},
            "mix": {"fraction": self._fraction, "human_share": self._given_share, "seed": self._seed},
        }

    def _pin(self, fingerprint: dict[str, Any]) -> None:
        saved, own = fingerprint["snapshot"]["human"], self._human.describe()["snapshot"]
        if saved["digest"] != own["digest"]:
            raise ConfigError(
                "The human annotation differs from the saved one. Open it with Snapshot.from_state(location, "
                "state['dataset']['snapshot']['human'])."
            )
        self._pseudo._pin({"snapshot": fingerprint["snapshot"]["pseudo"]})
        self.human_share = self._find_share()


def _epoch_of_lap(epoch: int, lap: int) -> int:
    """Return the epoch by which a mask is drawn that comes again in an epoch: another one each time."""
    return epoch if lap == 0 else key_of("lap", epoch, lap)


def _check_share(human_share: float | None, num_chosen: int) -> None:
    if human_share is not None and not 0 <= human_share < 1:
        raise ConfigError(f"human_share is {human_share}. Give a share of the samples, at least 0 and below 1.")
    if human_share and not num_chosen:
        raise ConfigError(
            f"human_share is {human_share}, but no human mask is selected. Raise fraction, or check the run."
        )
