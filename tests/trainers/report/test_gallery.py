import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from trainers.report.gallery import data_uri, galleries, gallery_rows


def decode(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_rows_are_the_ends_of_each_source_by_p_value(evaluation):
    records = evaluation.records
    chosen = gallery_rows(records)
    assert list(chosen) == ["test", "adversarial/fgsm", "ood/noise"]
    for source, ends in chosen.items():
        p_values = np.sort(records.p_value[torch.from_numpy(records.source == source)])
        count = 12 if source == "test" else 6
        np.testing.assert_array_equal(records.p_value[ends["lowest"]], p_values[:count])
        np.testing.assert_array_equal(records.p_value[ends["highest"]], p_values[::-1][:count])
        assert not set(ends["lowest"]) & set(ends["highest"])


def test_few_rows_are_shared_out_without_repeats(make_evaluation):
    chosen = gallery_rows(make_evaluation(n_attack=3).records)["adversarial/fgsm"]
    assert (len(chosen["lowest"]), len(chosen["highest"])) == (2, 1)
    assert len({*chosen["lowest"], *chosen["highest"]}) == 3
    one = gallery_rows(make_evaluation(n_attack=1).records)["adversarial/fgsm"]
    assert (len(one["lowest"]), len(one["highest"])) == (1, 0)


def test_attacks_that_failed_are_not_shown(make_evaluation):
    records = make_evaluation().records
    attacked = np.flatnonzero(records.source == "adversarial/fgsm")
    records.prediction[attacked[:25]] = records.label[attacked[:25]]
    chosen = gallery_rows(records)["adversarial/fgsm"]
    assert {*chosen["lowest"], *chosen["highest"]} == set(attacked[25:].tolist())


def test_tiles_name_the_prediction_and_the_truth(evaluation):
    found = galleries(evaluation)
    assert [gallery.title for gallery in found[:2]] == [
        "clean test images: lowest p-values",
        "clean test images: highest p-values",
    ]
    outside = next(gallery for gallery in found if gallery.title.startswith("noise"))
    assert {tile.truth for tile in outside.tiles} == {"none of the classes"}
    assert not any(tile.right for tile in outside.tiles)
    assert {tile.prediction for gallery in found for tile in gallery.tiles} <= {"cat", "dog", "fox"}


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (5, 8, 3)])
def test_small_images_survive_exactly(shape):
    image = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    picture = decode(data_uri(image))
    assert picture.format == "PNG"
    np.testing.assert_array_equal(np.asarray(picture), image.squeeze(-1) if shape[-1] == 1 else image)


def test_large_images_are_scaled_down():
    picture = decode(data_uri(np.zeros((224, 448, 3), dtype=np.uint8)))
    assert picture.size == (96, 48)
    assert picture.format == "JPEG"
