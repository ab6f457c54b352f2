"""CLIP embeddings of crops and texts. Called by the scorer, the check, the captioner `vlm`, and `training`.

Both need tiles of one shape, because rounding depends on a product's shape, and scores stand in the tables.

Texts are computed over their prefix tree: a causal tower's output at a token never reads what follows, padding
included, so a prefix that texts share is computed once. Texts in the order of their tokens are packed into tiles of one
number of nodes, a node being a prefix; what two tiles share is in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pseudoris.primitives.clip_tokenizer import ClipTokenizer
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.measures import BATCH_FILL, record
from pseudoris.schemas.config import ComputeConfig, FilterConfig, WeightsConfig
from pseudoris.workers.checkpoints.openclip import load_clip, read_model_config, tag_settings
from pseudoris.workers.crops.crops import CropFormat
from pseudoris.workers.device import compute_dtype, prepare_device, to_device, to_host
from pseudoris.workers.forward_passes import SelfAttentionBlock, compile_tower
from pseudoris.workers.pass_sizes import CLIP_CROPS_ON_CPU, TEXT_LENGTH_STEP, TOKENS_A_TEXT

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TextTile:
    """The prefixes of some texts, R nodes in the order of their depth.

    Attributes:
        tokens: (R,) the last token of each prefix.
        depths: (R,) its position in the text, ascending. Nodes to spare are prefixes of one token.
        paths: (R, L) the nodes of each prefix's positions, its own last; 0 after it.
        texts: (T,) the numbers of the texts.
        ends: (T,) the node of each whole text.
        num_used: Nodes without those to spare.
    """

    tokens: Ints
    depths: Ints
    paths: Ints
    texts: Ints
    ends: Ints
    num_used: int


def cut_into_tiles(texts: Sequence[list[int]], num_nodes: int) -> Iterator[TextTile]:
    """Yield the tiles of texts, each text once; a text has at least one token and at most `num_nodes` (R)."""
    # Texts are visited in the order of their tokens. Nodes (token, depth, parent) are numbered in this order.
    nodes: list[tuple[int, int, int]] = []
    # `newest` is the last text, `path` the nodes of its prefixes. `ends` has each text's number and last node.
    newest: Sequence[int] = ()
    path: list[int] = []
    ends: list[tuple[int, int]] = []
    for number in sorted(range(len(texts)), key=texts.__getitem__):
        text = texts[number]
        shared = next(
            (at for at, (a, b) in enumerate(zip(newest, text, strict=False)) if a != b), min(len(newest), len(text))
        )
        if len(nodes) + len(text) - shared > num_nodes:
            yield _tile(nodes, ends, num_nodes)
            nodes, path, ends, shared = [], [], [], 0
        del path[shared:]
        for depth in range(shared, len(text)):
            nodes.append((text[depth], depth, path[-1] if depth else 0))
            path.append(len(nodes) - 1)
        newest = text
        ends.append((number, path[-1]))
    if ends:
        yield _tile(nodes, ends, num_nodes)


def _tile(nodes: Sequence[tuple[int, int, int]], ends: Sequence[tuple[int, int]], num_nodes: int) -> TextTile:
    """Return a tile of nodes (token, depth, parent) and texts (number, last node), in the order of depth."""
    tokens, depths, parents = np.array([*nodes, *[(0, 0, 0)] * (num_nodes - len(nodes))], dtype=np.int64).T
    order = np.argsort(depths, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    tokens, depths, parents = tokens[order], depths[order], rank[parents[order]]
    paths = np.zeros((len(order), int(depths[-1]) + 1), dtype=np.int64)
    for depth in range(paths.shape[1]):
        at_depth = np.flatnonzero(depths == depth)
        paths[at_depth, :depth] = paths[parents[at_depth], :depth]
        paths[at_depth, depth] = at_depth
    numbers, last = np.array(ends, dtype=np.int64).T
    return TextTile(tokens, depths, paths, numbers, rank[last], len(nodes))


# On a CPU prefixes with so many positions attend together: its cache holds one group.
_POSITIONS_A_GROUP: Final = 2**14

# From the nodes' queries, keys and values (R, 3, heads, head width) to what each takes from its prefix, (R, D).
_Attention = Callable[[torch.Tensor], torch.Tensor]


def _by_prefix(tile: TextTile) -> _Attention:
    """Return an attention that reads each node's prefix for it alone. No node is computed twice."""
    groups: list[tuple[torch.Tensor, torch.Tensor]] = []
    # Neighbouring nodes whose prefixes have the same rounded length are computed in one attention.
    rounded = tile.depths // TEXT_LENGTH_STEP
    starts = np.flatnonzero(np.diff(rounded, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(rounded)], strict=True):
        length = int(rounded[start] + 1) * TEXT_LENGTH_STEP
        paths = np.zeros((end - start, length), dtype=np.int64)
        given = tile.paths[start:end, :length]
        paths[:, : given.shape[1]] = given
        is_seen = np.arange(length) <= tile.depths[start:end, None]
        step = max(1, _POSITIONS_A_GROUP // length)
        for first in range(0, end - start, step):
            nodes, seen = (torch.from_numpy(each[first : first + step]) for each in (paths, is_seen))
            groups.append((nodes.flatten(), seen[:, None]))

    def attend(together: torch.Tensor) -> torch.Tensor:
        queries, *rest = together.permute(1, 2, 0, 3)
        keys_values = torch.cat(rest, dim=2)
        waiting = iter(torch.split(queries[:, :, None], [len(seen) for _, seen in groups], dim=1))
        mixed = []
        for nodes, seen in groups:
            gathered = keys_values.index_select(1, nodes).view(len(queries), len(seen), seen.shape[2], -1)
            keys, values = gathered.chunk(2, dim=3)
            mixed.append(F.scaled_dot_product_attention(next(waiting), keys, values, attn_mask=seen)[:, :, 0])
        return torch.cat(mixed, dim=1).transpose(0, 1).reshape(len(together), -1)

    return attend


def _by_text(tile: TextTile, device: torch.device) -> _Attention:
    """Return an attention of whole texts, as a GPU computes them: many queries share what they read.

    A node that several texts share has equal bits in each: it sees the same positions.
    """
    paths = tile.paths[tile.ends]
    is_of_text = np.arange(paths.shape[1]) <= tile.depths[tile.ends, None]
    # Each node takes its result from one of its texts; nodes to spare take any.
    places = np.zeros_like(tile.tokens)
    places[paths[is_of_text]] = np.flatnonzero(is_of_text)
    nodes, of_nodes = (to_device(each, device) for each in (paths.ravel(), places))

    def attend(together: torch.Tensor) -> torch.Tensor:
        texts = together.index_select(0, nodes).view(*paths.shape, *together.shape[1:])
        queries, keys, values = texts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return mixed.transpose(1, 2).reshape(len(nodes), -1).index_select(0, of_nodes)

    return attend


class TreeBlock(SelfAttentionBlock):
    """A block of a causal tower, over the nodes of a tile."""

    def forward(self, x: torch.Tensor, attend: _Attention) -> torch.Tensor:
        """Return the block's output (R, D) for its input (R, D)."""
        together = self.queries_keys_values(self.ln_1(x)).view(len(x), 3, self.num_heads, -1)
        return self.finish(x, attend(together))


class TextTower:
    """The text side of a CLIP."""

    def __init__(self, model: CLIP | CustomTextCLIP) -> None:
        """Wrap `model`, on its device, and share its weights."""
        self._model = model
        self.context_length = int(model.context_length)
        # A tower that looks ahead or pools at the end reads the padding, so its texts share no prefixes.
        self.is_tree = (
            isinstance(model, CLIP)
            and model.attn_mask is not None
            and model.text_pool_type == "argmax"
            and all(isinstance(block, ResidualAttentionBlock) for block in model.transformer.resblocks)
        )
        self._blocks = [TreeBlock(block) for block in model.transformer.resblocks] if self.is_tree else []

    @torch.inference_mode()
    def encode_tile(self, tile: TextTile) -> torch.Tensor:
        """Return (T, D) of a tile's texts, normalised float32; open_clip's `encode_text` up to rounding."""
        model = self._model
        dtype = model.transformer.get_cast_dtype()
        device = model.positional_embedding.device
        tokens, depths, ends = (to_device(column, device) for column in (tile.tokens, tile.depths, tile.ends))
        hidden = model.token_embedding(tokens).to(dtype) + model.positional_embedding[depths].to(dtype)
        attend = _by_prefix(tile) if device.type == "cpu" else _by_text(tile, device)
        for block in self._blocks:
            hidden = block(hidden, attend)
        # Rounding depends on the number of rows. So all nodes are projected: tiles have equally many nodes, not ends.
        pooled: torch.Tensor = model.ln_final(hidden)
        projection: nn.Linear | torch.Tensor | None = model.text_projection
        if isinstance(projection, nn.Linear):
            pooled = F.linear(pooled, projection.weight, projection.bias)
        elif projection is not None:
            pooled = pooled @ projection
        return F.normalize(pooled.float(), dim=-1)[ends]


class AttentionPool(nn.Module):
    """Attention pooling that computes only the output that is read, the one of the mean.

    Keys and values are not projected: q · (W x + b) = (q W) · x + q · b, whose second term softmax drops, and, as
    attention sums to 1, Σ a (W x + b) = W (Σ a x) + b.
    """

    def __init__(self, pool: AttentionPool2d) -> None:
        """Share the weights of `pool`, which must not change."""
        super().__init__()
        self.positional_embedding = pool.positional_embedding
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj
        self._num_heads = pool.num_heads

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (B, D) of feature maps (B, C, h, w)."""
        x = features.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding
        keys, values = (proj.weight.view(self._num_heads, -1, x.shape[2]) for proj in (self.k_proj, self.v_proj))
        queries = self.q_proj(x[:, 0]).view(len(x), self._num_heads, -1).transpose(0, 1)
        queries = torch.bmm(queries / math.sqrt(queries.shape[2]), keys).transpose(0, 1)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        attention = torch.bmm(queries.to(wide.dtype), wide.transpose(1, 2)).softmax(dim=2)
        mixed = torch.bmm(attention, wide).to(x.dtype).transpose(0, 1)
        taken = torch.bmm(mixed, values.transpose(1, 2)).transpose(0, 1).flatten(1)
        pooled: torch.Tensor = self.c_proj(taken + self.v_proj.bias)
        return pooled


def simplify_tower(tower: nn.Module) -> None:
    """Fold each batch norm of a `ModifiedResNet` into the convolution before it, and pool by `AttentionPool`.

    With the fixed statistics of eval mode a convolution and its norm are one affine map; results are equal up to
    rounding. Fold in float32: weights are divided by standard deviations.
    """
    if not isinstance(tower, ModifiedResNet):
        return
    for module in list(tower.modules()):
        # In open_clip's towers each convolution is followed by its norm, so neighbours are fused.
        for (name, convolution), (name_of_norm, norm) in pairwise(list(module.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, name_of_norm, nn.Identity())
    tower.attnpool = AttentionPool(tower.attnpool)


class ClipEmbedder:
    """A CLIP on its device. Embeddings are returned normalised, float32, on the CPU.

    Crops are computed in tiles of a fixed number, texts in tiles of a fixed number of prefixes. The last tile is
    padded, because the rounding of a matrix product depends on the shape of the whole batch (measured: the last bits of
    a Linear differ between 125 rows and 62). `crop_format` is the input of its image tower.
    """

    def __init__(self, config: FilterConfig, compute: ComputeConfig) -> None:
        """Load the model; `ConfigError` if weights are missing or the text tower is not a plain CLIP's."""
        self.device = prepare_device(compute)
        self._dtype = compute_dtype(compute)
        is_on_cpu = self.device.type == "cpu"
        self._crops_a_tile = min(config.batch_size, CLIP_CROPS_ON_CPU) if is_on_cpu else config.batch_size
        self._nodes_a_tile = config.batch_size * TOKENS_A_TEXT
        text_config = read_model_config(config.architecture)["text_cfg"]
        if "hf_tokenizer_name" in text_config:
            raise ConfigError(
                f"filtering.architecture={config.architecture!r} needs the tokenizer "
                f"{text_config['hf_tokenizer_name']!r}, but the clip engine has only open_clip's own "
                "BPE: choose another architecture, or add a plug-in engine for it"
            )
        model = load_clip(config.architecture, config.weights)
        simplify_tower(model.visual)
        # In another layout a CPU reorders each input of a convolution. Measured on two threads of an AMD EPYC with
        # AVX-512, 64 crops of RN50: 5.5 s become 3.6. On a GPU it was not measured.
        is_last = is_on_cpu and isinstance(model.visual, ModifiedResNet)
        self._layout = torch.channels_last if is_last else torch.contiguous_format
        self._model = model.to(device=self.device, dtype=self._dtype)
        self._model.visual.to(memory_format=self._layout)
        if compute.is_compiled:
            # Crops arrive in tiles of one size, so one compiled shape is enough.
            compile_tower(self._model.visual)
        self._text = TextTower(self._model)
        self.tokeniser = ClipTokenizer(int(model.context_length))
        self.crop_format = replace(crop_format(model, config.weights), has_antialiasing=config.has_antialiasing)

    def embed_crops(self, crops: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return (K, D) float32, a row per crop, in order.

        `crops` are pieces (n, 3, S, S) float32 in `crop_format`. They are read one by one, so that a shard's crops are
        never all in memory.
        """
        embedded = embed_in_tiles(crops, self._encode_crops, tile=self._crops_a_tile, of="filter crops")
        return torch.from_numpy(to_host(embedded)[0])

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (T, D) float32, a row per text; a text is cut to the model's context length."""
        return self.embed_tokens([self.tokeniser.tokens(text) for text in texts])

    def embed_tokens(self, texts: Sequence[list[int]]) -> torch.Tensor:
        """Return `embed_texts` of texts whose tokens are known."""
        if not texts:
            return torch.zeros(0, 0)
        # The longest text must fit into a tile.
        num_nodes = max(self._nodes_a_tile, self._text.context_length)
        if not self._text.is_tree:
            num_texts = num_nodes // self._text.context_length
            contexts = self.tokeniser.padded(texts)
            embedded = embed_in_tiles([contexts], self._encode_contexts, tile=num_texts, of="filter texts")
            return torch.from_numpy(to_host(embedded)[0])
        parts, numbers = [], []
        # A text ends at EOS, which has the highest id. open_clip finds it in the same way.
        tokens = [text[: text.index(max(text)) + 1] for text in texts]
        for tile in cut_into_tiles(tokens, num_nodes):
            record(BATCH_FILL, tile.num_used / num_nodes, of="filter texts")
            parts.append(self._text.encode_tile(tile))
            numbers.append(torch.from_numpy(tile.texts))
        embedded = torch.from_numpy(to_host(torch.cat(parts))[0])
        return torch.empty_like(embedded).index_copy_(0, torch.cat(numbers), embedded)

    @torch.inference_mode()
    def _encode_crops(self, crops: torch.Tensor) -> torch.Tensor:
        crops = crops.to(device=self.device, dtype=self._dtype, memory_format=self._layout)
        return F.normalize(self._model.encode_image(crops).float(), dim=-1)

    @torch.inference_mode()
    def _encode_contexts(self, contexts: torch.Tensor) -> torch.Tensor:
        return F.normalize(self._model.encode_text(to_device(contexts, self.device)).float(), dim=-1)


def embed_in_tiles(
    pieces: Iterable[torch.Tensor], encode: Callable[[torch.Tensor], torch.Tensor], *, tile: int, of: str = "rows"
) -> torch.Tensor:
    """Return `encode` of all rows of all pieces (n, ...), in order, (rows, D); (0, 0) if there are no rows.

    Each call of `encode` gets exactly `tile` rows. The last one is padded with zeros, whose results are dropped. `of`
    names the rows, for the measurement of how full the tiles are.
    """
    done: list[torch.Tensor] = []
    waiting: torch.Tensor | None = None
    for piece in pieces:
        waiting = piece if waiting is None else torch.cat([waiting, piece])
        while len(waiting) >= tile:
            record(BATCH_FILL, 1.0, of=of)
            done.append(encode(waiting[:tile]))
            waiting = waiting[tile:]
    if waiting is not None and len(waiting):
        record(BATCH_FILL, len(waiting) / tile, of=of)
        padding = waiting.new_zeros(tile - len(waiting), *waiting.shape[1:])
        done.append(encode(torch.cat([waiting, padding]))[: len(waiting)])
    return torch.cat(done) if done else torch.zeros(0, 0)


def crop_format(model: CLIP | CustomTextCLIP, weights: WeightsConfig) -> CropFormat:
    """Return the image tower's input: its size, and the mean and std that its weights were trained with."""
    size = model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    if height != width:
        raise ConfigError(
            f"filtering.architecture takes {height} x {width} pixels, but crops are square: choose another"
        )
    tag = tag_settings(weights)
    return CropFormat(
        size=int(height),
        mean=tuple(tag.get("mean") or OPENAI_DATASET_MEAN),
        std=tuple(tag.get("std") or OPENAI_DATASET_STD),
    )
