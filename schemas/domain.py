"""The domain of a preset: whether its models know such images, and what a sample of SOURCE said about it."""

from __future__ import annotations

from pydantic import Field

from pseudoris.schemas.frozen import FrozenModel
from pseudoris.schemas.source_settings import WeightsConfig


class DomainConfig(FrozenModel):
    """How far an image may lie from what the preset's models know. Asked of a sample, before images are planned.

    It decides about the start alone, never about the bytes of a table, so it is no part of a run's identity.
    """

    # SAM's embeddings of images that it knows, and the highest score that is inside. The file names the SAM that it
    # belongs to: a run with another SAM is not asked.
    weights: WeightsConfig


class DomainRecord(FrozenModel):
    """What a sample of SOURCE said when images were planned.

    Attributes:
        num_sampled: Images of the sample that could be decoded.
        num_outside: Of these, images with a score above `max_score`.
        max_score: The highest score that is inside; 1 is usual for an image that the models know.
        median_score: Of the sampled images.
        is_accepted: Whether the user went on although most of the sample is outside.
    """

    num_sampled: int = Field(ge=1)
    num_outside: int = Field(ge=0)
    max_score: float
    median_score: float
    is_accepted: bool = False

    @property
    def is_mostly_outside(self) -> bool:
        """Whether more than half of the sample is outside."""
        return 2 * self.num_outside > self.num_sampled

    @property
    def finding(self) -> str:
        """The finding in one clause, for a message."""
        return (
            f"{self.num_outside} of {self.num_sampled} sampled images are unlike all that its models know "
            f"(score above {self.max_score:.3g}; the sample's median is {self.median_score:.3g})"
        )

    @property
    def warning(self) -> str | None:
        """What must stand above every figure of the run; None if the whole sample is inside."""
        if not self.num_outside:
            return None
        if self.is_mostly_outside:
            return (
                f"Do not trust these masks and expressions: the preset does not know such images. {self.finding}, "
                f"and --accept-domain was given."
            )
        return f"Some of these images are not for the preset: {self.finding}."
