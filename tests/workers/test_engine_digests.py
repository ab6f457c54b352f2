import hashlib
import subprocess
import sys

import pytest

from pseudoris.schemas.config import PriorConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.stages import clip_digest, coca_digest, prior_digest, sam_digest


def test_the_digests_of_tiny_take_neither_torch_nor_open_clip():
    code = """if True:
    import sys
    from pseudoris.schemas.config_layers import load_config
    from pseudoris.workers.stages import STAGES
    config = load_config("tiny")
    print([len(stage.weights_digest(config)) for stage in STAGES])
    print([name for name in ("torch", "open_clip", "torchvision", "ray") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[64, 64, 64]", "[]"]


def test_the_digest_of_a_prior_is_that_of_its_file(tmp_path):
    path = tmp_path / "t.json"
    path.write_bytes(b"{}")
    assert prior_digest(PriorConfig(kind="table", path=str(path))) == hashlib.sha256(b"{}").hexdigest()
    assert prior_digest(PriorConfig()) is None
    with pytest.raises(ConfigError, match=r"nowhere\.json cannot be read"):
        prior_digest(PriorConfig(kind="table", path=str(tmp_path / "nowhere.json")))


def test_an_architecture_from_a_file_counts_with_each_of_its_numbers(tmp_path):
    masks = load_config("tiny").masks
    path = tmp_path / "sam.json"
    digests = {sam_digest(masks)}
    for window_size in (14, 7):
        path.write_text(sam_architecture("tiny").model_copy(update={"window_size": window_size}).model_dump_json())
        digests.add(sam_digest(masks.model_copy(update={"architecture": str(path)})))
    assert len(digests) == 3


@pytest.mark.parametrize(("digest", "section"), [(coca_digest, "captions"), (clip_digest, "filtering")])
def test_a_model_config_from_a_file_counts_with_its_content(tmp_path, digest, section):
    stage = getattr(load_config("tiny"), section)
    path = tmp_path / "model.json"
    from_file = stage.model_copy(update={"architecture": str(path)})
    with pytest.raises(ConfigError, match=r"model\.json' cannot be read \(No such file or directory\)"):
        digest(from_file)
    digests = {digest(stage)}
    for content in ("{}", "[]"):
        path.write_text(content)
        digests.add(digest(from_file))
    assert len(digests) == 3
