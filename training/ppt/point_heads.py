"""The heads of equation 2: a query's points with labels, and its confidence (section 3.1.1)."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from pseudoris.training.learning.token_layers import SelfAttention
from pseudoris.training.ppt.ppt_config import PointGeneratorConfig
from pseudoris.training.ppt.prompt_layers import grid_neighbours

# Weights that begin with hardly any effect, and yet with a gradient.
_LITTLE: Final = 1e-3


class ReferencePatchAttention(nn.Module):
    """Each query's attention to patches: its peak, around which PointHead places the points, and the features there.

    A query's reference is the mean of the patches' centres around its peak. A mean over all patches would be between
    two objects if the query is uncertain, and SAM would find neither.

    The scores are the sum of CLIP's response, the query's anchor and the query's own scores, at one temperature. CLIP
    is often wrong with high confidence, so a query must be able to overrule it. If a query could only scale the
    response, it would reduce it within a few steps and attend to its own initial noise. A query with an anchor stays at
    its peak: ScoreHead chooses among the queries, and no peak has to move between objects.
    Source: reference points, Zhu et al. 2021 (Deformable DETR), Meng et al. 2021 (Conditional DETR).
    """

    def __init__(self, config: PointGeneratorConfig) -> None:
        super().__init__()
        width = config.width
        self._peak_radius = config.peak_radius
        self._response_gain, self._anchor_gain = config.response_gain, config.anchor_gain
        self.norm = nn.LayerNorm(width)
        # A bias of the keys is the same for all patches, and falls out of the softmax.
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        # At first the query's own scores are small beside CLIP's response.
        nn.init.normal_(self.key.weight, std=_LITTLE)
        # Logarithm of the temperature's inverse: a factor of 1 at first.
        self.sharpness = nn.Linear(width, 1)
        nn.init.normal_(self.sharpness.weight, std=_LITTLE)
        nn.init.zeros_(self.sharpness.bias)
        self.seen = nn.Linear(width, width)
        self.compare = SelfAttention(width, config.num_heads, dropout=config.dropout)

    def forward(
        self, queries: torch.Tensor, image: torch.Tensor, response: torch.Tensor, anchors: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return q_k with what they see (B, K, d), their attention's log-shares (B, K, h·w), and the shares of peaks.

        Args:
            queries: q_k, (B, K, d), normalised.
            image: V'_N (B, h·w, d).
            response: (B, h, w) of the patches.
            anchors: (B, K) int64, the patch that each query begins at; None where queries share all of them.
        """
        patches = self.norm(image)
        found = self.query(queries) @ self.key(patches).transpose(1, 2) * queries.shape[-1] ** -0.5
        height, width = response.shape[-2:]
        near = grid_neighbours(height, width, self._peak_radius, device=found.device)
        begun = self._response_gain * response.flatten(1)[:, None]
        if anchors is not None:
            begun = begun + self._anchor_gain * near[anchors]
        log_shares = (self.sharpness(queries).exp() * (begun + found)).log_softmax(-1)
        peaks = log_shares.masked_fill(~near[log_shares.argmax(-1)], float("-inf")).softmax(-1)
        return self.compare(queries + self.seen(peaks @ patches)), log_shares, peaks


class PointHead(nn.Module):
    """PointHead of equation 2: a perceptron that regresses M points and their labels from a query.

    With references it gives how the points spread around them instead. The spread does not depend on the object's
    position, so no coordinate has to be read from features that hardly encode one.
    """

    def __init__(self, width: int, num_points: int) -> None:
        super().__init__()
        self._num_points = num_points
        self.layers = _perceptron(width, 3 * num_points)

    def forward(
        self, queries: torch.Tensor, references: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x, y in [0, 1], (B, K, M, 2), and the logits of labels (B, K, M).

        Args:
            queries: q_k, (B, K, d).
            references: (B, K, 2) in [0, 1], which the points spread around; None as in the paper.
        """
        places, labels = self.layers(queries).unflatten(-1, (self._num_points, 3)).split((2, 1), -1)
        if references is not None:
            places = references.logit(eps=1e-4)[:, :, None] + places
        return places.sigmoid(), labels[..., 0]


class ScoreHead(nn.Module):
    """ScoreHead of equation 2: a perceptron of a query.

    With a gain it begins at CLIP's response at the query's reference, and the perceptron learns to doubt it.
    """

    def __init__(self, width: int, response_gain: float | None = None) -> None:
        super().__init__()
        self.layers = _perceptron(width, 1)
        self.response_weight = None if response_gain is None else nn.Parameter(torch.tensor(response_gain))

    def forward(self, queries: torch.Tensor, responses: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits of c_k (B, K), of queries (B, K, d) and CLIP's responses at their references (B, K)."""
        learnt: torch.Tensor = self.layers(queries)[..., 0]
        if self.response_weight is None or responses is None:
            return learnt
        return learnt + self.response_weight * responses


def _perceptron(width: int, outputs: int) -> nn.Sequential:
    """An independent head of two hidden layers."""
    return nn.Sequential(
        nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs)
    )
