"""The proving process dies of real crashes, and its parent lives to tell which image it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from pseudoris.images.child_process import start_child
from pseudoris.images.perceptual_hash import perceptual_hash
from pseudoris.images.pixels import decode_upright
from pseudoris.images.prover import Prover, shared_prover
from pseudoris.primitives.errors import ImageError, TransientError
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.shard import Proof
from tests.builders import images as build
from tests.builders.command import python_says
from tests.builders.hostile_plugin import hostile

PLUGIN = "tests.builders.hostile_plugin"


def limits(**changes) -> ImagesConfig:
    return ImagesConfig(**{"decoder_plugins": (PLUGIN,), "decoder_timeout_s": 60.0, **changes})


@pytest.fixture(scope="module")
def prover():
    with Prover(limits()) as prover:
        yield prover


# In place of an answer: exabytes, no JSON, no object, an empty one, a note that nobody writes, levels of none.
FORGED = (
    *(b"\xff" * 8, (5).to_bytes(8) + b"nojso", (2).to_bytes(8) + b"[]", (2).to_bytes(8) + b"{}"),
    *(
        len(answer).to_bytes(8) + answer
        for answer in (
            b'{"size": [9, 9], "note": "a", "levels": [], "number": 1, "grown_bytes": 0}',
            b'{"size": [9, 9], "note": null, "levels": [9.0, 1.0], "number": 1, "grown_bytes": 0}',
            b'{"size": [9, 9], "note": null, "levels": [0.0, 1e999], "number": 1, "grown_bytes": 0}',
        )
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["abort", "segfault", "memory", *(f"forge {answer.hex()}" for answer in FORGED)])
def test_an_image_that_kills_its_decoder_is_named_and_the_next_one_proved(prover, deed):
    messages = set()
    for _ in range(2):
        with pytest.raises(ImageError, match="crashed its process twice") as caught:
            prover.prove(hostile(deed))
        assert caught.value.reason == "decoder_killed"
        messages.add(caught.value.message)
    assert len(messages) == 1
    assert prover.prove(build.png(3, 4)).size == (3, 4)


@pytest.mark.slow
def test_a_forged_answer_is_never_taken_for_the_next_images():
    forged = b'{"size": [9, 9], "note": null, "levels": [], "number": 1, "grown_bytes": 0}'
    with Prover(limits()) as prover:
        assert prover.prove(hostile(f"forge {(len(forged).to_bytes(8) + forged).hex()}")).size == (9, 9)
        assert prover.prove(build.png(3, 4)).size == (3, 4)
        assert prover.prove(build.png(5, 6)).size == (5, 6)


@pytest.mark.slow
def test_what_earlier_images_left_in_memory_decides_about_no_later_one():
    with Prover(limits(decoder_memory_bytes=2**28)) as prover:
        assert prover.prove(hostile("leak 64")).size == (3, 5)
        cramped = prover._child.pid
        # Refused where memory is short, it is asked again in a fresh child, which refuses it for good.
        with pytest.raises(ImageError, match="the header is damaged"):
            prover.prove(build.png()[:20])
        assert prover._child.pid != cramped
        assert prover.prove(hostile("leak 64")).size == (3, 5)
        leaky = prover._child.pid
        assert prover.prove(build.png(3, 4)).size == (3, 4)
        assert prover.prove(build.png(3, 4)).size == (3, 4)
        assert prover._child.pid != leaky


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deeds", "said"),
    [
        ("killed abort", nullcontext()),
        ("abort killed", nullcontext()),
        ("killed abort abort", pytest.raises(ImageError, match="crashed its process twice")),
        ("abort killed segfault", pytest.raises(ImageError, match="crashed its process twice")),
        ("killed abort killed", pytest.raises(TransientError, match="killed from outside twice, at last by SIGKILL")),
    ],
)
def test_the_second_death_of_a_kind_decides(prover, tmp_path, deeds, said):
    with said:
        assert prover.prove(hostile(f"in-turn {tmp_path.parent / 'todo'} {deeds}")).size == (3, 5)


@pytest.mark.slow
def test_a_decoder_that_hangs_is_timed_out():
    with Prover(limits(decoder_timeout_s=0.5)) as prover:
        with pytest.raises(ImageError, match=r"longer than images\.decoder_timeout_s = 0\.5 twice") as caught:
            prover.prove(hostile("hang"))
        assert caught.value.reason == "decoder_timeout"


@pytest.mark.slow
def test_the_memory_limit_holds_for_a_real_decoder():
    # Just beyond the smallest limit.
    pixels = 8_400
    data = build.encode(Image.new("RGB", (pixels, pixels)), "PNG", compress_level=1)
    with Prover(ImagesConfig(decoder_memory_bytes=2**28, max_pixels=pixels**2)) as prover:
        with pytest.raises(ImageError, match=r"exceeded images\.decoder_memory_bytes = 268435456") as caught:
            prover.prove(data)
        assert caught.value.reason == "decoder_killed"
        assert prover.prove(build.png(3, 4)).size == (3, 4)


@pytest.mark.slow
def test_images_larger_than_a_pipe_are_handed_over_whole(prover):
    data = build.png(900, 1000)
    assert len(data) > 2**21
    assert prover.prove(data).size == (900, 1000)


@pytest.mark.slow
def test_a_kept_child_serves_shard_after_shard():
    pids = []
    for num_before in (0, 1, 9_999, 0):
        with shared_prover(ImagesConfig()) as prover:
            prover.num_proofs = num_before
            assert prover.prove(build.png(3, 4)).size == (3, 4)
            pids.append(prover._child.pid)
    # After 10,000 proofs another child takes over; the first one has ended by then.
    assert pids[:3] == [pids[0]] * 3
    assert pids[3] != pids[0]
    assert not _is_running(pids[0])


@pytest.mark.slow
def test_a_kept_child_is_not_used_after_an_error_or_under_other_limits():
    with shared_prover(limits()) as prover:
        first = prover.prove(build.png(3, 4)) and prover._child.pid
    with pytest.raises(TransientError, match="killed from outside twice"), shared_prover(limits()) as prover:
        prover.prove(hostile("killed"))
    with shared_prover(limits()) as prover:
        second = prover.prove(build.png(3, 4)) and prover._child.pid
    with shared_prover(limits(max_pixels=6)) as prover, pytest.raises(ImageError, match="pixels"):
        prover.prove(build.png(3, 4))
    assert first != second
    assert not _is_running(second)


def test_a_kept_child_that_computes_no_hashes_is_not_used_where_they_are_asked_for():
    image, found = build.png(3, 4), []
    for has_hash in (False, True):
        with shared_prover(ImagesConfig(phash=has_hash)) as prover:
            found.append(prover.prove(image).phash)
    assert found == [None, perceptual_hash(decode_upright(image, ImagesConfig()))]


@pytest.mark.slow
def test_the_child_ends_with_its_parent():
    code = (
        "import os, time\nfrom pseudoris.schemas.config import ImagesConfig\n"
        "from pseudoris.images.prover import Prover\n"
        "prover = Prover(ImagesConfig()).__enter__()\nprint(prover._child.pid, flush=True)\nos._exit(0)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, cwd=root, timeout=120
    )
    deadline = time.monotonic() + 20
    while _is_running(int(done.stdout)):
        assert time.monotonic() < deadline, "the orphaned child still runs"
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan that nobody reaps stays a zombie: as dead as can be.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_the_child_loads_neither_torch_nor_pydantic():
    code = "import sys, pseudoris.images.prover_main as _; "
    code += "print([m for m in ('torch', 'pyarrow', 'ray', 'pydantic') if m in sys.modules])"
    assert python_says(code) == "[]"


MODULE = """
import os
from pseudoris.images.child_process import reserve_stdout
requests, answers = reserve_stdout()
print("a library says hello", flush=True)
os.write(1, b"and so does one in C")
answers.write(requests.read() + os.environ["WORD"].encode())
answers.flush()
"""


def test_a_child_answers_with_nothing_but_its_answers(tmp_path, monkeypatch, capfd):
    (tmp_path / "answering_child.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    child = start_child("answering_child", environment={"WORD": "!"})
    answer, _ = child.communicate(b"hello")
    assert (answer, child.returncode) == (b"hello!", 0)
    assert "a library says hello" in capfd.readouterr().err


def test_it_is_what_imagehash_gives_for_the_upright_image():
    pixels = build.random_pixels(40, 60)
    expected = str(imagehash.phash(Image.fromarray(pixels)))
    assert perceptual_hash(pixels) == expected
    with Prover(ImagesConfig(phash=True)) as prover:
        # Turned back by its EXIF tag: orientation 3 is half a turn.
        turned = build.oriented(pixels[::-1, ::-1].copy(), 3)
        assert prover.prove(turned) == Proof((40, 60), None, expected)
        assert prover.prove(build.encode(pixels)).size == (40, 60)


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (33, 31), (700, 500)])
@pytest.mark.parametrize("kind", ["random", "smooth", "flat"])
def test_it_has_the_bits_of_imagehash_at_any_size(size, kind):
    draw = np.random.default_rng(size[0])
    pixels = draw.integers(0, 256, (*size, 3), np.uint8)
    if kind == "smooth":
        pixels = np.add.outer(np.linspace(0, 120, size[0]), np.linspace(0, 120, size[1])).astype(np.uint8)
        pixels = np.stack([pixels, pixels // 2, 255 - pixels], -1)
    elif kind == "flat":
        pixels = np.full((*size, 3), 90, np.uint8)
    assert perceptual_hash(pixels) == str(imagehash.phash(Image.fromarray(pixels)))


@pytest.mark.parametrize("size", [(33, 31), (31, 33), (90, 40), (40, 90)])
def test_no_bit_differs_in_tall_and_in_wide_noise(size):
    # One step of grey in the smaller image decides a bit in few of them.
    for draw in range(40):
        pixels = build.random_pixels(*size, seed=draw)
        assert perceptual_hash(pixels) == str(imagehash.phash(Image.fromarray(pixels)))
