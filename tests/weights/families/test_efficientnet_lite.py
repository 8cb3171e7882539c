"""EfficientNet-Lite under timm's names."""

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d

from tests.weights import oracles, parity
from vlm_jax.encoders.efficientnet import EPSILON
from vlm_jax.weights import pretrained
from vlm_jax.weights.families import efficientnet_lite
from vlm_jax.weights.folder import WeightsError

LITE0 = dict(model_type="efficientnet_lite", architecture="tf_efficientnet_lite0")


def small(classes):
    """timm's network cut after its third stage."""
    model = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
    model.blocks = model.blocks[:3]
    model.conv_head = torch.nn.Conv2d(40, 24, 1, bias=False)
    model.bn2 = BatchNormAct2d(24, eps=EPSILON, act_layer=torch.nn.ReLU6)
    if classes:
        model.classifier = torch.nn.Linear(24, classes)
    return parity.randomise(model)


@pytest.mark.parametrize(("classes", "size"), [(5, (45, 32)), (0, (32, 32))])
def test_efficientnet_lite(classes, size, tmp_path):
    config = LITE0 | dict(stages=[1, 2, 2], head=24)
    inputs = dict(pixel_values=parity.pixels(2, 3, *size))
    model = small(classes)
    loaded = oracles.check(model, config, inputs, tmp_path, oracles.logits)
    if classes:
        oracles.compare_classes(model, loaded, inputs)


@pytest.mark.parametrize("number", [0, 4])
def test_published_names_and_shapes(number):
    arch = f"tf_efficientnet_lite{number}"
    theirs = oracles.shapes_of(lambda: timm.create_model(arch))
    assert parity.published(LITE0 | dict(architecture=arch)) == theirs


def test_the_first_ports_names_are_as_many_and_all_different():
    names = efficientnet_lite.numbered((1, 2, 2, 3, 3, 4, 1))
    assert len(set(names.values())) == len(names) == 5 + 2 * 2 + 15 * 6
    renamed = efficientnet_lite.as_timm("_blocks.15._project_conv.weight", names)
    assert renamed == "blocks.6.0.conv_pwl.weight"
    with pytest.raises(KeyError, match="_blocks.16"):
        efficientnet_lite.as_timm("_blocks.16._bn0.weight", names)


def test_values_that_are_not_supported():
    with pytest.raises(WeightsError, match="architecture='tf_efficientnet_b0'"):
        pretrained.count(LITE0 | dict(architecture="tf_efficientnet_b0"))


def test_pictures_are_read_as_the_network_was_trained():
    reader, statistics = efficientnet_lite.pictures(dict(architecture="tf_efficientnet_lite2"))
    assert (reader["size"], reader["shortest"], reader["method"]) == (260, 292, "bicubic")
    assert statistics == dict(image_mean=(0.5,) * 3, image_std=(0.5,) * 3)
    own = dict(pretrained_cfg=dict(input_size=[3, 96, 96], crop_pct=1.0, std=[1, 1, 1]))
    reader, statistics = efficientnet_lite.pictures(own)
    assert (reader["size"], reader["shortest"]) == (96, 96) and statistics["image_std"] == (1, 1, 1)
