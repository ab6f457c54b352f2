"""A SAM of 64 px that has practised for seconds: its masks are poor, but there are many, and they differ."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pseudoris.schemas.config import ComputeConfig, MasksConfig, WeightsConfig
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.workers.checkpoints.sam_architectures import SamArchitecture
from pseudoris.workers.masks.sam_model import build_sam
from tests.builders.images import encode

ARCHITECTURE = SamArchitecture(
    image_size=64,
    patch_size=8,
    encoder_width=32,
    encoder_depth=1,
    encoder_heads=2,
    encoder_global_blocks=(0,),
    window_size=0,
    prompt_width=32,
    decoder_heads=2,
    decoder_mlp_width=64,
    iou_head_width=32,
)
STEPS = 260


@pytest.fixture(scope="session")
def sam():
    """A SAM that finds a small disc, a large disc, or the square cell around a point. Do not change it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_sam(ARCHITECTURE).train()
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for step in range(STEPS):
            optimiser.zero_grad()
            _loss(model, torch.Generator().manual_seed(step)).backward()
            optimiser.step()
    return model.eval()


def _loss(model, generator):
    image = F.interpolate(torch.rand(1, 3, 4, 4, generator=generator) * 255, (64, 64))
    points = torch.rand(16, 2, generator=generator) * 64
    truth = _shapes(points)
    sparse, dense = model.prompt_encoder(points=(points[:, None] - 0.5, torch.ones(16, 1)), boxes=None, masks=None)
    logits, iou = model.mask_decoder(
        image_embeddings=model.image_encoder(model.preprocess(image)),
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    found = logits.detach() > 0
    reached = (found & (truth > 0)).sum((2, 3)) / (found | (truth > 0)).sum((2, 3)).clamp(min=1)
    overlap = (logits.sigmoid() * truth).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (logits.sigmoid().sum((2, 3)) + truth.sum((2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(logits, truth) + dice.mean() + (iou - reached).square().mean()


def _shapes(points):
    """Targets (P, 3, 32, 32) float at the resolution of the logits."""
    side = torch.arange(32) * 2 + 1.0
    y, x = torch.meshgrid(side, side, indexing="ij")
    px, py = points[:, 0, None, None], points[:, 1, None, None]
    distance = (x - px) ** 2 + (y - py) ** 2
    cell = (x // 16 == px // 16) & (y // 16 == py // 16)
    return torch.stack([distance < 64, distance < 196, cell], dim=1).float()


@pytest.fixture(scope="session")
def weights_file(sam, tmp_path_factory):
    """The practised SAM's weights as a file."""
    path = tmp_path_factory.mktemp("weights") / "sam.pth"
    torch.save(sam.state_dict(), path)
    return path


@pytest.fixture
def masks_config(weights_file, tmp_path) -> Callable[..., MasksConfig]:
    """A builder of configs under which the practised SAM leaves tens of masks."""
    architecture = tmp_path / "sam.json"
    architecture.write_text(ARCHITECTURE.model_dump_json(), encoding="utf-8")

    def build(**overrides) -> MasksConfig:
        defaults = {
            "architecture": str(architecture),
            "weights": WeightsConfig(uri=str(weights_file)),
            "points_per_side": 8,
            "points_per_batch": 24,
            "pred_iou_thresh": 0.3,
            "stability_score_thresh": 0.5,
        }
        return MasksConfig(**(defaults | overrides))

    return build


@pytest.fixture(scope="session")
def compute() -> ComputeConfig:
    return ComputeConfig(device="cpu")


@pytest.fixture(scope="session")
def draw_image() -> Callable[..., np.ndarray]:
    """A builder of smooth random images (H, W, 3) uint8."""

    def draw(height: int, width: int, seed: int = 0) -> np.ndarray:
        small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))

    return draw


@pytest.fixture(scope="session")
def shard_of() -> Callable[..., Shard]:
    """A builder of shards from images (H, W, 3) uint8 or encoded bytes."""

    def build(*images: np.ndarray | bytes) -> Shard:
        rows = (
            ShardImage(at, f"{at:016x}", f"photos/{at}.png", image if isinstance(image, bytes) else encode(image))
            for at, image in enumerate(images)
        )
        return Shard(shard=0, generation=0, images=tuple(rows))

    return build
