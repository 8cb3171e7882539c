"""Conversations with published models: the reference's tokens after all that was said before.

Every turn of ours reads only what is new; the reference is given the ids of the whole conversation
and all pictures at once.
"""

import dataclasses

import pytest
import torch
from PIL import Image

import vlm_jax
from tests.weights.test_predict import NEW, PHOTO, reference, written
from tests.weights.writers import CASES

WALL = PHOTO[:, ::-1].copy()
SAID = [
    ("What colour is the roof?", [PHOTO]),
    ("what is it", []),
    ("is <image> a wall or", [WALL]),
]
PUBLISHED = {
    "llava": (
        "USER: <image>\nWhat colour is the roof? ASSISTANT: red</s>USER: what is it ASSISTANT:"
    ),
    "qwen2_vl": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>What colour is the roof?<|im_end|>\n"
        "<|im_start|>assistant\nred<|im_end|>\n<|im_start|>user\nwhat is it<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "smolvlm, whole": (
        "<|im_start|>User:<image>What colour is the roof?<end_of_utterance>\nAssistant: red"
        "<end_of_utterance>\nUser: what is it<end_of_utterance>\nAssistant:"
    ),
    "idefics3, tiles": (
        "<|im_start|>User:<image>What colour is the roof?<end_of_utterance>\nAssistant: red"
        "<end_of_utterance>\nUser: what is it<end_of_utterance>\nAssistant:"
    ),
    "gemma3": (
        "<start_of_turn>user\n<start_of_image>What colour is the roof?<end_of_turn>\n"
        "<start_of_turn>model\nred<end_of_turn>\n<start_of_turn>user\nwhat is it<end_of_turn>\n"
        "<start_of_turn>model\n"
    ),
}
"""Two turns as the models' own chat templates write them."""

SEEDS = {"gemma3": 2, "qwen2_vl": 5}
"""Of models that write more than one token."""

MARKED = {"gemma3": "token_type_ids", "qwen2_vl": "mm_token_type_ids"}
"""What tells the reference where images are."""

ANSWER = {"smolvlm, whole": " red", "idefics3, tiles": " red"}
"""What a text of one word is by itself, where a blank belongs to it."""

TAGS = {"qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>", "gemma3": "<start_of_image>"}


def inputs_of(case, processor, ids, image_token, pictures):
    """What the reference reads: the ids as they are, pixels as its processor makes them."""
    text = " ".join([TAGS.get(case, "<image>")] * len(pictures))
    shown = [Image.fromarray(pixels) for pixels in pictures]
    found = dict(processor(images=[shown], text=[text], return_tensors="pt"))
    tokens = torch.tensor([ids])
    found |= {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if case in MARKED:
        found[MARKED[case]] = (tokens == image_token).int()
    return found


def grids(experiment, pictures):
    """As many rows and columns as each picture was cut into, where that depends on it."""
    cut = [experiment.read(picture, None)[0] for picture in pictures]
    return [tuple(x["grid"]) if isinstance(x, dict) and "grid" in x else None for x in cut]


@pytest.mark.parametrize("case", SEEDS)
def test_conversations_go_on_as_with_the_reference(case, tmp_path):
    """Rotations by rows and columns; windows, and images that are read in both directions."""
    model, processor, _, _ = CASES[case]()
    ours, banned = written(tmp_path / "folder", model, processor, SEEDS[case])
    tasks = ours.run.experiment.tasks
    tasks["chat"] = dataclasses.replace(tasks["chat"], answer_length=NEW)
    chat, shown, every = ours.chat(), [], []
    for text, pictures in SAID:
        before, shown = len(chat.tokens), shown + pictures
        chat.say(text, pictures)
        cut, words = grids(ours.run.experiment, pictures), ours.run.experiment.tokenizer
        prompt = chat.tokens[:before] + chat.task.turns.said(words, text, cut, first=not before)
        image_token = ours.run.experiment.model.decoder.image_token
        inputs = inputs_of(case, processor, prompt, image_token, shown)
        expected = reference(model, inputs, banned)
        assert chat.tokens[len(prompt) :][: len(expected)] == expected
        every += expected
    assert len(set(every)) > 2


@pytest.mark.parametrize("case", PUBLISHED)
def test_turns_are_arranged_as_by_the_models_own_templates(case, tmp_path):
    model, processor, _, _ = CASES[case]()
    model.save_pretrained(tmp_path / "folder")
    processor.save_pretrained(tmp_path / "folder")
    experiment = vlm_jax.load_pretrained(tmp_path / "folder").run.experiment
    turns, words = experiment.tasks["chat"].turns, experiment.tokenizer
    first = turns.said(words, SAID[0][0], grids(experiment, [PHOTO]), first=True)
    said = turns.said(words, SAID[1][0], [], first=False)
    found = processor(images=Image.fromarray(PHOTO), text=[PUBLISHED[case]])["input_ids"][0]
    ours = [*first, *turns.answered(words, ANSWER.get(case, "red")), *said]
    if case == "llava":  # its small tokenizer has tokens of two words, which no border cuts
        ours, found = (processor.tokenizer.decode(ids).split() for ids in (ours, found))
    assert list(ours) == list(found)
