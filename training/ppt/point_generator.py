"""The point generator: K queries through stages of image and text to point prompts and confidences (section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pseudoris.training.learning.token_layers import word_codes
from pseudoris.training.ppt.point_heads import PointHead, ReferencePatchAttention, ScoreHead
from pseudoris.training.ppt.ppt_config import PointGeneratorConfig
from pseudoris.training.ppt.prompt_layers import (
    CrossAttentionLayer,
    ProductLayer,
    distinct_peaks,
    grid_centres,
    grid_position,
)


@dataclass(frozen=True)
class PointPrompts:
    """What the queries predict (equation 2).

    Attributes:
        points_xy: (B, K, M, 2) float32 in [0, 1], x then y, of the upright image's width and height.
        label_logits: (B, K, M) float32, above 0 for a positive point: the r of the paper before its sigmoid.
        confidence_logits: (B, K) float32, of being the referent: the c of the paper before its sigmoid.
        attention_log_shares: (B, K, h·w) float32, the logarithm of each patch's share in a query's attention; None of
            prompts whose queries have no such attention.
    """

    points_xy: torch.Tensor
    label_logits: torch.Tensor
    confidence_logits: torch.Tensor
    attention_log_shares: torch.Tensor | None = None


class Bridge(nn.Module):
    """Fusion of the two modalities at a stage: V_n and T to V'_n and T_n.

    Each is projected to one width, receives what the stage before made of it, and reads the other by attention;
    patches are multiplied with what they read too.
    Source: Xu et al. 2023 (ETRIS), whose bridge writes back into the towers; here they are frozen and read once, so
    that the bridges' own states are what goes from stage to stage.
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
        fused_image = self.image_reads_text(image, text, is_word)
        fused_text = self.text_reads_image(text, image, context_position=position)
        return fused_image, fused_text


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
        queries = self.read_image(queries, fused[0], query_position=query_position, context_position=position)
        queries = self.read_text(queries, fused[1], query_position=query_position, is_token=is_word)
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

    def forward(
        self,
        image: Sequence[torch.Tensor],
        text: torch.Tensor,
        is_word: torch.Tensor,
        response: torch.Tensor,
        tokens: torch.Tensor,
    ) -> PointPrompts:
        """Return the prompts of B pairs of image and expression.

        Args:
            image: {V_n}, N tensors (B, C, h, w) of the frozen image tower, early stages first.
            text: T, (B, L, D) of the frozen text tower, one row a token.
            is_word: (B, L) bool, True where the expression has a token, as `learning.clip_features` gives it.
            response: (B, h, w), how much each patch fits the expression by the frozen towers.
            tokens: (B, L) int64, the text tower's.

        Raises:
            ValueError: another number of stages than the generator has.
        """
        if len(image) != len(self.stages):
            raise ValueError(
                f"There are {len(image)} stages of features, but the point generator has {len(self.stages)} stages."
            )
        queries = self.queries.expand(text.shape[0], -1, -1)
        height, width = response.shape[-2:]
        position = grid_position(height, width, queries.shape[-1], device=response.device)
        # Position and response of a patch are added to its features in every stage. Frozen features hardly encode the
        # position; the response is what CLIP learnt about images and texts.
        known = position if self.response is None else position + self.response(response.flatten(1)[..., None])
        fused = known, self._codes(tokens)
        anchors = distinct_peaks(response, self.queries.shape[0], self._anchor_radius) if self._is_anchored else None
        query_position = self.query_position if anchors is None else self.query_position + position[anchors]
        for stage, features in zip(self.stages, image, strict=True):
            queries, fused = stage(
                queries,
                features.flatten(2).transpose(1, 2),
                text,
                fused,
                query_position=query_position,
                position=position,
                is_word=is_word,
            )
        return self._heads(self.norm(queries), fused[0], response, anchors)

    def _codes(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the first bridge receives beside the features of words, (B, L, d), or a zero."""
        if self.code is None:
            return self.queries.new_zeros(())
        codes: torch.Tensor = self.code(word_codes(tokens, self._code_width))
        return codes

    def _heads(
        self, queries: torch.Tensor, image: torch.Tensor, response: torch.Tensor, anchors: torch.Tensor | None
    ) -> PointPrompts:
        """Equation 2: P_k = PointHead(q_k), c_k = ScoreHead(q_k)."""
        # In half precision a coordinate would be right to one pixel in 256, and matchings would tie: the heads compute
        # in float32 themselves, as their outputs would be rounded before they could be made it.
        height, width = response.shape[-2:]
        centres = grid_centres(height, width, device=response.device)
        with torch.autocast(queries.device.type, enabled=False):
            if self.look is None:
                points, labels = self.point_head(queries.float())
                return PointPrompts(points, labels, self.score_head(queries.float()))
            queries, log_shares, peaks = self.look(queries.float(), image.float(), response, anchors)
            points, labels = self.point_head(queries, peaks @ centres)
            confidence = self.score_head(queries, (peaks @ response.flatten(1)[..., None])[..., 0])
        return PointPrompts(points, labels, confidence, log_shares)
