from tests.builders.coca import captions_config
from workers.captions.drafts import configured_decoders


def test_decoders_come_as_beam_then_top_k_then_top_p_each_ascending():
    config = captions_config(sampling={"top_k": (13, 5), "top_p": (0.8, 0.4)})
    labels = [decoder.label for decoder in configured_decoders(config)]
    assert labels == ["beam", "top_k=5", "top_k=13", "top_p=0.4", "top_p=0.8"]
