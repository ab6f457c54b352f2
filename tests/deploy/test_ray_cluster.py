"""`ray_cluster.yaml`: what Ray accepts, and what docs/guides/cluster.md says of it."""

from __future__ import annotations

import copy
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from pseudoris.pipeline.resources import plan_actors
from tests.builders.runs import stub_config

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
TYPES = CONFIG["available_node_types"]
WORKERS = ("gpu_on_demand", "gpu_spot")


def prepared(config):
    """What `ray up` makes of a file before it speaks to AWS."""
    whole = prepare_config(copy.deepcopy(config))
    validate_config(whole)
    return whole


def test_ray_accepts_it_and_fills_in_nothing_that_it_says():
    whole = prepared(CONFIG)
    assert {
        name: (kind["min_workers"], kind["max_workers"]) for name, kind in whole["available_node_types"].items()
    } == {"head": (0, 0), "gpu_on_demand": (1, 8), "gpu_spot": (4, 56)}
    assert whole["head_node_type"] == "head"
    assert not any("latest" in command for command in whole["setup_commands"])


def test_rights_come_from_roles_and_no_key_stands_in_it():
    for kind in TYPES.values():
        assert kind["node_config"]["IamInstanceProfile"]["Arn"].startswith("arn:aws:iam::")
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    assert not re.search(r"AKIA|SECRET|ssh_private_key", (ROOT / "ray_cluster.yaml").read_text())


def test_ray_and_python_are_those_that_the_tests_run_with():
    tag = f"{version('ray')}-py311-gpu"
    assert CONFIG["docker"]["image"] == f"rayproject/ray:{tag}"
    assert f"FROM rayproject/ray:{tag}\n" in (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"ray=={version('ray')}\n" in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("label", ["spot", "on_demand"])
def test_a_placement_that_asks_for_a_label_gets_the_nodes_that_carry_it(label):
    nodes = [
        {"CPU": 16.0, "GPU": 1.0, **{name: float(count) for name, count in TYPES[kind]["resources"].items()}}
        for kind in WORKERS
        for _ in range(TYPES[kind]["min_workers"])
    ]
    config = stub_config("placement.fused={num_cpus: 2, num_gpus: 1}", f"placement.fused.resources={{{label}: 0.001}}")
    config = config.model_copy(
        update={
            "placement": config.placement.model_copy(
                update={"fused": config.placement.fused.model_copy(update={"max_actors": None})}
            )
        }
    )
    assert plan_actors(nodes, config) == {"fused": {"spot": 4, "on_demand": 1}[label]}
