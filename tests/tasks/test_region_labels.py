"""Region labels: boxes on the grid, a loss over labelled places only, scores by kind."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.data.scenes import Scenes, kinds
from vlm_jax.data.schema import DataError
from vlm_jax.tasks.region_labels import RegionLabels
from vlm_jax.tokenizers import make_tokenizer

TOKENIZER = make_tokenizer({"name": "word"}, lambda: ["a red circle"])
KINDS = {"shape": ("circle", "square"), "colour": ("red", "blue", "green")}
TASK = RegionLabels(TOKENIZER, KINDS, grid=4)


def example(*regions):
    made = [{"box": box, "labels": labels} for box, labels in regions]
    return {"id": "x", "image": "", "captions": [], "questions": [], "regions": made}


def test_cells_whose_centre_is_in_a_box_have_its_labels():
    arrays = TASK.preprocess(
        example(
            ([0.0, 0.0, 0.5, 0.3], {"shape": "square", "colour": "green"}),
            ([0.7, 0.8, 1.0, 1.0], {"shape": "hexagon", "colour": "blue"}),
        ),
        None,
    )
    mask, labels = (arrays[name].reshape(2, 4, 4) for name in ("region_mask", "region_labels"))
    assert np.argwhere(mask[0]).tolist() == [[0, 0], [0, 1]]
    assert np.argwhere(mask[1]).tolist() == [[0, 0], [0, 1], [3, 3]]
    assert labels[0, 0].tolist() == [1, 1, 0, 0]
    assert labels[1, 0].tolist() == [2, 2, 0, 0] and labels[1, 3, 3] == 1


def test_a_box_without_a_centre_labels_the_cell_around_its_own():
    task = RegionLabels(TOKENIZER, KINDS, grid=(1, 5))
    narrow = [
        ([0.62, 0.7, 0.68, 0.9], {"shape": "square"}),
        ([0.0, 0, 0.2, 1], {"shape": "circle"}),
    ]
    beyond = [([1.0, 0.0, 1.0, 1.0], {"shape": "circle"})]
    arrays = task.preprocess(example(*narrow, *beyond), None)
    assert arrays["region_mask"].shape == (2, 5)
    assert arrays["region_mask"][0].tolist() == [True, False, False, True, False]
    assert arrays["region_labels"][0].tolist() == [0, 0, 0, 1, 0]


def test_of_two_boxes_on_one_place_the_later_counts():
    arrays = TASK.preprocess(
        example(
            ([0.0, 0.0, 1.0, 1.0], {"shape": "circle"}),
            ([0.5, 0.5, 1.0, 1.0], {"shape": "square"}),
        ),
        None,
    )
    assert arrays["region_labels"][0].reshape(4, 4)[1:3, 1:3].tolist() == [[0, 0], [0, 1]]
    assert not arrays["region_mask"][1].any()


def test_each_of_several_pictures_has_its_own_places():
    found = example(([0.0, 0.0, 0.5, 0.3], {"shape": "square"}))
    found["regions"].append({"box": [0, 0, 1, 1], "labels": {"shape": "circle"}, "picture": 2})
    arrays = RegionLabels(TOKENIZER, KINDS, grid=4, pictures=3).preprocess(found, None)
    alone = TASK.preprocess(found | {"regions": found["regions"][:1]}, None)
    mask = arrays["region_mask"].reshape(2, 3, 16)
    np.testing.assert_array_equal(mask[:, 0], alone["region_mask"])
    assert mask[0].sum(axis=1).tolist() == [2, 0, 16] and not mask[1].any()


def test_an_example_without_regions_is_named():
    with pytest.raises(DataError, match="example x has no regions"):
        TASK.preprocess(example(), None)


def test_every_object_of_a_scene_covers_some_cell_of_the_quickstart_s_grid():
    task = RegionLabels(TOKENIZER, kinds(), grid=8)
    source = Scenes("test", length=40)
    for i in range(40):
        arrays, objects = task.preprocess(source[i], None), source[i]["scene"]["objects"]
        words = np.array(kinds()["colour"])[arrays["region_labels"][1][arrays["region_mask"][1]]]
        assert set(words) == {thing["colour"] for thing in objects}


def test_the_loss_is_that_of_labelled_places():
    arrays = TASK.preprocess(example(([0, 0, 0.3, 0.3], {"shape": "square"})), None)
    batch = {name: jnp.asarray(array)[None] for name, array in arrays.items()}
    outputs = {f"region_{kind}": jnp.zeros((1, 16, len(w))) for kind, w in KINDS.items()}
    np.testing.assert_allclose(TASK.loss(outputs, batch), np.log(2), rtol=1e-6)
    outputs["region_shape"] = outputs["region_shape"].at[0, 0, 1].set(50.0)
    np.testing.assert_allclose(TASK.loss(outputs, batch), 0, atol=1e-6)
    moved = outputs | {"region_shape": outputs["region_shape"].at[0, 1:].set(9.0)}
    np.testing.assert_allclose(TASK.loss(moved, batch), 0, atol=1e-6)


class Examples(list):
    name = "two examples"


class Run:
    """Gives perfect scores for shapes and the first colour for everything."""

    def rows(self, ask, source, inputs):
        assert ask == "label_regions"
        for i in range(len(source)):
            true = inputs(source[i])["region_labels"]
            shape, colour = np.zeros((16, 2)), np.zeros((16, 3))
            shape[np.arange(16), true[0]] = 1
            colour[:, 0] = 1
            yield i, {"region_shape": shape, "region_colour": colour}


def test_scores_by_kind_stand_beside_chance():
    source = Examples(
        [
            example(([0, 0, 1, 0.2], {"shape": "square", "colour": "red"})),
            example(([0, 0, 1, 1], {"shape": "circle", "colour": "blue"})),
        ]
    )
    found = {name: getattr(x, "value", x) for name, x in TASK.evaluate(Run(), source)}
    assert found["accuracy/shape"] == 1 and found["accuracy/shape/chance"] == 0.5
    assert found["accuracy/colour"] == 4 / 20
