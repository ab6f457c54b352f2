"""The network of PPT (curriculum point prompting, section 3.1.1): from K queries to point prompts and confidences.

For `ppt_learner`, `ppt_model`, experiments. The names of its parameters are the keys of checkpoints, and the order in
which its modules are made decides the weights that a seed draws: neither may change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from pseudoris.training.learning.token_layers import (
    Perceptron,
    ProductAttention,
    SelfAttention,
    TokenCrossAttention,
    word_codes,
)
from pseudoris.training.ppt.ppt_config import PointGeneratorConfig


class CrossAttentionLayer(nn.Module):
    """CrossAttn of equation 1: attention, then a feed-forward layer, each behind a norm and beside a residual.

    Source: Vaswani et al. 2017, with the norms in front, which trains without a long warm-up.
    """

    def __init__(self, width: int, num_heads: int, feed_forward_ratio: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = TokenCrossAttention(width, num_heads, dropout=dropout)
        self.feed_forward = Perceptron(width, feed_forward_ratio, dropout=dropout)

    def forward(self, queries: torch.Tensor, context: torch.Tensor, **at: torch.Tensor) -> torch.Tensor:
        """Return the queries (B, Q, d), updated from the context (B, L, d); `at` as of `TokenCrossAttention`."""
        fed: torch.Tensor = self.feed_forward(self.attention(queries, context, **at))
        return fed


class ProductLayer(ProductAttention):
    """Patches read words and are multiplied with them, then a feed-forward layer. Source: Xu et al. 2023 (ETRIS)."""

    def __init__(self, width: int, num_heads: int, feed_forward_ratio: float, dropout: float = 0.0) -> None:
        super().__init__(width, num_heads)
        self.out = nn.Sequential(nn.Linear(3 * width, width), nn.Dropout(dropout))
        self.feed_forward = Perceptron(width, feed_forward_ratio, dropout=dropout)

    def forward(self, patches: torch.Tensor, words: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        """Return patches (B, h·w, d), of patches, words (B, L, d) and which of these there are, (B, L) bool."""
        fed: torch.Tensor = self.feed_forward(patches + self.out(self.compared_with_words(patches, words, is_word)))
        return fed


def grid_position(height: int, width: int, channels: int, *, device: torch.device | None = None) -> torch.Tensor:
    """Return sines and cosines of the cells' centres, (H·W, channels) float32, row by row; channels in fours.

    Source: Carion et al. 2020 (DETR), with coordinates in [0, 1] so that grids of any size share one frame.
    """
    quarter = channels // 4
    # Wavelengths go from twice the image to a quarter of it. Finer ones let a model memorise patches instead of "left".
    frequency = math.pi * 2.0 ** torch.linspace(0, 3, quarter, device=device)
    x, y = grid_centres(height, width, device=device).unsqueeze(-1).unbind(1)
    on_y, on_x = y * frequency, x * frequency
    return torch.cat([on_y.sin(), on_y.cos(), on_x.sin(), on_x.cos()], -1)


def grid_centres(height: int, width: int, *, device: torch.device | None = None) -> torch.Tensor:
    """Return the centres of the cells, (H·W, 2) float32, x then y in [0, 1], row by row."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).flatten(0, 1)


def grid_neighbours(height: int, width: int, radius: int, *, device: torch.device | None = None) -> torch.Tensor:
    """Return which cells (H·W, H·W) bool are at most `radius` rows and columns from each."""
    row = torch.arange(height, device=device).repeat_interleave(width)
    column = torch.arange(width, device=device).repeat(height)
    return ((row[:, None] - row).abs() <= radius) & ((column[:, None] - column).abs() <= radius)


def distinct_peaks(response: torch.Tensor, count: int, radius: int) -> torch.Tensor:
    """Return the patches (B, count) int64 with the highest response, each further than `radius` from all before it.

    The response is (B, h, w), the radius in patches along rows and columns. If no patch is left that far away, the
    peaks are repeated, from the highest. Not only local maxima: if two objects touch, the weaker one is often on the
    flank of the other (scene CLIP: the best of four has an IoU of 0.80 with the referent, of four local maxima 0.76).
    """
    height, width = response.shape[-2:]
    near = grid_neighbours(height, width, radius, device=response.device)
    left, found = response.flatten(1), []
    num_found = torch.zeros_like(left[:, 0], dtype=torch.int64)
    for _ in range(count):
        highest = left.max(-1)
        num_found += highest.values > -torch.inf
        found.append(highest.indices)
        left = left.masked_fill(near[found[-1]], -torch.inf)
    again = torch.arange(count, device=left.device) % num_found.clamp(min=1)[:, None]
    return torch.stack(found, 1).gather(1, again)


@dataclass(frozen=True)
class EncodedImages:
    """Images as SAM's decoder needs them: embeddings (B, C, h, w) float32 of SAM's image encoder.

    `input_sizes` (B, 2) float32 are the width and height in pixels at which it saw them, without padding.
    """

    embeddings: torch.Tensor
    input_sizes: torch.Tensor


@dataclass(frozen=True)
class FrozenFeatures:
    """What the frozen towers make of B pairs; texts as `learning.clip_features` gives them.

    Attributes:
        image: {V_n}, N tensors (B, C, h, w) of CLIP's image tower, early stages first.
        text: T, (B, L, D) of CLIP's text tower; `is_word` (B, L) bool, `tokens` (B, L) int64.
        response: (B, h, w), how much each patch fits its expression in CLIP's joint space; of each pair, mean 0 and
            standard deviation 1.
    """

    image: Sequence[torch.Tensor]
    text: torch.Tensor
    is_word: torch.Tensor
    tokens: torch.Tensor
    response: torch.Tensor
    sam: EncodedImages


# Initial weights have this standard deviation, so that they have hardly any effect, but do have a gradient.
_LITTLE: Final = 1e-3


class ReferencePatchAttention(nn.Module):
    """Each query's attention to patches: its peak, around which PointHead places the points, and the features there.

    A query's reference is the mean of the patches' centres around its peak: a mean over all patches would be between
    two objects if the query is uncertain. The scores are the sum of CLIP's response, the query's anchor and its own
    scores, at one temperature: CLIP is often wrong with high confidence, so a query must be able to overrule it. A
    query with an anchor stays at its peak: ScoreHead chooses among the queries, and no peak moves between objects.
    Source: reference points, Zhu et al. 2021 (Deformable DETR), Meng et al. 2021 (Conditional DETR).
    """

    def __init__(self, config: PointGeneratorConfig) -> None:
        super().__init__()
        width = config.width
        self._peak_radius = config.peak_radius
        self._response_gain, self._anchor_gain = config.response_gain, config.anchor_gain
        self.norm = nn.LayerNorm(width)
        # The keys need no bias: it is the same for all patches and cancels in the softmax.
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        # The weights are small at first, so that CLIP's response dominates the query's own scores.
        nn.init.normal_(self.key.weight, std=_LITTLE)
        # The layer gives the logarithm of the inverse temperature, near 0 at first: the temperature begins near 1.
        self.sharpness = nn.Linear(width, 1)
        nn.init.normal_(self.sharpness.weight, std=_LITTLE)
        nn.init.zeros_(self.sharpness.bias)
        self.seen = nn.Linear(width, width)
        self.compare = SelfAttention(width, config.num_heads, dropout=config.dropout)

    def forward(
        self, queries: torch.Tensor, image: torch.Tensor, response: torch.Tensor, anchors: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return q_k with what they see (B, K, d), their attention's log-shares (B, K, h·w), and the shares of peaks.

        Queries q_k are (B, K, d), normalised, the image V'_N (B, h·w, d), the response (B, h, w). Anchors (B, K) int64
        are the patches that queries begin at; None where queries share all of them.
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
    """PointHead of equation 2: M points and labels from a query; with references, how they spread around these."""

    def __init__(self, width: int, num_points: int) -> None:
        super().__init__()
        self._num_points = num_points
        self.layers = _perceptron(width, 3 * num_points)

    def forward(
        self, queries: torch.Tensor, references: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x, y in [0, 1], (B, K, M, 2), and logits of labels, of queries (B, K, d) and references (B, K, 2)."""
        places, labels = self.layers(queries).unflatten(-1, (self._num_points, 3)).split((2, 1), -1)
        if references is not None:
            places = references.logit(eps=1e-4)[:, :, None] + places
        return places.sigmoid(), labels[..., 0]


class ScoreHead(nn.Module):
    """ScoreHead of equation 2; with a gain it begins at CLIP's response at the query's reference."""

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
    return nn.Sequential(
        nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs)
    )


@dataclass(frozen=True)
class PointPrompts:
    """What the queries predict (equation 2), float32.

    Attributes:
        points_xy: (B, K, M, 2) in [0, 1], x then y, of the upright image's width and height.
        label_logits: (B, K, M), above 0 for a positive point: the r of the paper before its sigmoid.
        confidence_logits: (B, K), of being the referent: the c of the paper before its sigmoid.
        attention_log_shares: (B, K, h·w), the logarithm of each patch's share in a query's attention, if it has one.
    """

    points_xy: torch.Tensor
    label_logits: torch.Tensor
    confidence_logits: torch.Tensor
    attention_log_shares: torch.Tensor | None = None

    def at(self, place: Any) -> PointPrompts:
        """Return the prompts at a place of all axes that they share, without their attention."""
        return PointPrompts(self.points_xy[place], self.label_logits[place], self.confidence_logits[place])


class Bridge(nn.Module):
    """Fusion of the two modalities at a stage: V_n and T to V'_n and T_n.

    Each is projected to one width, receives what the stage before made of it, and reads the other by attention.
    Source: Xu et al. 2023 (ETRIS), whose bridge writes back into the towers; here the bridges' own states go on.
    """

    def __init__(self, config: PointGeneratorConfig, image_width: int, text_width: int) -> None:
        super().__init__()
        self.image_projection = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, config.width))
        self.text_projection = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, config.width))
        settings = (config.width, config.num_heads, config.feed_forward_ratio, config.dropout)
        self.image_reads_text, self.text_reads_image = ProductLayer(*settings), CrossAttentionLayer(*settings)

    def forward(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        earlier: tuple[torch.Tensor, torch.Tensor],
        *,
        position: torch.Tensor,
        is_word: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return V'_n (B, h·w, d) and T_n (B, L, d) of V_n (B, h·w, C) and T (B, L, D)."""
        image = self.image_projection(image) + earlier[0]
        text = self.text_projection(text) + earlier[1]
        return self.image_reads_text(image, text, is_word), self.text_reads_image(text, image, read_position=position)


class Stage(nn.Module):
    """One stage: the bridge, and the queries' two readings (equation 1)."""

    def __init__(self, config: PointGeneratorConfig, image_width: int, text_width: int) -> None:
        super().__init__()
        self.bridge = Bridge(config, image_width, text_width)
        settings = (config.width, config.num_heads, config.feed_forward_ratio, config.dropout)
        self.read_image, self.read_text = CrossAttentionLayer(*settings), CrossAttentionLayer(*settings)

    def forward(
        self,
        queries: torch.Tensor,
        image: torch.Tensor,
        text: torch.Tensor,
        earlier: tuple[torch.Tensor, torch.Tensor],
        *,
        query_position: torch.Tensor,
        position: torch.Tensor,
        is_word: torch.Tensor,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Return Q_{n+1} (B, K, d) and the fused pair (V'_n, T_n)."""
        fused = self.bridge(image, text, earlier, position=position, is_word=is_word)
        # Equation 1: Q_{n+1} = CrossAttn(CrossAttn(Q_n, V'_n), T_n).
        queries = self.read_image(queries, fused[0], position=query_position, read_position=position)
        queries = self.read_text(queries, fused[1], position=query_position, is_word=is_word)
        return queries, fused


class PointGenerator(nn.Module):
    """Equations 1 and 2. Everything that PPT trains is in here."""

    def __init__(self, config: PointGeneratorConfig, image_width: int, text_width: int) -> None:
        super().__init__()
        width = config.width
        self._code_width, self._anchor_radius = config.word_code_width, config.peak_radius
        self._is_anchored = config.anchor_gain > 0
        self.queries = nn.Parameter(torch.randn(config.num_queries, width))
        self.query_position = nn.Parameter(torch.randn(config.num_queries, width))
        self.response = nn.Linear(1, width) if config.is_response_read else None
        self.code = nn.Linear(config.word_code_width, width, bias=False) if config.word_code_width else None
        self.stages = nn.ModuleList(Stage(config, image_width, text_width) for _ in config.image_blocks)
        self.norm = nn.LayerNorm(width)
        has_references = config.point_head == "patch_attention"
        self.look = ReferencePatchAttention(config) if has_references else None
        self.point_head = PointHead(width, config.num_points)
        self.score_head = ScoreHead(width, config.response_gain if has_references else None)

    def forward(self, features: FrozenFeatures) -> PointPrompts:
        """Return the prompts of B pairs of image and expression."""
        response = features.response
        queries = self.queries.expand(len(features.text), -1, -1)
        height, width = response.shape[-2:]
        position = grid_position(height, width, queries.shape[-1], device=response.device)
        # Position and response of a patch are added to its features in every stage. Frozen features hardly encode the
        # position; the response is what CLIP learnt about images and texts.
        known = position if self.response is None else position + self.response(response.flatten(1)[..., None])
        # The first bridge adds `fused[1]` to the words' features: codes of the words (B, L, d), or a zero.
        fused = known, self.queries.new_zeros(())
        if self.code is not None:
            fused = known, self.code(word_codes(features.tokens, self._code_width))
        anchors = distinct_peaks(response, self.queries.shape[0], self._anchor_radius) if self._is_anchored else None
        query_position = self.query_position if anchors is None else self.query_position + position[anchors]
        for stage, image in zip(self.stages, features.image, strict=True):
            queries, fused = stage(
                queries,
                image.flatten(2).transpose(1, 2),
                features.text,
                fused,
                query_position=query_position,
                position=position,
                is_word=features.is_word,
            )
        queries = self.norm(queries).float()
        # Equation 2: P_k = PointHead(q_k), c_k = ScoreHead(q_k). In half precision a coordinate would be right to one
        # pixel in 256, and matchings would tie, so the heads compute in float32.
        with torch.autocast(queries.device.type, enabled=False):
            if self.look is None:
                points, labels = self.point_head(queries)
                return PointPrompts(points, labels, self.score_head(queries))
            queries, log_shares, peaks = self.look(queries, fused[0].float(), response, anchors)
            points, labels = self.point_head(queries, peaks @ grid_centres(height, width, device=response.device))
            confidence = self.score_head(queries, (peaks @ response.flatten(1)[..., None])[..., 0])
        return PointPrompts(points, labels, confidence, log_shares)
