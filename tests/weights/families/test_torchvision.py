"""ResNet and VGG under torchvision's names."""

import numpy as np
import pytest
import torch
from torchvision import models

from tests.weights import oracles, parity
from vlm_jax.weights import pretrained
from vlm_jax.weights.folder import Arrays, WeightsError


def small_resnet(depth, stages):
    """torchvision's network with fewer blocks, and 64 ... 512 channels."""
    block = {18: models.resnet.BasicBlock, 50: models.resnet.Bottleneck}[depth]
    return parity.randomise(models.ResNet(block, stages, num_classes=6))


@pytest.mark.parametrize(("depth", "stages"), [(18, [1, 2, 1]), (50, [1, 1])])
def test_resnet(depth, stages, tmp_path):
    model = small_resnet(depth, [*stages, 1, 1][:4])
    for number in range(len(stages) + 1, 5):
        setattr(model, f"layer{number}", torch.nn.Identity())
    width = 64 * 2 ** (len(stages) - 1) * (4 if depth == 50 else 1)
    model.fc = torch.nn.Linear(width, 6)
    config = dict(model_type="torchvision", arch=f"resnet{depth}")
    inputs = dict(pixel_values=parity.pixels(2, 3, 45, 32))
    model = parity.randomise(model)
    loaded = oracles.check(model, config, inputs, tmp_path, oracles.logits)
    oracles.compare_classes(model, loaded, inputs)


def small_vgg(depth, width, grid, units):
    """torchvision's network with fewer channels and units."""
    plan = {16: "D", 13: "B"}[depth]
    narrow = [x if x == "M" else x * width // 64 for x in models.vgg.cfgs[plan]]
    model = models.VGG(models.vgg.make_layers(narrow), init_weights=False)
    model.avgpool = torch.nn.AdaptiveAvgPool2d((grid, grid))
    model.classifier[0] = torch.nn.Linear(8 * width * grid * grid, units)
    model.classifier[3] = torch.nn.Linear(units, units)
    model.classifier[6] = torch.nn.Linear(units, 5)
    return parity.randomise(model)


@pytest.mark.parametrize(
    ("depth", "width", "grid", "size"), [(16, 4, 3, (96, 96)), (13, 8, 2, (40, 104))]
)
def test_vgg(depth, width, grid, size, tmp_path):
    model = small_vgg(depth, width, grid, units=9)
    config = dict(model_type="torchvision", arch=f"vgg{depth}")
    inputs = dict(pixel_values=parity.pixels(2, 3, *size))
    loaded = oracles.check(model, config, inputs, tmp_path, oracles.logits)
    oracles.compare_classes(model, loaded, inputs)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet101", "vgg16", "vgg19"])
def test_published_names_and_shapes(arch):
    theirs = oracles.shapes_of(getattr(models, arch))
    assert parity.published(dict(model_type="torchvision", arch=arch)) == theirs


def test_the_name_that_timm_uses():
    ours, theirs = ({key: "resnet18"} for key in ("arch", "architecture"))
    assert parity.published(theirs) == parity.published(ours | dict(model_type="torchvision"))


def test_shapes_of_tensors_count(tmp_path):
    model = small_resnet(18, [1, 1, 1, 1])
    tensors = Arrays({name: np.asarray(x) for name, x in model.state_dict().items()})
    config = dict(model_type="torchvision", arch="resnet34", num_classes=1000)
    assert pretrained.from_tensors(config, tensors).model.vision.stages == (1, 1, 1, 1)


COUNTS = {
    "vgg16": (dict(arch="vgg16"), 138_357_544),
    "vgg19": (dict(arch="vgg19"), 143_667_240),
    "resnet50": (dict(arch="resnet50"), 25_557_032),
    "resnet50 trunk": (dict(arch="resnet50", num_classes=0), 23_508_032),
}


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert pretrained.count(config | dict(model_type="torchvision")) == expected


def test_values_that_are_not_supported():
    with pytest.raises(WeightsError, match="arch='vgg16_bn'"):
        pretrained.count(dict(model_type="torchvision", arch="vgg16_bn"))
