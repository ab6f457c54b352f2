"""Every format of a combined run, by the readers of the others' tests: the same tests, asked of two runs in one."""

from __future__ import annotations

from functools import partial

import pytest

from pseudoris.files.key_order import path_key
from tests.interchange.exports import test_grounding, test_traps
from tests.interchange.exports.builders import BuiltRun, build_run, build_run_of_several, combined_runs, export, png
from tests.interchange.exports.loading import LOADERS

HAS_PLAIN_PATHS = True
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built_run(tmp_path_factory) -> BuiltRun:
    folder = tmp_path_factory.mktemp("combined")
    return combined_runs(folder / "both", one=build_run(folder / "1"), other=build_run(folder / "2", per_shard=2))


@pytest.fixture(scope="module")
def run_of_several(tmp_path_factory) -> BuiltRun:
    folder = tmp_path_factory.mktemp("combined")
    other = build_run(folder / "2", ((path_key("z.png"), png(), (("another red thing",), ("one more",))),))
    return combined_runs(folder / "both", one=build_run_of_several(folder / "1"), other=other)


def written(run: BuiltRun, factory: pytest.TempPathFactory, name: str, **options):
    root = factory.mktemp("exported") / "export"
    return root, export(name, run, root, **options)


class TestOfOneMask:
    """Formats whose texts are of one mask each."""

    @pytest.fixture(scope="class", params=sorted(LOADERS))
    def loaded(self, request, built_run, tmp_path_factory):
        root, _ = written(built_run, tmp_path_factory, request.param, max_tokens=0)
        return request.param, [*LOADERS[request.param](root)]

    test_masks_and_texts = staticmethod(test_traps.test_the_round_trip_keeps_masks_to_the_pixel_texts_and_counts)
    test_ids = staticmethod(test_traps.test_ids_of_masks_are_unique)
    test_image_ids = staticmethod(test_traps.test_an_image_id_is_not_shared_by_different_files)
    test_upright = staticmethod(test_traps.test_images_are_upright_also_for_a_reader_that_ignores_exif)
    test_names = staticmethod(test_traps.test_names_of_files_are_unique_and_lead_nowhere)


class TestOfSeveral:
    """Formats with texts of several masks, or of none."""

    @pytest.fixture
    def exported(self, run_of_several, tmp_path_factory):
        return partial(written, run_of_several, tmp_path_factory)

    conversations = test_grounding.test_a_conversation_answers_with_each_target_of_its_question_or_with_none
    test_conversations = staticmethod(conversations)
    test_odvg = staticmethod(test_grounding.test_a_line_of_odvg_has_the_box_of_its_caption_and_others_where_asked)
    test_sam3 = staticmethod(test_grounding.test_sam3_asks_each_image_for_its_own_texts_with_all_of_their_masks)
    test_grefcoco = staticmethod(test_grounding.test_grefcocos_references_have_their_masks_in_order_or_none)
    test_united = staticmethod(test_grounding.test_a_text_has_the_united_mask_of_its_targets)
    reasonseg = test_grounding.test_a_json_of_reasonseg_has_all_texts_of_its_masks_and_its_image_is_called_jpg
    test_reasonseg = staticmethod(reasonseg)
    test_label_studio = staticmethod(test_grounding.test_label_studio_has_every_mask_its_texts_and_what_is_absent)
