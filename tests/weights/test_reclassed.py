"""Networks with other heads than their folder's class, written as the class that they are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import vlm_jax
from tests.weights import parity
from tests.weights.test_adopt import bert
from tests.weights.test_setups import lxmert, resnet, vilt, visual_bert, vit
from vlm_jax import models
from vlm_jax.weights import adopt, pretrained
from vlm_jax.weights.family import TWO_WORDS
from vlm_jax.weights.pretrained import read_folder

NAMES = ["a roof", "a wall", "the sky"]
KINDS = dict(classification=dict(labels=NAMES, length=8))
ANSWERS = dict(vqa=dict(answers=NAMES, length=8))
WORDS = dict(masked_pretraining=dict(length=16, match_weight=0.0, mismatch_rate=0.0))


def vilt_words():
    return vilt(transformers.ViltForMaskedLM)


def vit_model():
    model, pictures = vit()
    return transformers.ViTModel(model.config), pictures


def noise(shapes):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        found = 0.3 * rng.standard_normal(leaf.shape, np.float32)
        return np.abs(found) if path[-1].key == "var" else found

    return jax.tree_util.tree_map_with_path(draw, shapes)


def tuned(folder, tasks):
    """A loaded folder as a run that was trained for other tasks leaves it, all parameters new."""
    model = vlm_jax.load_pretrained(folder)
    config = adopt.complete(dict(init=str(folder), tasks=tasks))["model"]
    head = config.get("classify")
    if head is not None and "classes" not in head:
        config = config | dict(classify={**head, "classes": len(NAMES)})
    network = models.build(config)
    batch, asks = model.published.family.example(model.published.config)
    if "vision" in config and "text" not in config:
        asks = dict.fromkeys(asks, "classify")
    init = lambda key, given: network.init(key, given, asks)
    shapes = jax.eval_shape(init, jax.random.key(0), batch)
    model.run.variables = noise(shapes)
    experiment = model.run.experiment
    task = dataclasses.make_dataclass("Task", [("labels", tuple)])(tuple(NAMES))
    known = {"classes": task} if "masked_pretraining" not in tasks else {}
    model.run.experiment = dataclasses.replace(experiment, model=network, tasks=known)
    return model


SCENE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
REGIONS = dict(visual_embeds=parity.pixels(1, 3, 10))
SEEN = dict(pixel_values=parity.pixels(1, 3, 32, 32))
CASES = {
    "BERT, classes": (lambda: bert("BertModel"), KINDS, "BertForSequenceClassification", {}),
    "BERT, words": (lambda: bert("BertForPreTraining"), WORDS, None, {}),
    "ViT, classes": (vit, KINDS, "ViTForImageClassification", SEEN),
    "ViT with a pooler": (vit_model, KINDS, "ViTForImageClassification", SEEN),
    "ResNet, classes": (resnet, KINDS, "ResNetForImageClassification", SEEN),
    "ViLT, answers": (vilt_words, ANSWERS, "ViltForQuestionAnswering", SEEN),
    "VisualBERT, classes": (visual_bert, KINDS, "VisualBertForVisualReasoning", REGIONS),
    "LXMERT, answers": (lxmert, ANSWERS, "LxmertForQuestionAnswering", None),
}


@pytest.mark.parametrize("case", CASES)
def test_other_heads_make_another_class(case, tmp_path):
    writer, tasks, kind, given = CASES[case]
    model, words, *_ = writer()
    model.save_pretrained(tmp_path / "folder")
    words.save_pretrained(tmp_path / "folder")
    ours = tuned(tmp_path / "folder", tasks)
    vlm_jax.export(ours, tmp_path / "out")
    described = parity.describe(tmp_path / "out")
    kind = kind or "BertForPreTraining"  # which is not changed
    assert described["architectures"] == [kind]
    loaded, info = getattr(transformers, kind).from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    if case == "BERT, words":
        return
    if given is None:
        regions = parity.pixels(1, 3, 10)
        given = dict(visual_feats=regions[..., :6], visual_pos=regions[..., 6:])
    else:
        assert loaded.config.id2label == dict(enumerate(NAMES))
    alone = kind.startswith(("ViT", "ResNet"))
    inputs = given | ({} if alone else dict(input_ids=TWO_WORDS["text"] + 5))
    with torch.no_grad():
        found = loaded.eval()(**parity.tensors_of(inputs))
    expected = found["question_answering_score" if "visual_pos" in given else "logits"].numpy()
    apply = lambda *args, **options: ours.run.experiment.model.apply(
        ours.run.variables, *args, **options
    )
    image = given.get("visual_embeds", given.get("pixel_values"))
    if "visual_pos" in given:
        image = regions
    elif "pixel_values" in given:
        image = np.moveaxis(image, 1, -1)
    visual = None if image is None else apply(jnp.asarray(image), method="encode_image")
    text = jax.tree.map(jnp.asarray, dict(TWO_WORDS, text=TWO_WORDS["text"] + 5))
    logits = apply(visual, text, method="classify")["logits"]
    parity.compare({"x": np.asarray(logits)}, {"x": expected}, 1e-5)
    again = read_folder(tmp_path / "out").call("forward", inputs)
    parity.compare(again, {"logits": expected}, 1e-5)


UNNAMED = {
    "ResNet": dict(model_type="torchvision", arch="resnet18", stages=[1, 1, 1, 1], width=8),
    "VGG": dict(model_type="torchvision", arch="vgg11", width=2, fc_width=16, grid=1),
    "Lite": dict(architecture="tf_efficientnet_lite0", stages=[1, 2], stem=8, head=16),
}


@pytest.mark.parametrize("case", UNNAMED)
def test_networks_without_a_named_class_have_the_new_number_of_classes(case, tmp_path):
    config = UNNAMED[case] | dict(num_classes=5, label_names=list("abcde"), image_size=32)
    family = pretrained.family_of(config)
    network, shapes = pretrained.shapes_of(family, config)
    given = pretrained.Pretrained(family, config, network, noise(dict(shapes)))
    pretrained.write_folder(given, tmp_path / "folder")
    ours = tuned(tmp_path / "folder", KINDS)
    vlm_jax.export(ours, tmp_path / "out")
    described = parity.describe(tmp_path / "out")
    assert (described["num_classes"], described["label_names"]) == (3, NAMES)
    image = parity.pixels(2, 3, 32, 32)
    network, variables = ours.run.experiment.model, ours.run.variables
    pixels = jnp.asarray(np.moveaxis(image, 1, -1))
    visual = network.apply(variables, pixels, method="encode_image")
    expected = network.apply(variables, visual, {}, method="classify")["logits"]
    found = read_folder(tmp_path / "out").call("forward", dict(pixel_values=image))
    parity.compare(dict(logits=found["logits"]), dict(logits=np.asarray(expected)), 1e-5)
    again = vlm_jax.load_pretrained(tmp_path / "out")
    assert {row["label"] for row in again.classify(SCENE, top=3)} == set(NAMES)


def test_a_class_that_is_not_there_is_refused(tmp_path):
    model, words = bert("BertForMaskedLM")
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="nor as BertModel, .*: its workdir holds everything"):
        vlm_jax.export(tuned(tmp_path, KINDS), tmp_path / "out")


@pytest.mark.parametrize("count", [1, 3])
def test_classified_texts_equal_the_reference(count, tmp_path):
    config = transformers.BertConfig(
        **dict(hidden_size=24, num_attention_heads=2, intermediate_size=20, num_hidden_layers=2),
        **dict(vocab_size=40, max_position_embeddings=12, num_labels=count),
    )
    model = parity.randomise(transformers.BertForSequenceClassification(config))
    mask = np.ones((2, 7), np.int64)
    mask[1, 5:] = 0
    given = dict(input_ids=parity.tokens(2, 7, 40), attention_mask=mask)
    parity.check(model, given, tmp_path)
