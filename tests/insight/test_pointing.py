import numpy as np
import pytest

from vlm_jax.data.scenes import Scenes
from vlm_jax.insight import pointing
from vlm_jax.insight.pointing import Case
from vlm_jax.insight.subject import Word

OBJECTS = [
    {"colour": "red", "shape": "circle", "size": "small"},
    {"colour": "red", "shape": "cross", "size": "large"},
    {"colour": "blue", "shape": "circle", "size": "small"},
]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("what shape is the large object", 1),
        ("what size is the blue circle", 2),
        ("what colour is the circle", None),  # two of them
        ("how many objects are there", None),
        ("what size is the green ring", None),
    ],
)
def test_a_question_is_about_one_object(question, expected):
    assert pointing.asked_object(question, OBJECTS) == expected


def test_questions_of_scenes_are_about_the_object_with_their_answer():
    found = 0
    for example in Scenes("test", 32, 40):
        for question in example["questions"]:
            if question["type"] in ("colour", "shape", "size"):
                objects = example["scene"]["objects"]
                target = pointing.asked_object(question["question"], objects)
                assert objects[target][question["type"]] == question["answers"][0]
                found += 1
    assert found > 40


def test_pairs_in_a_text_are_about_the_one_object_that_fits():
    said = "two red circles and a blue circle above a red large cross and green circle".split()
    words = [Word(text, (i, 100 + i)) for i, text in enumerate(said)]
    found = list(pointing.mentioned(words, OBJECTS))
    assert found == [(0, (1, 101, 2, 102)), (2, (5, 105, 6, 106))]
    twice = [*OBJECTS, {"colour": "blue", "shape": "circle", "size": "large"}]
    assert [i for i, _ in pointing.mentioned(words, twice)] == [0]


BOX = (0.5, 0.25, 0.75, 0.5)
CASES = [Case(None, {}, None, BOX, [BOX, (0, 0, 0.2, 0.2)])] * 2


def test_points_hit_inside_and_just_outside_of_the_box():
    inside = np.array([[0.6, 0.3], [0.78, 0.5]])
    outside = np.array([[0.6, 0.6], [0.79, 0.5]])
    assert pointing.hits(inside, CASES).tolist() == [1, 1]
    assert pointing.hits(outside, CASES).tolist() == [0, 0]


def test_baselines_are_chances():
    found = pointing.baselines(CASES)
    assert found["centre of the picture"].tolist() == [1, 1]
    np.testing.assert_allclose(found["random point"], 0.31**2)
    assert found["centre of a random object"].tolist() == [0.5, 0.5]
    rng = np.random.default_rng(0)
    drawn = np.mean([pointing.hits(rng.random((2, 2)), CASES) for _ in range(4000)])
    assert drawn == pytest.approx(0.31**2, abs=0.015)


def test_the_hottest_point_is_in_the_middle_of_equal_ones():
    heat = np.zeros((10, 20))
    heat[3, 15:17] = 1.0
    assert pointing.hottest(heat) == pytest.approx((16 / 20, 3.5 / 10))


def test_results_come_with_intervals():
    each = np.array([1.0] * 30 + [0.0] * 70)
    found = pointing.result(each)
    assert found.hits == 0.3 and found.n == 100
    assert 0.18 < found.low < 0.24 < 0.36 < found.high < 0.42
