"""Head nouns, prompts and tokens of captions: what is made beside a GPU's thread is what is made on it."""

import time

import open_clip
import psutil
import pytest

from pseudoris.schemas.config import FilterConfig, WeightsConfig
from pseudoris.workers.checkpoints.openclip import ClipTokenizer
from pseudoris.workers.filtering.caption_texts import TextMaker, announce

CONFIG = FilterConfig(architecture="builtin:tiny/clip.json", weights=WeightsConfig(uri="random:0"))
NOUNS = {"a red fire truck": "truck", "the dog's tail": "tail", "left": None, "r &amp; <end_of_text> 2": "r"}
CAPTIONS = [*NOUNS, "very " * 90]


def maker(*, is_ahead=True, **named):
    return TextMaker(CONFIG, ClipTokenizer(77), is_ahead=is_ahead, **named)


def text_processes():
    children = psutil.Process().children()
    # One that was killed is a zombie until its maker asks it again.
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "pseudoris.workers.filtering.caption_texts" in child.cmdline()]


def test_nouns_are_the_rules_and_tokens_are_open_clips():
    tokenise, made = open_clip.SimpleTokenizer(context_length=77), maker(is_ahead=False)(CAPTIONS)
    assert list(made) == CAPTIONS
    assert {text: made[text][0] for text in NOUNS} == NOUNS
    for caption, (_, prompt, *both) in made.items():
        assert [row + [0] * (77 - len(row)) for row in both] == tokenise([caption, prompt]).tolist()


@pytest.mark.slow
def test_texts_of_a_process_are_those_made_here_also_when_it_is_killed():
    make, here = maker(), maker(is_ahead=False)(CAPTIONS)
    announce(CAPTIONS[:2])
    assert make(CAPTIONS) == here
    announce(CAPTIONS)
    for process in text_processes():
        process.kill()
    # One that ended after its answer is missed, and replaced, when it is asked again.
    for _ in range(3):
        assert make(CAPTIONS) == here
    assert text_processes()


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_and_its_texts_are_made_here(caplog):
    others, make, here = text_processes(), maker(timeout_s=3), maker(is_ahead=False)(CAPTIONS)
    make.begin(CAPTIONS)
    while not (started := set(text_processes()) - set(others)):
        time.sleep(0.01)
    (process,) = started
    process.suspend()
    assert make(CAPTIONS) == here
    assert "ended (EOFError" in caplog.text
    assert not process.is_running()
