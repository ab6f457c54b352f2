"""The protocol of a truth: the objects of an image, and which of them a text refers to.

Two implementations: the synthetic world, which is exact (`pseudoris.synthworld.scene_truth`), and a human's
annotation, which is limited to its sentences (`human_truth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class ImageTruth(Protocol):
    """The objects of one image, numbered from 0."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the upright image, in pixels."""

    @property
    def masks(self) -> Sequence[str]:
        """COCO compressed RLE of each object's visible pixels; empty if the object is hidden."""

    def referents(self, text: str) -> frozenset[int] | None:
        """Return the objects that a text refers to; None if that cannot be decided."""

    def attributes(self, text: str, number: int) -> tuple[int, int, int] | None:
        """Return how many attributes a text states, how many of these are true of an object, and how many that has.

        None if the truth knows no attributes.
        """

    def num_alike(self, number: int) -> int:
        """Return how many other objects share an object's category."""

    def group(self, number: int) -> str | None:
        """Return the group of `Truth.groups` that an object belongs to; None if there are no groups."""


class Truth(Protocol):
    """What is known of a set of images."""

    @property
    def title(self) -> str:
        """Its name and location, for a heading."""

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of its figures must know, a sentence each."""

    @property
    def groups(self) -> Sequence[str]:
        """Names of the groups whose accuracy is reported separately; none by default."""

    @property
    def unjudged_kinds(self) -> Sequence[str]:
        """Kinds of expressions (`counts.KINDS`) that it cannot judge: they are left out of every figure."""

    @property
    def num_images(self) -> int:
        """How many images it knows."""

    @property
    def example_key(self) -> str | None:
        """The key of one of them."""

    def of_image(self, image_id: str) -> ImageTruth | None:
        """Return the objects of an image, by its id; None if the truth does not know the image."""
