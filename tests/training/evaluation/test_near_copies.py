"""What a truth shares with what was learnt from: bytes, pictures of tiles, and near copies."""

from __future__ import annotations

import json
from dataclasses import replace

from pseudoris.training.evaluation.held_out import HeldOutExpressions, Origin, circularity
from tests.interchange.dataset.builders import build_run
from tests.store.builders import commit_images

PICTURE = "ab" * 32


def test_tiles_of_a_picture_and_near_copies_are_counted_beside_equal_bytes(tmp_path):
    run = build_run(tmp_path, is_committed=False, num_shards=1, per_shard=4)
    hashes = ["00ff00ff00ff00ff", "00ff00ff00ff00fe", "ffff0000ffff0000", "0000000000000000"]

    def image_of(entry):
        image = replace(run.image(entry), phash=hashes[entry.position])
        return replace(image, picture="p", picture_sha256=PICTURE) if entry.position == 2 else image

    commit_images(run.location, run.header, image_of, embed_images=True)
    truth = HeldOutExpressions(run.location.root)
    digests = [image.encoded[0].sha256[image.encoded[1]] for image in truth.images]
    clean = Origin(frozenset(), frozenset())
    assert not any("images of the truth" in note for note in circularity(clean, truth))
    # The first by its bytes, the third as a tile; of the others one is near, and pictures of one colour are not.
    origin = Origin(frozenset({digests[0], PICTURE}), frozenset(), frozenset({hashes[0], hashes[3]}))
    learnt, near, *_ = circularity(origin, truth)
    assert learnt.startswith("Circular: 2 of the 4 images of the truth were learnt from (equal sha256)")
    assert near.startswith("Circular: 1 of the 4 images of the truth are near copies of what was learnt from")
    assert not any("near copies are unknown" in note for note in circularity(origin, truth))
    # Tables of 0.6.0, or with images.phash=false, have no hashes; older records of a training neither.
    assert any(
        "near copies are unknown" in each for each in circularity(replace(origin, hashes=frozenset({""})), truth)
    )
    (tmp_path / "trained_on.json").write_text(json.dumps({"images": digests, "models": []}))
    assert any("near copies are unknown" in note for note in circularity(Origin.read(tmp_path), truth))
