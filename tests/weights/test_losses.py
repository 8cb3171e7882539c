"""Objectives on what folders hold: the reference's own loss, and its gradients for every parameter.

The other parity tests compare outputs, and gradients of random sums of outputs; here it is what
training minimises.
"""

import dataclasses

import numpy as np
import pytest
import transformers

from tests.weights import parity
from vlm_jax.losses import contrastive_sigmoid, contrastive_softmax, masked_cross_entropy
from vlm_jax.weights import calls
from vlm_jax.weights.pretrained import read_folder

WORDS = dict(vocab_size=60, bos_token_id=0, eos_token_id=1, pad_token_id=2)
TEXT = dict(hidden_size=16, num_attention_heads=4, intermediate_size=24, num_hidden_layers=2)
TOWER = TEXT | dict(image_size=32, patch_size=8)
IDS = parity.tokens(3, 7, 60)
IDS[:, -1] = WORDS["eos_token_id"]
PHOTOS = parity.pixels(3, 3, 32, 32)


def next_words(apply, inputs, forward, skip):
    """Mean cross-entropy of every next token, those in `skip` apart."""
    logits = forward(apply, inputs, {})["logits"]
    ids = inputs["input_ids"][:, 1:]
    return masked_cross_entropy(logits[:, :-1], ids, ids != skip).mean()


def contrast(loss, extra=()):
    def scored(apply, inputs, forward, skip):
        visual = apply(calls.nhwc(inputs["pixel_values"]), method="encode_image")
        found = apply(visual, calls.text_inputs(inputs), method="contrast")
        names = ("image_embeds", "text_embeds", "scale", *extra)
        return loss(*(found[name] for name in names)).mean()

    return scored


def llava():
    text = transformers.LlamaConfig(**TEXT, **WORDS, num_key_value_heads=2)
    vision = transformers.CLIPVisionConfig(**TOWER)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=59)
    ids = np.concatenate([np.full((3, 16), 59), np.minimum(IDS, 58)], axis=1)
    return transformers.LlavaForConditionalGeneration(config), dict(
        input_ids=ids, pixel_values=PHOTOS
    )


def language(kind, config):
    return kind(config), dict(input_ids=IDS)


def dual(kind, config):
    return kind(config), dict(input_ids=IDS, pixel_values=PHOTOS)


CASES = {
    "llama": (
        lambda: language(
            transformers.LlamaForCausalLM,
            transformers.LlamaConfig(**TEXT, **WORDS, num_key_value_heads=2),
        ),
        next_words,
    ),
    "gpt2": (
        lambda: language(
            transformers.GPT2LMHeadModel,
            transformers.GPT2Config(**WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=16),
        ),
        next_words,
    ),
    "llava": (llava, next_words),
    "clip": (
        lambda: dual(
            transformers.CLIPModel,
            transformers.CLIPConfig(
                text_config=TEXT | WORDS, vision_config=TOWER, projection_dim=8
            ),
        ),
        contrast(contrastive_softmax),
    ),
    "siglip": (
        lambda: dual(
            transformers.SiglipModel,
            transformers.SiglipConfig(
                text_config=TEXT | WORDS | dict(max_position_embeddings=9), vision_config=TOWER
            ),
        ),
        contrast(contrastive_sigmoid, extra=("bias",)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_and_its_gradients_are_the_reference_s(case, tmp_path):
    make, scored = CASES[case]
    model, inputs = make()
    parity.randomise(model).eval()
    model.save_pretrained(tmp_path)
    loaded = read_folder(tmp_path)
    skip = loaded.config.get("image_token_index", -1)
    forward = loaded.family.calls["forward"]
    own = {"loss": lambda *given: {"loss": scored(*given[:2], forward, skip)[None]}}
    loaded = dataclasses.replace(loaded, family=dataclasses.replace(loaded.family, calls=own))

    def ask(reference, given):
        if "pixel_values" in given and case != "llava":
            return {"loss": reference(**given, return_loss=True).loss[None]}
        labels = given["input_ids"].clone()
        labels[labels == skip] = -100
        return {"loss": reference(**given, labels=labels).loss[None]}

    expected = parity.outputs(model, inputs, ask, ("loss",))
    parity.compare(parity.run(loaded, "loss", inputs), expected, 1e-5)
    assert abs(expected["loss"]) > 0.1
    parity.compare_gradients(model, loaded, "loss", inputs, ask, ("loss",))
