"""The manifest for KubeRay and the container file."""

from __future__ import annotations

import json
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pseudoris.cli.main import app

ROOT = Path(__file__).parents[2]
JOB = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
PODS = [CLUSTER["headGroupSpec"]["template"]["spec"], *(group["template"]["spec"] for group in GROUPS.values())]


def test_it_is_a_job_with_a_cluster_that_ends_with_it():
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
    assert JOB["spec"]["backoffLimit"] == 3
    assert f"ray=={CLUSTER['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()


def test_its_command_is_the_entry_script_with_options_that_annotate_knows():
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
