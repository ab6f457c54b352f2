from pseudoris.workers.captions.decoding_rules import configured_rules
from tests.builders.coca import captions_config


def test_decoders_come_as_beam_then_top_k_then_top_p_each_ascending():
    config = captions_config(sampling={"top_k": (13, 5), "top_p": (0.8, 0.4)})
    labels = [rule.label for rule in configured_rules(config)]
    assert labels == ["beam", "top_k=5", "top_k=13", "top_p=0.4", "top_p=0.8"]
