"""`ray_cluster.yaml`: what Ray accepts, and what docs/cluster.md says of it."""

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
    } == {
        "head": (0, 0),
        "gpu_on_demand": (1, 8),
        "gpu_spot": (4, 56),
    }
    assert whole["head_node_type"] == "head"
    assert not any("latest" in command for command in whole["setup_commands"])


def test_the_head_does_no_work_and_every_gpu_node_carries_its_label():
    assert TYPES["head"]["resources"] == {"CPU": 0}
    assert TYPES["gpu_on_demand"]["resources"] == {"on_demand": 1}
    assert TYPES["gpu_spot"]["resources"] == {"spot": 1}
    assert TYPES["gpu_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in TYPES["gpu_on_demand"]["node_config"]


def test_all_workers_have_one_kind_of_gpu_and_fit_below_the_cluster_s_maximum():
    assert len({TYPES[name]["node_config"]["InstanceType"] for name in WORKERS}) == 1
    assert sum(TYPES[name]["max_workers"] for name in WORKERS) == CONFIG["max_workers"]


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


def test_what_it_copies_is_in_a_clone_or_made_by_a_named_command():
    makefile = (ROOT / "Makefile").read_text()
    assert CONFIG["file_mounts"]["/home/ray/pseudoris-dist"] == "dist"
    assert "\nwheel:" in makefile
    assert (ROOT / CONFIG["file_mounts"]["/home/ray/pseudoris-constraints.txt"]).is_file()
    assert "pseudoris-*.whl" in CONFIG["setup_commands"][0]


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
