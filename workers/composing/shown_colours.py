"""What the pixels of masks say of the colour words of captions. `Posterior` asks, where `composing.has_colours` is set.

A share of pixels confirms nothing: of 185 colour words that captions drew of photographs as many were true where many
pixels have the colour as where some have it. So pixels only deny, and tell that a rival may have a colour too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

from pseudoris.primitives.attribute_slots import is_own_colour, pixel_names
from pseudoris.primitives.pixel_colours import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

# A thing's own colour is denied below this share of its pixels; a rival that no caption calls so lacks it below that.
_LEAST, _LEAST_OF_RIVAL = 0.01, 0.1
# What pixels deny is this many times less likely. From this share on, a drawn colour of a rival may be true.
_DENIED, _ALLOWED = 0.1, 0.5
# A colour that was drawn of a rival, and that its pixels allow, has at least this probability.
_MAY_BE: Final = 0.9


@dataclass(frozen=True)
class ShownColours:
    """The colours of the N masks of an image; without shares nothing is denied and nothing added."""

    shares: Sequence[Sequence[float]] = ()  # by mask as `MaskRecord.colours`; () where not measured

    @cached_property
    def _share(self) -> Callable[[str, int], float | None]:
        return cache(self._share_of)

    def _share_of(self, word: str, mask: int) -> float | None:
        """Return the share of the pixels that allow the colours of a word, the least of several; None if unknown."""
        names = pixel_names(word) if self.shares and self.shares[mask] else ()
        shares = [sum(self.shares[mask][NAMES.index(each)] for each in of_word) for of_word in names]
        return min((min(1.0, each) for each in shares), default=None)

    def of_drawn(self, word: str, mask: int) -> float:
        """Return how many times likelier a drawn word is by the pixels: less than 1 if they deny it."""
        share = self._share(word, mask)
        return _DENIED if share is not None and share < _LEAST and is_own_colour(word) else 1.0

    def of_unsaid(self, word: str, mask: int) -> float:
        """Return how many times likelier a word is by the pixels that no caption says of a mask."""
        share = self._share(word, mask)
        return _DENIED if share is not None and share < _LEAST_OF_RIVAL else 1.0

    def of_rival(self, word: str, mask: int) -> float:
        """Return the least probability of a drawn word of a rival, whose pixels may allow what captions doubt."""
        share = self._share(word, mask) if is_own_colour(word) else None
        return 0.0 if share is None else _MAY_BE * min(1.0, share / _ALLOWED)
