"""A soak: one run after the other under faults drawn at random, each held against a run that nobody disturbed.

    python -m tests.faults.soak --faults 10000 [--minutes 60] [--images 2000] [--faults-a-run 250] [--record FILE]

Every run takes place in one of four settings (`soak_settings.py`). Every second or so it meets a fault
(`soak_faults.py`): 19 of 20 are cheap ones, and the others are those that the record has least of. A driver that ends
is started again with the same command. A run that has come to its end is compared with the undisturbed one: nothing
lost, nothing doubled, the same bytes. Then it becomes a line of the record. The record stands on disk and adds up: the
next soak goes on where this one ended. A run's seed fixes the draws, not what the machine makes of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.builders.runs import write_source
from tests.builders.s3 import ENVIRONMENT, FORBIDDEN, S3Server, serving_s3
from tests.faults.harness import answer_in, prove, start_driver
from tests.faults.report import read_record, soak_table
from tests.faults.soak_faults import CHEAP, DEAR, RESUMABLE_CODES, Kind, Piece
from tests.faults.soak_settings import SETTINGS, possible_settings

PLUGINS = Path(__file__).parents[1] / "plugins"
RECORD: Final = Path(__file__).with_name("soak.jsonl")
SHARD_IMAGES = 20
POISON = "a/image-012.png"
# Between two faults, seconds.
PAUSES_S = (0.1, 1.2)
# Of so many faults in a row one may be dear.
PER_DEAR = 20
SETTINGS_OF_ALL = (f"shards.max_images={SHARD_IMAGES}", "placement.fused.max_actors=2")
WORDS = (*SETTINGS_OF_ALL, f"masks.options={{sleep_s: 0.02, kills_on: {POISON}}}")


@dataclass
class Soak:
    """What all runs of a soak share. Each is left alone after `faults_a_run`, the last one at `end` (monotonic)."""

    record: Path
    folder: Path
    server: S3Server
    undisturbed: Path
    source: Path
    words: Sequence[str]
    faults_a_run: int
    end: float
    dear: Sequence[Kind]
    say: Callable[[str], None]

    def run(self, seed: int, counts: Mapping[str, int]) -> None:
        """Take one run through its faults to its end, prove it, and add it to the record.

        Raises:
            AssertionError: It ended otherwise than the undisturbed one, or a driver in a way that cannot be resumed.
        """
        draw = random.Random(seed)
        name = _setting_of_turn(self.dear, counts, draw)
        began = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        # A copy, for it may grow.
        source = shutil.copytree(self.source, folder / "images")
        with SETTINGS[name](source, folder, self.server, seed) as setting:
            setting.words = (*self.words, *setting.words)
            self.say(f"a run of the setting {name}, seed {seed}")
            piece = Piece(setting, draw)
            self._drive(piece, counts)
            how = f"setting {name}, seed {seed}"
            tries = piece.struck.total()
            proven = prove(setting.out, self.undisturbed, fault="a soak: all of it", how=how, tries=tries)
            hits = dict(setting.proxy.hits) if setting.proxy else {}
        line = {
            "setting": name,
            "seed": seed,
            "seconds": round(time.monotonic() - began),
            "faults": tries,
            "struck": dict(piece.struck),
            "starts": piece.starts,
            "exit_codes": dict(piece.ends),
            "requests_hit": hits,
            **{name: proven[name] for name in ("images", "lost", "doubled", "bytes_equal")},
        }
        with self.record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.say(f"ended as it should, after {tries} faults and {piece.starts} starts")
        shutil.rmtree(folder, ignore_errors=True)

    def _drive(self, piece: Piece, counts: Mapping[str, int]) -> None:
        while True:
            piece.start()
            while piece.driver.process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    piece.driver.process.wait(piece.draw.uniform(*PAUSES_S))
                if piece.driver.process.poll() is None:
                    self._disturb(piece, counts)
            output = piece.driver.process.communicate()[0]
            code = piece.driver.process.returncode
            left = answer_in(output)
            assert left or code != 0, output
            if code == 0 and not left["interrupted"]:
                return
            self.say(f"the driver ended with code {code}, last fault: {piece.last}")
            piece.ends[code] += 1
            assert piece.may_end_anyhow or code in (0, *RESUMABLE_CODES), output
            is_told = "run the same command again" in output or "Run the same command again" in output
            is_told |= "the disk is full" in output
            assert piece.may_end_anyhow or code != 1 or is_told, output

    def _disturb(self, piece: Piece, counts: Mapping[str, int]) -> None:
        if piece.struck.total() >= self.faults_a_run or time.monotonic() > self.end:
            piece.calm()
            return
        here = piece.setting.name
        dear = [kind for kind in self.dear if here in kind.settings]
        struck = Counter(counts) + piece.struck
        # Of all on record, so that their share is kept over many runs too.
        if dear and sum(struck[kind.name] for kind in DEAR) * PER_DEAR + PER_DEAR // 4 <= struck.total():
            kind = _behind(dear, struck, piece.draw)
        else:
            cheap = [kind for kind in CHEAP if here in kind.settings]
            (kind,) = piece.draw.choices(cheap, weights=[kind.weight for kind in cheap])
        if piece.strike(kind):
            self.say(kind.name)


def _behind(kinds: list[Kind], counts: Mapping[str, int], draw: random.Random) -> Kind:
    """Return the kind that was made least often, at random among equals."""
    return min(kinds, key=lambda kind: (counts.get(kind.name, 0), draw.random()))


def _setting_of_turn(dear: Sequence[Kind], counts: Mapping[str, int], draw: random.Random) -> str:
    """Return a setting for the kind that was made least often."""
    possible = possible_settings()
    turns = []
    for kind in dear:
        turns += [(counts.get(kind.name, 0), draw.random(), name) for name in kind.settings if name in possible]
    return min(turns)[2]


def _annotate_in_a_process(source: Path, out: Path, words: Sequence[str]) -> None:
    start_driver(source, out, "local", *words).finish()


def soak(
    record: Path,
    folder: Path,
    *,
    max_faults: int | None = None,
    minutes: float = float("inf"),
    num_images: int = 2_000,
    faults_a_run: int = 250,
    words: Sequence[str] = WORDS,
    dear: Sequence[Kind] = DEAR,
    seed: int | None = None,
    annotate_undisturbed: Callable[[Path, Path, Sequence[str]], object] = _annotate_in_a_process,
    say: Callable[[str], None],
) -> None:
    """Add proven runs to `record` until it holds `max_faults`, or `minutes` have passed; at least one.

    `annotate_undisturbed` takes the images, the folder for the run, and settings.

    Raises:
        AssertionError: A run ended otherwise than the undisturbed one, or a driver in a way that cannot be resumed.
    """
    with ExitStack() as stack:
        end = time.monotonic() + 60 * minutes
        source = write_source(folder / "images", num_images)
        server: S3Server = stack.enter_context(serving_s3())
        undisturbed = folder / "undisturbed"
        say("the undisturbed run, on disk")
        annotate_undisturbed(source, undisturbed, words)
        # For this process alone, which looks into the bucket past the proxy; drivers are told of the proxy.
        os.environ["AWS_ENDPOINT_URL"] = server.endpoint_url
        stack.callback(os.environ.pop, "AWS_ENDPOINT_URL")
        state = Soak(record, folder, server, undisturbed, source, words, faults_a_run, end, dear, say)
        while True:
            state.run(random.SystemRandom().randrange(10**6) if seed is None else seed, _counts(record))
            seed = None
            is_enough = max_faults is not None and _counts(record).total() >= max_faults
            if is_enough or time.monotonic() > end:
                return


def _counts(record: Path) -> Counter[str]:
    return sum((Counter[str](row["struck"]) for row in read_record(record)), Counter[str]())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=None, help="go on until the record holds so many")
    parser.add_argument("--minutes", type=float, default=30.0, help="begin no run after so many minutes (default: 30)")
    parser.add_argument("--images", type=int, default=2_000, help="images a run")
    parser.add_argument("--faults-a-run", type=int, default=250, help="then the run is left alone until it ends")
    parser.add_argument("--record", type=Path, default=RECORD, help="what the runs add up to")
    parser.add_argument("--seed", type=int, default=None, help="of the first run; drawn and recorded if not given")
    arguments = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{(time.monotonic() - began) / 60:6.1f} min  {text}", flush=True)

    for name in FORBIDDEN:
        os.environ.pop(name, None)
    os.environ.update(ENVIRONMENT)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PLUGINS), os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, str(PLUGINS))
    for name in set(SETTINGS) - set(possible_settings()):
        say(f"without the setting {name}, which this machine does not allow")
    with tempfile.TemporaryDirectory(prefix="pseudoris-soak-") as folder:
        soak(
            arguments.record,
            Path(folder),
            max_faults=arguments.faults,
            minutes=arguments.minutes,
            num_images=arguments.images,
            faults_a_run=arguments.faults_a_run,
            seed=arguments.seed,
            say=say,
        )
    rows: list[dict[str, Any]] = read_record(arguments.record)
    say(f"{len(rows)} runs on record; nothing lost, nothing doubled")
    print(soak_table(rows))


if __name__ == "__main__":
    main()
