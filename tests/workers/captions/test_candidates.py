from schemas.shard import MaskRecord
from workers.captions.candidates import to_expressions
from workers.captions.drafts import Decoder, Draft

WORDS = {1: "A Red circle . ", 2: "a red circle ", 3: " . ", 4: "a dog "}
MASKS = [MaskRecord(f"00ab-000{n}", n, (4, 4), "", (0, 0, 1, 1), 1) for n in (2, 5)]


def draft(place, token, *, crop="masked", decoder=None, **changes):
    return Draft(place, crop, decoder or Decoder("top_k", top_k=5), (token,), -1.5, **changes)


def expressions(*drafts):
    return to_expressions(drafts, MASKS, lambda tokens: WORDS[tokens[0]])


def test_equal_captions_of_one_mask_are_one_record_with_all_their_samples():
    found = expressions(
        draft(0, 1, decoder=Decoder("beam")),
        draft(0, 4),
        draft(0, 2, crop="context_1.2", decoder=Decoder("top_p", top_p=0.4), others="all", num_others=1),
    )
    assert [one.text for one in found] == ["a red circle", "a dog"]
    samples = [(s.crop, s.decoder, s.top_k, s.top_p, s.others, s.num_others) for s in found[0].samples]
    assert samples == [("masked", "beam", None, None, "none", 0), ("context_1.2", "top_p", None, 0.4, "all", 1)]
    assert found[0].samples[0].log_prob == -1.5


def test_equal_captions_of_two_masks_stay_two_records():
    assert [one.target_mask_ids for one in expressions(draft(0, 1), draft(1, 2))] == [("00ab-0002",), ("00ab-0005",)]


def test_an_empty_caption_is_no_candidate():
    assert [one.text for one in expressions(draft(0, 3), draft(0, 4))] == ["a dog"]
