"""A soak: one run after the other, on S3 and three nodes, under faults drawn at random, until the time is up.

    python -m tests.faults.soak --minutes 30 --images 5000 [--seed N]

Every few seconds one of: a stage's process is killed, a node is (and another takes its place), the driver is killed or
asked to stop, the bucket answers 503, resets, or is slow for a while, `gc` runs beside it. Whoever ends is started
again with the same command. A run that has come to its end is held against one that nobody disturbed: nothing lost,
nothing doubled, the same bytes. The seed is printed; it fixes the draws, not what the machine makes of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pseudoris.store.runs.garbage import run_gc
from tests.builders.fault_proxy import Fault, FaultProxy, injecting
from tests.builders.runs import write_source
from tests.builders.s3 import ENVIRONMENT, FORBIDDEN, S3Server, serving_s3
from tests.faults.harness import (
    NODES,
    Driver,
    LocalCluster,
    local_cluster,
    open_attempts,
    prove,
    start_driver,
)

PLUGINS = Path(__file__).parents[1] / "plugins"
SHARD_IMAGES = 20
POISON = "a/image-012.png"
# Between two faults, seconds.
PAUSES_S = (1.0, 8.0)
# What the bucket does for a while when its turn comes; each is a storm, beside a drizzle that never ends.
STORMS: tuple[tuple[str, tuple[Fault, ...]], ...] = (
    ("503 to three of ten requests", (Fault("slow_down", rate=0.3),)),
    ("resets, before and after the work", (Fault("reset", rate=0.1), Fault("reset_done", rate=0.1))),
    ("409 to creations, done and not done", (Fault("conflict", rate=0.3), Fault("conflict_done", rate=0.3))),
    ("bodies that trickle or are cut", (Fault("slow_body", rate=0.1, seconds=1.0), Fault("cut_body", rate=0.1))),
)
DRIZZLE = (Fault("slow_down", rate=0.01),)
# 130 where it was asked to stop before its first shard, and SIGTERM where that was before it could listen.
RESUMABLE_CODES = (1, 3, 130, -signal.SIGKILL, -signal.SIGTERM)


@dataclass
class Soak:
    """A soak's state.

    Attributes:
        struck: How many faults of each kind were made.
        runs: Runs that came to their end, all of them as they should.
        starts: Drivers that were started.
    """

    cluster: LocalCluster
    proxy: FaultProxy
    draw: random.Random
    say: Callable[[str], None]
    struck: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    starts: int = 0
    has_lost_node: bool = False

    def strike(self, driver: Driver) -> None:
        """Make one fault, drawn at random."""
        faults = (self._kill_actor, self._kill_node, self._kill_driver, self._stop_driver, self._storm, self._collect)
        name = self.draw.choices(faults, weights=(5, 2, 2, 1, 4, 1))[0](driver)
        if name:
            self.struck[name] += 1
            self.say(name)

    def _kill_actor(self, driver: Driver) -> str:
        attempts = open_attempts(driver.location())
        if not attempts:
            return ""
        pid = int(self.draw.choice(attempts).process.partition("-")[0])
        with suppress(OSError):
            # An attempt may be an earlier start's, and its number another process's by now.
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
                os.kill(pid, signal.SIGKILL)
                return "a stage's process was killed"
        return ""

    def _kill_node(self, driver: Driver) -> str:
        # On one machine a driver may hang on any raylet, and goes with it.
        self.has_lost_node = True
        node = self.draw.choice(self.cluster.nodes)
        self.cluster.kill_node(node.node_id)
        self.cluster.add_node()
        return "a node was killed, and another took its place"

    def _kill_driver(self, driver: Driver) -> str:
        with suppress(ProcessLookupError):
            driver.process.kill()
        return "the driver was killed"

    def _stop_driver(self, driver: Driver) -> str:
        driver.process.terminate()
        return "the driver was asked to stop"

    def _collect(self, driver: Driver) -> str:
        run_gc(driver.location())
        return "gc ran beside it"

    def _storm(self, driver: Driver) -> str:
        name, faults = self.draw.choice(STORMS)
        self.proxy.set_faults((*faults, *DRIZZLE))
        return f"the bucket: {name}"


def soak(minutes: float, num_images: int, seed: int, folder: Path, say: Callable[[str], None]) -> Soak:
    """Disturb runs for `minutes`, and prove each; the last one is left alone when time is up, and ends too.

    Raises:
        AssertionError: A run ended otherwise than the undisturbed one, or a driver in a way that cannot be resumed.
    """
    draw = random.Random(seed)
    with ExitStack() as stack:
        source = write_source(folder / "images", num_images)
        server: S3Server = stack.enter_context(serving_s3())
        cluster = stack.enter_context(local_cluster(NODES))
        undisturbed = folder / "undisturbed"
        say("the undisturbed run, on disk")
        start_driver(source, undisturbed, cluster.address, *_assignments()).finish()
        proxy = stack.enter_context(injecting(server.endpoint_url, DRIZZLE, seed=seed))
        state = Soak(cluster, proxy, draw, say)
        # For this process alone, which looks into the bucket past the proxy; drivers are told of the proxy.
        os.environ["AWS_ENDPOINT_URL"] = server.endpoint_url
        stack.callback(os.environ.pop, "AWS_ENDPOINT_URL")
        end = time.monotonic() + 60 * minutes
        while state.runs == 0 or time.monotonic() < end:
            out = f"s3://{server.new_bucket('soak')}/out"
            _disturbed_run(state, source, out, end=end)
            how = f"{sum(state.struck.values())} faults so far at random, seed {seed}, {state.starts} starts"
            prove(out, undisturbed, fault="a soak: all of it", how=how, tries=sum(state.struck.values()))
            state.runs += 1
            say(f"run {state.runs} has ended as it should, after {state.starts} starts in all")
    return state


def _disturbed_run(state: Soak, source: Path, out: str, *, end: float) -> None:
    endpoint = (f"source.endpoint_url={state.proxy.endpoint_url}", "placement.storage.read_timeout_s=10")
    while True:
        driver = start_driver(source, out, state.cluster.address, *_assignments(), *endpoint)
        state.starts += 1
        state.has_lost_node = False
        while driver.process.poll() is None:
            pause_s = state.draw.uniform(*PAUSES_S)
            with suppress(Exception):
                driver.process.wait(pause_s)
            if driver.process.poll() is None:
                if time.monotonic() < end:
                    state.strike(driver)
                else:
                    state.proxy.set_faults(DRIZZLE)
        output = driver.process.communicate()[0]
        left = json.loads(output.strip().splitlines()[-1]) if driver.process.returncode == 0 else {}
        if driver.process.returncode == 0 and not left["interrupted"]:
            return
        state.say(f"the driver ended with code {driver.process.returncode}")
        assert state.has_lost_node or driver.process.returncode in (0, *RESUMABLE_CODES), output
        is_told = "run the same command again" in output or "Run the same command again" in output
        assert state.has_lost_node or driver.process.returncode != 1 or is_told, output


def _assignments() -> tuple[str, ...]:
    return (
        f"shards.max_images={SHARD_IMAGES}",
        "placement.fused.max_actors=2",
        f"masks.options={{sleep_s: 0.02, kills_on: {POISON}}}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=None, help="drawn and printed where it is not given")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{(time.monotonic() - began) / 60:6.1f} min  {text}", flush=True)

    say(f"seed {seed}, {arguments.minutes:g} minutes, {arguments.images:,} images")
    for name in FORBIDDEN:
        os.environ.pop(name, None)
    os.environ.update(ENVIRONMENT)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PLUGINS), os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, str(PLUGINS))
    with tempfile.TemporaryDirectory(prefix="pseudoris-soak-") as folder:
        state = soak(arguments.minutes, arguments.images, seed, Path(folder), say)
    say(f"{state.runs} runs, {state.starts} starts, {sum(state.struck.values())} faults; nothing lost, nothing doubled")
    for name, count in state.struck.most_common():
        print(f"{count:6d}  {name}")


if __name__ == "__main__":
    main()
