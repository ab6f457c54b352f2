import hashlib

import pytest
import torch

from benchmarks.plain_captioner import group_beam_search
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions.decoding_rules import BeamExtension, BeamSearch
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens
from tests.builders.coca import captions_config

SPECIAL = SpecialTokens(sot=10, eos=11, pad=0)

# (seed, bonus of EOS, beams, groups, min_length, max_length), and tokens on the table of logits below: those of
# open_clip 3.3.0's own `CoCa._generate_beamsearch` over transformers 4.56.2, and those of the loop of the authors' CoCa
# over `BeamSearchScorer` of transformers 4.30.2, the last one with which their loop runs: it raises with 4.31.
GOLDEN = [
    ((1, 0, 6, 3, 5, 12), [10, 8, 5, 9, 9, 7, 3, 6], [10, 8, 5, 9, 9, 7, 3, 6]),
    ((2, 0, 6, 3, 5, 12), [10, 4, 4, 7, 8, 7, 9, 3, 10, 5, 3], [10, 4, 4, 7, 8, 5, 1]),
    ((3, 4, 6, 3, 5, 12), [4, 2, 9, 6, 8, 7], [4, 2, 9, 6]),
    ((4, 4, 6, 3, 1, 12), [], []),
    ((5, 2, 4, 1, 3, 10), [3, 10, 2, 5, 6, 2, 9, 8], [3, 1]),
    ((6, -8, 6, 3, 5, 9), [6, 10, 2, 3, 6, 7, 7, 7], [6, 10, 2, 3, 6, 7, 7, 7]),
    ((7, 3, 6, 2, 2, 10), [8, 0], [8]),
    ((8, 1, 2, 1, 4, 8), [7, 6, 0, 3, 4], [7, 6, 0, 3, 4]),
    ((9, 6, 6, 3, 1, 12), [3, 4], []),
    ((10, 5, 3, 3, 2, 12), [1], [1]),
]


def logits_of(seed, eos_bonus, prefix):
    row = []
    for token in range(12):
        text = f"{seed}|{','.join(map(str, prefix))}|{token}"
        word = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=2).digest(), "big")
        row.append(word / 8192 - 4 + (eos_bonus if token == SPECIAL.eos else 0))
    return row


def settings_of(case, **beam):
    _, _, num_beams, num_groups, min_length, max_length = case
    beam = {"num_beams": num_beams, "num_groups": num_groups, **beam}
    return captions_config(beam=beam, min_length=min_length, max_length=max_length)


def all_groups(case, **beam):
    def score(prefixes):
        return torch.tensor([logits_of(*case[:2], prefix) for prefix in prefixes], dtype=torch.float64)

    return group_beam_search(score, settings_of(case, **beam), SPECIAL)


def one_group(case, **beam):
    config = settings_of(case, **beam)
    num_beams = config.beam.num_beams // config.beam.num_groups
    search = BeamSearch(num_beams, SPECIAL.eos, config.beam.length_penalty, config.beam.counts_eos)
    for length in range(1, config.max_length):
        extensions = []
        for index, open_beam in enumerate(search.beams):
            logits = torch.tensor(logits_of(*case[:2], (SPECIAL.sot, *open_beam.tokens)), dtype=torch.float64)
            if length < config.min_length:
                logits[SPECIAL.eos] = -torch.inf
            log_probs = logits.log_softmax(dim=0)
            steps = logits if config.beam.beam_score == "logit" else log_probs
            extensions += [
                BeamExtension(open_beam.score + float(steps[v]), open_beam.log_prob + float(log_probs[v]), v, index)
                for v in range(12)
            ]
        search.advance(extensions)
        if search.is_done:
            break
    return search.result()


@pytest.mark.parametrize(("case", "tokens"), [(case, tokens) for case, _, tokens in GOLDEN])
def test_in_paper_a_beam_that_eos_ended_is_divided_as_transformers_4_30_does(case, tokens):
    paper = load_config("paper").captions.beam
    length = {"counts_eos": paper.counts_eos, "length_penalty": paper.length_penalty}
    assert list(all_groups(case, **length)[0]) == tokens
    assert list(one_group(case, **length).tokens) == tokens


@pytest.mark.parametrize("seed", range(40, 80))
def test_without_eos_in_the_length_one_group_finds_what_all_groups_find(seed):
    case = (seed, seed % 7 - 1, 6, 3, 1 + seed % 5, 12)
    found = one_group(case, counts_eos=False)
    assert (found.tokens, pytest.approx(found.log_prob)) == all_groups(case, counts_eos=False)


@pytest.mark.parametrize(("case", "tokens"), [(case, tokens) for case, tokens, _ in GOLDEN])
def test_one_group_finds_what_open_clips_groups_find(case, tokens):
    assert list(one_group(case).tokens) == list(all_groups(case)[0]) == tokens
    if case[2:4] == (6, 3):
        paper = load_config("paper").captions.beam
        assert list(one_group(case, num_beams=paper.num_beams, num_groups=paper.num_groups).tokens) == tokens
