"""What is deployed beside the code: the cluster's file, KubeRay's manifest, the dashboard and the workflows."""

from __future__ import annotations

import copy
import json
import re
import shlex
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.pipeline.meters import METRICS
from pseudoris.pipeline.resources import plan_actors
from tests.builders.runs import stub_config

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
TYPES = CONFIG["available_node_types"]


def test_ray_accepts_the_clusters_file_and_fills_in_nothing_that_it_says():
    # What `ray up` makes of a file before it speaks to AWS.
    whole = prepare_config(copy.deepcopy(CONFIG))
    validate_config(whole)
    kinds = {name: (each["min_workers"], each["max_workers"]) for name, each in whole["available_node_types"].items()}
    assert kinds == {"head": (0, 0), "gpu_on_demand": (1, 8), "gpu_spot": (4, 56)}
    assert whole["head_node_type"] == "head"
    assert not any("latest" in command for command in whole["setup_commands"])


def test_rights_come_from_roles_and_no_key_stands_in_the_clusters_file():
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
        for kind in ("gpu_on_demand", "gpu_spot")
        for _ in range(TYPES[kind]["min_workers"])
    ]
    fused = f"placement.fused={{num_cpus: 2, num_gpus: 1, max_actors: null, resources: {{{label}: 0.001}}}}"
    config = stub_config(fused)
    assert plan_actors(nodes, config) == {"fused": {"spot": 4, "on_demand": 1}[label]}


JOB = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
PODS = [CLUSTER["headGroupSpec"]["template"]["spec"], *(group["template"]["spec"] for group in GROUPS.values())]


def test_the_manifest_is_a_job_with_a_cluster_that_ends_with_it():
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
    assert JOB["spec"]["backoffLimit"] == 3
    assert f"ray=={CLUSTER['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()


def test_the_manifests_command_is_the_entry_script_with_options_that_annotate_knows():
    python, flag, module, *arguments = shlex.split(JOB["spec"]["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "pseudoris.deploy.job_entry")
    assert find_spec(module)
    assert "--address auto" in JOB["spec"]["entrypoint"]
    shown = CliRunner().invoke(app, ["annotate", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert all(word in shown for word in arguments if word.startswith("--"))


@pytest.mark.parametrize("pod", PODS, ids=["head", *GROUPS])
def test_every_pod_runs_without_root_and_without_keys(pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["serviceAccountName"] == "pseudoris"
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert {"name": "metrics", "containerPort": 8080} in container["ports"]
    assert not any("SECRET" in variable["name"] or "KEY" in variable["name"] for variable in container.get("env", ()))


@pytest.mark.parametrize(("group", "label"), [("spot", "spot"), ("on-demand", "on_demand")])
def test_worker_groups_carry_the_labels_that_placements_ask_for(group, label):
    # KubeRay pastes the value into a shell line: quotes around it, quotes inside escaped.
    assert json.loads(json.loads(GROUPS[group]["rayStartParams"]["resources"])) == {label: 1}
    assert GROUPS[group]["minReplicas"] <= GROUPS[group]["replicas"] <= GROUPS[group]["maxReplicas"]


BOARD = json.loads((ROOT / "deploy" / "dashboards" / "pseudoris.json").read_text())
GRAPHS = [panel for panel in BOARD["panels"] if panel["type"] == "timeseries"]


def named(panel):
    """Names of the run's own series in a part of the dashboard."""
    return set(re.findall(r"ray_pseudoris_\w+", json.dumps(panel)))


def test_the_dashboard_shows_every_metric_and_no_other():
    shown = set().union(*(named(panel["targets"]) for panel in GRAPHS))
    assert shown == {series for metric in METRICS for series in metric.series}
    assert named(BOARD["templating"]) <= shown
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_panel_of_a_metric_has_its_words_its_tags_and_the_run(metric):
    (panel,) = (each for each in GRAPHS if named(each["targets"]) & set(metric.series))
    assert panel["description"] == metric.description
    for query in (target["expr"] for target in panel["targets"]):
        assert query.count('{run=~"$run"}') == len(re.findall("ray_pseudoris", query))
        assert all(tag in query for tag in metric.tags)
        assert query.count("(") == query.count(")")


FLOWS = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def commands(flow: str) -> list[str]:
    return [step["run"] for job in FLOWS[flow]["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("flow", FLOWS)
def test_a_workflow_runs_what_ci_runs_and_targets_that_there_are(flow):
    assert ".ci/run" in commands(flow)
    asked = [
        word for line in commands(flow) if line.startswith("make ") for word in line.split()[1:] if "=" not in word
    ]
    assert set(asked) <= TARGETS


def test_a_release_is_published_by_trust_and_only_from_what_was_tested():
    jobs = FLOWS["release"]["jobs"]
    assert "secrets." not in str(FLOWS)
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert {name for name, job in jobs.items() if job.get("needs") != "build"} == {"build"}
    assert FLOWS["release"]["permissions"] == {"contents": "read"}
