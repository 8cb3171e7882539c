"""Runs that start from a folder of one network: what the config leaves out comes from the folder,
and the heads are those of the tasks.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

import vlm_jax
from configs.vqa.lxmert import TINY as LXMERT
from configs.vqa.vilt import TINY as VILT
from tests.test_configs import load
from tests.weights import parity
from tests.weights.test_predict import PHOTO
from tests.weights.test_setups import (
    LABELS,
    bert_words,
    gpt2,
    lxmert,
    resnet,
    t5,
    vilt,
    visual_bert,
    vit,
)
from tests.weights.writers import TOWER
from vlm_jax import experiment, models, trees
from vlm_jax.data import pipeline
from vlm_jax.data.schema import DataError
from vlm_jax.step import initial_state, start_from
from vlm_jax.weights import adopt
from vlm_jax.weights.pretrained import read_folder


class Examples(list):
    name = "examples"


def examples(image):
    said = [("a roof of red tiles", "what colour is it", "red"), ("a wall", "what is it", "a wall")]
    rng = np.random.default_rng(0)
    regions = lambda: rng.random((3, 10), np.float32)
    return Examples(
        dict(
            id=str(i),
            image=regions() if image is None else image,
            captions=[caption],
            questions=[dict(question=question, answers=[answer])],
            label=answer,
        )
        for i, (caption, question, answer) in enumerate(said)
    )


def bert(kind):
    words = bert_words()
    return getattr(transformers, kind)(
        transformers.BertConfig(**TOWER, vocab_size=len(words))
    ), words


MASKED = dict(masked_pretraining=dict(length=16))
WORDS = dict(masked_pretraining=dict(length=16, match_weight=0.0, mismatch_rate=0.0))
VQA = dict(vqa=dict(length=12))
CLASSES = dict(classification=dict(length=8))
SAME = dict(classification=dict(labels=list(LABELS.values()), length=8))
PAIRS = dict(retrieval=dict(length=16, match={}, contrast=False))
CASES = {
    "VisualBERT's words": (visual_bert, MASKED, []),
    "VisualBERT, for answers": (visual_bert, VQA, ["classify_head"]),
    "LXMERT, for answers": (lxmert, VQA, ["classify_head/out"]),
    "LXMERT's match": (lxmert, PAIRS, []),
    "ViT, for other classes": (vit, CLASSES, ["classify_head"]),
    "ViT, for the same classes": (vit, SAME, []),
    "ResNet, for other classes": (resnet, CLASSES, ["classify_head"]),
    "BERT, for words": (lambda: bert("BertModel"), WORDS, ["reconstruct_head"]),
    "BERT's words": (lambda: bert("BertForMaskedLM"), WORDS, []),
    "BERT, for classes": (lambda: bert("BertModel"), CLASSES, ["classify_head"]),
    "GPT-2": (gpt2, dict(completion=dict(length=16)), []),
    "T5": (t5, dict(completion=dict(length=16, encoded=True)), []),
    "ViLT's match": (lambda: vilt(transformers.ViltForImageAndTextRetrieval), PAIRS, []),
    "ViLT, for answers": (lambda: vilt(transformers.ViltForMaskedLM), VQA, ["classify_head"]),
}


@pytest.mark.parametrize("case", CASES)
def test_runs_start_from_folders_without_a_model_in_the_config(case, tmp_path):
    writer, tasks, new = CASES[case]
    model, *processors = writer()
    folder = tmp_path / "folder"
    parity.randomise(model).save_pretrained(folder)
    for processor in processors[:1]:
        processor.save_pretrained(folder)
    given = dict(init=str(folder), tasks=tasks, optimizer=dict(name="adamw"))
    config = adopt.complete(given | dict(data=dict(train=dict(name="none"))))
    source = examples(None if writer in (visual_bert, lxmert) else PHOTO)
    if tasks is SAME:
        source[0]["label"], source[1]["label"] = LABELS[1], LABELS[2]
    setup = experiment.build(config, tmp_path, source)
    loader = pipeline.Loader(source, setup.read, setup.preprocess)
    batch = jax.tree.map(jnp.asarray, pipeline.stack([loader(i) for i in (0, 1)]))
    shapes = jax.eval_shape(lambda: initial_state(setup, batch, 0))
    empty = {key: shapes[key] for key in ("params", "batch_stats")}
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), empty)
    state = start_from(empty, config["init"])
    before = trees.flatten(read_folder(folder).variables["params"])
    after = trees.flatten(state["params"])
    own = {path for path in after if any(path.startswith(f"{head}/") for head in new)}
    assert bool(own) == bool(new)
    for path in after.keys() - own:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    (name, task), *_ = setup.tasks.items()
    outputs = lambda: setup.model.apply(state, batch, setup.asks)[name]
    assert jax.eval_shape(lambda: task.loss(outputs(), batch[name])).shape == (2,)


CONFIGURED = [
    ("vqa/vilt.py", "ViltModel", ["classify_head"]),
    ("vqa/vilt.py", "ViltForMaskedLM", ["classify_head"]),
    ("vqa/vilt.py", "ViltForQuestionAnswering", ["classify_head/out"]),
    ("retrieval/vilt.py", "ViltForMaskedLM", ["classify_head"]),
    ("retrieval/vilt.py", "ViltForImageAndTextRetrieval", []),
    ("vqa/lxmert.py", "LxmertModel", ["classify_head"]),
    ("vqa/lxmert.py", "LxmertForPreTraining", ["classify_head/out"]),
]


@pytest.mark.parametrize(("name", "kind", "new"), CONFIGURED)
def test_configs_take_the_heads_that_a_folder_has(name, kind, new, tmp_path):
    detected = "lxmert" in name
    sizes = dict(LXMERT, num_qa_labels=7) if detected else dict(VILT, num_labels=7)
    make = transformers.LxmertConfig if detected else transformers.ViltConfig
    parity.randomise(getattr(transformers, kind)(make(**sizes))).save_pretrained(tmp_path)
    given = f"smoke,folder={tmp_path}" + (",regions" if detected else "")
    config = load(name, given)
    config["data"]["image"] |= dict(fit="none") if detected else {}
    source = experiment.source(config["data"]["train"], "train")
    setup = experiment.build(config, None, source)
    batch = pipeline.stack([pipeline.Loader(source, setup.read, setup.preprocess)(0)])
    if detected:
        batch["image"] = np.zeros((1, 5, 2052), np.float32)
    params = jax.eval_shape(lambda: initial_state(setup, batch, 0))["params"]
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
    state = start_from(dict(params=empty, batch_stats={}), config["init"])
    before = trees.flatten(read_folder(tmp_path).variables["params"])
    after = trees.flatten(state["params"])
    own = {path for path in after if any(path.startswith(head) for head in new)}
    assert own == {path for path in after if not np.any(after[path])}
    for path in after.keys() - own:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)


def test_a_model_with_other_heads_than_its_folder_is_not_written_as_one(tmp_path):
    model, words, _ = lxmert()
    parity.randomise(model).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    ours = vlm_jax.load_pretrained(tmp_path)
    vlm_jax.export(ours, tmp_path / "same")
    for tasks, changed in ((VQA, "classify_head and reconstruct_head"), (PAIRS, "regions_head")):
        config = adopt.complete(dict(init=str(tmp_path), tasks=tasks))["model"]
        config = config | dict(classify=config["classify"] | dict(classes=2))
        setup = dataclasses.replace(ours.run.experiment, model=models.build(config))
        tuned = vlm_jax.load_pretrained(tmp_path)
        tuned.run.experiment = setup
        with pytest.raises(ValueError, match=f"another .*{changed}.* than .* its workdir holds"):
            vlm_jax.export(tuned, tmp_path / "other")


def test_regions_are_asked_for_in_a_run_that_starts_from_such_a_folder(tmp_path):
    model, words, _ = visual_bert()
    parity.randomise(model).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    config = adopt.complete(dict(init=str(tmp_path), tasks=VQA))
    assert config["data"]["image"] == dict(size=10, fit="regions")
    with pytest.raises(DataError, match=r"features of detected regions, f32\[regions, 10\]"):
        pipeline.InputReader(**config["data"]["image"])(PHOTO, None)
