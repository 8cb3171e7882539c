"""Every cell of vision encoder x text encoder x fusion x decoder x objective takes an optimizer
step, or is refused with a reason before anything is traced.

Parts that an objective does not use are no part of its parameters, so of the cells that differ in
such parts alone one takes its step. Nothing but `Features` crosses between parts, so each part is
jitted by itself here and the step around them is not: cells share the compiled parts.
"""

import itertools
from collections import Counter
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlm_jax import experiment, models, step
from vlm_jax.data.pipeline import stack
from vlm_jax.decoders import DECODERS
from vlm_jax.encoders import TEXT_ENCODERS, VISION_ENCODERS
from vlm_jax.fusion import FUSIONS
from vlm_jax.tasks import TASKS

SIDE, VOCAB, BATCH = 32, 24, 4
BLOCK = dict(layers=1, heads=2, mlp_width=8)

VISION = {
    "vgg map": dict(name="vgg", depth=11, width=2),
    "vgg fc2": dict(name="vgg", depth=11, width=2, features="fc2", fc_width=16),
    "resnet batch norm": dict(
        name="resnet", depth=18, stages=(1, 1, 1), width=4, frozen_statistics=False
    ),
    "resnet group norm": dict(
        name="resnet", depth=18, stages=(1, 1, 1), width=4, norm="group", groups=2
    ),
    "vit": dict(name="vit", patch=16, image_size=SIDE, width=16, pooling="none", **BLOCK),
    "precomputed": dict(name="precomputed", width=16),
}
TRANSFORMER = dict(name="transformer", vocab=VOCAB, width=12, max_length=8, **BLOCK)
TEXT = {
    "none": None,
    "bag of words": dict(name="bag_of_words", vocab=VOCAB, width=12),
    "lstm": dict(name="recurrent", vocab=VOCAB, width=6, hidden=12),
    "bidirectional gru": dict(
        name="recurrent", cell="gru", vocab=VOCAB, width=6, hidden=6, bidirectional=True
    ),
    "transformer": TRANSFORMER,
    "causal transformer": TRANSFORMER | dict(causal=True, pooling="last"),
}
FUSION = {
    "none": None,
    "concat": dict(name="concat", width=20),
    "attention": dict(name="attention", heads=2),
    "coattention": dict(name="coattention", width=20, **BLOCK),
    "cross_modal": dict(name="cross_modal", width=20, **BLOCK),
}
DECODER = {
    "none": None,
    "lstm_merge": dict(name="lstm_merge", vocab=VOCAB, width=8),
    "attending_lstm": dict(name="attending_lstm", vocab=VOCAB, width=8, attention_width=4),
    "cross_attention": dict(
        name="causal_lm", memory="attend", vocab=VOCAB, width=8, max_length=8, **BLOCK
    ),
    "prefix_lm": dict(name="causal_lm", vocab=VOCAB, width=8, max_length=24, **BLOCK),
}
HEADS = dict(
    contrast=dict(size=8), classify=dict(hidden=8, classes=BATCH), reconstruct=dict(vocab=VOCAB)
)
AXES = {"vision": VISION, "text": TEXT, "fusion": FUSION, "decoder": DECODER}

OBJECTIVES = {
    "captioning": dict(name="captioning", length=7),
    "vqa": dict(name="vqa", length=7),
    "vqa_generation, question to decoder": dict(name="vqa_generation", length=8, question_length=5),
    "vqa_generation, question to text": dict(
        name="vqa_generation", length=8, question_length=7, question_to="text"
    ),
    "retrieval": dict(name="retrieval", length=7),
    "masked_pretraining": dict(name="masked_pretraining", length=7),
    "classification": dict(name="classification", length=7),
}
QUESTION_IN_TEXT = ("vqa", "vqa_generation, question to text")
USES = {
    "captioning": ("vision", "decoder"),
    "vqa": ("vision", "text", "fusion", "classify"),
    "vqa_generation, question to decoder": ("vision", "decoder"),
    "vqa_generation, question to text": ("vision", "text", "fusion", "decoder"),
    "retrieval": ("vision", "text", "contrast"),
    "masked_pretraining": ("vision", "text", "fusion", "reconstruct"),
    "classification": ("vision", "text", "fusion", "classify"),
}
"""The parts that an objective trains."""

VALID_PER_OBJECTIVE = {  # vision x ..., factors for what the objective does not use among them
    "captioning": (6 * 4 - 3)
    * (1 + 5 * 5),  # one vector is not attended to; no fusion without text
    "vqa": 6 * 5 * 4 * 5,
    "vqa_generation, question to decoder": (6 * 4 - 3) * (1 + 5 * 5),
    "vqa_generation, question to text": 6 * 5 * 4 * 4,
    "retrieval": 6 * 5 * 5 * 5,
    "masked_pretraining": 6 * (5 * 4 - 3 * 2) * 5,  # three encoders and two fusions are one-sided
    "classification": 6 * (1 + 5 * 4) * 5,
}
CELLS = list(itertools.product(*AXES.values(), OBJECTIVES))


class Source(list):
    """What vocabularies are learned from, and batches made of."""

    name = "scraps"


def source(vision: str) -> Source:
    words = ["a red dog", "a blue cat runs", "one green bird", "two big red cars"]
    rng = np.random.default_rng(0)

    def image():
        if vision == "precomputed":
            return rng.normal(size=(4, 5)).astype(np.float32)
        return rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)

    return Source(
        {
            "id": str(i),
            "image": image(),
            "captions": [words[i]],
            "questions": [{"question": f"what is {words[i]}", "answers": [words[i].split()[-1]]}],
            "label": words[i].split()[-1],
        }
        for i in range(BATCH)
    )


def model_config(cell) -> dict:
    """The model section of a cell, with every head there is."""
    return HEADS | {axis: AXES[axis][name] for axis, name in zip(AXES, cell, strict=False)}


def reason(cell) -> str | None:
    """Why the cell is invalid, None if it is not. Reads the config, and nothing else."""
    objective = cell[-1]
    asks = {"task": TASKS[OBJECTIVES[objective]["name"]].head}
    try:
        models.check(model_config(cell), asks, objective in QUESTION_IN_TEXT)
    except models.InvalidModel as error:
        return str(error)
    return None


VALID = [cell for cell in CELLS if reason(cell) is None]


def used(cell) -> tuple:
    """The cell with "none" for the parts that its objective has no use for."""
    names = zip(AXES, cell, strict=False)
    return (*(n if axis in USES[cell[-1]] else "none" for axis, n in names), cell[-1])


DISTINCT = sorted({used(cell) for cell in VALID})


@pytest.fixture(autouse=True, scope="module")
def parts_share_traces():
    """Each part becomes a jitted one: a second cell that calls it with the same shapes finds it
    traced.
    """
    tables = (VISION_ENCODERS, TEXT_ENCODERS, FUSIONS, DECODERS)
    jitted = lambda part: nn.jit(part, static_argnames="train")
    patches = [mock.patch.dict(t, {name: jitted(part) for name, part in t.items()}) for t in tables]
    for patch in patches:
        patch.start()
    yield
    for patch in patches:
        patch.stop()


def build(cell):
    """(update, shapes of the state before it, batch) of a cell."""
    data = source(cell[0])
    setup = experiment.build(
        dict(
            model=model_config(cell),
            tasks={"task": OBJECTIVES[cell[-1]]},
            data=dict(train=dict(name="unused"), image=dict(size=SIDE)),
            optimizer=dict(learning_rate=0.1),
        ),
        None,
        data,
    )
    task, rng = setup.tasks["task"], np.random.default_rng(0)
    batch = stack([{"image": e["image"], "task": task.preprocess(e, rng)} for e in data])
    optimizer = optax.sgd(0.1)

    def init():
        state = step.initial_state(setup, batch, seed=0)
        return state | {"optimizer": optimizer.init(state["params"])}

    before = jax.eval_shape(init)
    update = step.make_update(setup, optimizer, jax.tree.map(lambda x: False, before["params"]))
    return update, before, jax.tree.map(jnp.asarray, batch)


def parts_of(params) -> set[str]:
    """The parts that have parameters, a head by its key in the config."""
    return {name.removesuffix("_head") for name in params}


def parts_used(cell) -> set[str]:
    """The parts of a cell that its objective uses."""
    return {part for part in USES[cell[-1]] if model_config(cell)[part] is not None}


def test_count_of_cells(capsys):
    """The numbers change only with a part, an objective or a rule."""
    with capsys.disabled():
        counts = f"{len(VALID)} valid cells ({len(DISTINCT)} distinct)"
        print(f"\n{counts}, {len(CELLS) - len(VALID)} invalid")
    valid = Counter(cell[-1] for cell in VALID)
    everything = {axis: len(names) for axis, names in AXES.items()}
    assert everything == dict(vision=6, text=6, fusion=5, decoder=5)
    assert len(CELLS) == 6 * 6 * 5 * 5 * 7
    assert valid == VALID_PER_OBJECTIVE
    other_inputs = {"regions", "frames"}  # not one picture: tests/encoders
    other_inputs |= {"efficientnet"}  # as a ResNet here, in five fixed sizes
    assert VISION_ENCODERS.keys() - other_inputs == {part["name"] for part in VISION.values()}
    decoders = DECODERS.keys() - {"coca"}  # which has a text encoder inside: tests/decoders
    fusions = FUSIONS.keys() - {"qformer"}  # which reads an image by itself, too: tests/connectors
    for table, cells in ((TEXT_ENCODERS, TEXT), (fusions, FUSION), (decoders, DECODER)):
        assert set(table) == {part["name"] for part in cells.values() if part}
    alone = {"region_labels"}  # asks the vision encoder only: there is nothing to combine it with
    alone |= {"image_tokens", "text_to_image", "flow_matching"}  # have models of their own
    alone |= {"chat"}  # needs a decoder with memory="insert": tests/test_chat.py
    alone |= {"completion"}  # sees no picture: tests/tasks/test_completion.py
    assert set(TASKS) == {objective["name"] for objective in OBJECTIVES.values()} | alone
    assert set(valid) == set(OBJECTIVES)


def test_reasons_are_sentences_with_a_remedy():
    for text in {reason(cell) for cell in CELLS} - {None}:
        assert ": add " in text or ": set " in text or ": use " in text, text


def noise(shapes):
    """Arrays of these shapes, so that zeros and ones hide nothing, and nothing is compiled. Kernels
    keep their input's size, or eight layers of VGG would drown whatever is added to them.
    """
    rng = np.random.default_rng(0)
    scale = lambda x: 0.3 if x.ndim < 2 else (x.size / x.shape[-1]) ** -0.5
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, scale(x), x.shape), x.dtype), shapes)


def full_of_noise(shapes):
    """A state of these shapes before its first step."""
    return {
        "step": jnp.int32(0),
        "key": jax.random.key(0),
        "params": noise(shapes["params"]),
        "batch_stats": jax.tree.map(lambda x: abs(x) + 0.5, noise(shapes["batch_stats"])),
        "bad_step": jnp.int32(-1),
        "optimizer": shapes["optimizer"],
    }


def takes_a_step(cell) -> None:
    """Run, from parameters full of noise: shapes and dtypes stay, all that is used changes."""
    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    update, shapes, batch = build(cell)
    before = full_of_noise(shapes)
    after, losses = update(before, batch)
    assert described(after) == described(before)
    assert (losses["loss"].shape, losses["loss"].dtype) == ((), jnp.float32)
    assert jnp.isfinite(losses["loss"]) and after["step"] == 1 and after["bad_step"] == -1
    moved = jax.tree.map(lambda a, b: (np.asarray(a) != b).any(), after["params"], before["params"])
    changed = {part for part, leaves in moved.items() if any(jax.tree.leaves(leaves))}
    assert parts_of(before["params"]) == parts_of(changed) == parts_used(cell)
    same = jax.tree.map(
        lambda a, b: (np.asarray(a) == b).all(), after["batch_stats"], before["batch_stats"]
    )
    assert not any(jax.tree.leaves(same))


@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("vision", VISION)
def test_every_valid_cell_takes_a_step(vision, text):
    for cell in (cell for cell in DISTINCT if cell[:2] == (vision, text)):
        try:
            takes_a_step(cell)
        except Exception as error:
            error.add_note(f"The cell is {', '.join(cell)}")
            raise


@pytest.mark.parametrize(
    ("cell", "because"),
    [
        (("vit", "none", "none", "none", "captioning"), "needs config.model.decoder"),
        (("vit", "none", "none", "none", "retrieval"), "needs config.model.text"),
        (("vit", "lstm", "none", "none", "masked_pretraining"), "needs config.model.fusion"),
        (("vit", "none", "none", "none", "vqa"), "through the text encoder"),
        (
            ("vit", "lstm", "none", "lstm_merge", "vqa_generation, question to text"),
            "through the text encoder",
        ),
        (("vit", "none", "concat", "none", "classification"), "there is no text encoder"),
        (("vit", "lstm", "none", "none", "classification"), "would never see the text"),
        (("vgg fc2", "none", "none", "prefix_lm", "captioning"), "is one vector"),
        (("vit", "causal transformer", "attention", "none", "masked_pretraining"), "both sides"),
        (("vit", "bag of words", "concat", "none", "masked_pretraining"), "both sides"),
    ],
)
def test_each_rule_refuses_with_its_reason(cell, because):
    assert because in reason(cell)
    with pytest.raises(models.InvalidModel, match=because):
        build(cell)


def test_every_problem_is_named_at_once():
    found = reason(("vit", "none", "concat", "none", "masked_pretraining"))
    assert "needs config.model.text" in found and "there is no text encoder" in found


def test_a_missing_head_is_named():
    config = model_config(("vit", "lstm", "none", "none")) | dict(contrast=None)
    with pytest.raises(models.InvalidModel, match="task find needs config.model.contrast"):
        models.check(config, {"find": "contrast"})


def test_a_causal_encoder_may_not_summarise_by_its_first_token():
    config = dict(vision=VISION["vit"], text=TRANSFORMER | dict(causal=True), contrast=dict(size=4))
    with pytest.raises(models.InvalidModel, match="has seen no other"):
        models.check(config, {"find": "contrast"})


def test_an_image_classifier_may_share_its_encoder_with_a_dual_encoder():
    config = model_config(("vit", "lstm", "none", "none"))
    models.check(config, {"find": "contrast", "label": "classify"})


def test_masked_words_are_refused_exactly_where_later_words_cannot_be_seen():
    """The rule for masked pre-training, against what the network does when a later word changes."""
    tokens = jnp.array([[2, 4, 7, 9, 11, 3, 0]], jnp.int32)
    image = jnp.ones((1, 4, 5), jnp.float32)

    def sees_later_words(config) -> bool:
        model, asks = models.build(config), {"task": "reconstruct"}

        def batch(shown):
            inputs = {"text": shown, "text_mask": shown > 0, "matched": jnp.array([True])}
            return {"image": image, "task": inputs}

        variables = noise(
            jax.eval_shape(lambda: model.init(jax.random.key(0), batch(tokens), asks))
        )
        words = lambda shown: model.apply(variables, batch(shown), asks)["task"]["word_logits"]
        changed = words(tokens) != words(tokens.at[0, 4].set(13))
        return bool(changed[0, 1].any())

    for text, fusion in itertools.product(list(TEXT)[1:], list(FUSION)[1:]):
        cell = ("precomputed", text, fusion, "none", "masked_pretraining")
        config = model_config(cell) | dict(contrast=None, classify=None)
        assert sees_later_words(config) == (reason(cell) is None), cell
