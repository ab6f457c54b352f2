"""What is said of published weights agrees with what publishes them."""

import pytest
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.checkpoints.weight_catalogue import TAG_REPOS, HubSource, published_file


@pytest.mark.parametrize("tag", TAG_REPOS)
def test_the_repositories_of_tags_are_those_of_open_clip(tag):
    name, _, label = tag.rpartition("/")
    assert get_pretrained_cfg(name, label)["hf_hub"] == f"{TAG_REPOS[tag]}/"


def test_a_tag_has_open_clip_s_file_names_in_its_order():
    known = published_file(WeightsConfig(uri="open_clip:RN50-quickgelu/openai"))
    assert known.source == HubSource("timm/resnet50_clip.openai", (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME))
    assert known.licence == "MIT"


def test_a_tag_outside_the_presets_is_looked_up():
    assert (
        published_file(WeightsConfig(uri="open_clip:ViT-B-32/openai")).source.repo
        == "timm/vit_base_patch32_clip_224.openai"
    )


@pytest.mark.parametrize("preset", ["base", "paper"])
def test_every_file_of_a_preset_is_published(preset):
    config = load_config(preset)
    for section in (config.masks, config.captions, config.filtering):
        assert published_file(section.weights) is not None


def test_nothing_is_known_of_a_person_s_own_files():
    for uri in ("mine.pth", "s3://bucket/sam_vit_b_01ec64.pth", "builtin:tiny/sam.safetensors", "random:3"):
        assert published_file(WeightsConfig(uri=uri)) is None
