"""ResNet folders of transformers."""

import pytest
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from tests.weights import parity
from vlm_jax.weights import pretrained
from vlm_jax.weights.families import resnet
from vlm_jax.weights.folder import WeightsError

CONFIGS = {
    "bottlenecks": dict(embedding_size=6, hidden_sizes=[8, 12], depths=[2, 1]),
    "basic, GELU, early stride": dict(embedding_size=5, hidden_sizes=[5, 7, 4], depths=[1, 2, 1])
    | dict(layer_type="basic", hidden_act="gelu", downsample_in_first_stage=True),
    "version 1": dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    | dict(downsample_in_bottleneck=True),
}


def hidden(model, given):
    """The reference's outputs by our names."""
    found = model(**given)
    return dict(tokens=found.last_hidden_state, pooled=found.pooler_output)


@pytest.mark.parametrize("case", CONFIGS)
def test_resnet(case, tmp_path):
    model = parity.randomise(ResNetModel(ResNetConfig(**CONFIGS[case])))
    inputs = dict(pixel_values=parity.pixels(2, 3, 40, 27))
    parity.check(model, inputs, tmp_path, names=("tokens", "pooled"), theirs=hidden)


@pytest.mark.parametrize(
    ("case", "classes"), [("bottlenecks", 5), ("basic, GELU, early stride", 5), ("version 1", 0)]
)
def test_classifier(case, classes, tmp_path):
    config = ResNetConfig(**CONFIGS[case], num_labels=classes)
    model = parity.randomise(ResNetForImageClassification(config))
    parity.check(model, dict(pixel_values=parity.pixels(2, 3, 33, 40)), tmp_path)


COUNTS = {
    "50, 1000 classes": (
        dict(architectures=["ResNetForImageClassification"], num_labels=1000),
        25_557_032,
    ),
    "50 trunk": ({}, 23_508_032),
}


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert pretrained.count(config | dict(model_type="resnet")) == expected


def test_values_that_are_not_supported():
    with pytest.raises(WeightsError, match="layer_type='wide'"):
        resnet.model(dict(layer_type="wide"))
