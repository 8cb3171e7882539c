"""Folders of two towers, with the tokenizer and the preprocessor that the reference writes: what a
user asks of them, pictures and words in, is what the reference's processor and model say.
"""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import vlm_jax
from tests.tokenizers.test_classes import write
from tests.weights import parity
from tests.weights.families import test_align
from tests.weights.test_predict import PHOTO
from tests.weights.writers import TOWER, image_processor

PHOTOS = [PHOTO, 255 - PHOTO, PHOTO[20:40, 10:50].copy()]
TEXTS = ["a roof", "What colour is it?", "Describe this image."]
LONGEST = 32
ALL_POSITIONS = dict(model_input_names=["input_ids"])
"""As published folders of SigLIP have it: the text tower sees padding, too."""
SQUARE = dict(size=dict(height=32, width=32))


def written(folder, kind, **options):
    """A tokenizer of a class, from files such as it has."""
    (folder / "words").mkdir()
    write(folder / "words", kind)
    name = f"{kind}Tokenizer"
    return getattr(transformers, name).from_pretrained(folder / "words", **options)


def align(folder):
    words = written(folder, "Bert")
    sections = dict(test_align.CONFIGS["usual"])
    sections["text_config"] = sections["text_config"] | dict(
        vocab_size=len(words), max_position_embeddings=LONGEST
    )
    pictures = image_processor(
        "EfficientNet",
        **SQUARE
        | dict(rescale_offset=True, rescale_factor=1 / 127.5)
        | dict(do_normalize=False, include_top=False),
    )
    processor = transformers.AlignProcessor(pictures, words)
    return transformers.AlignModel(transformers.AlignConfig(**sections)), processor


def vit_and_bert(folder):
    words = written(folder, "Bert")
    text = transformers.BertConfig(**TOWER, vocab_size=len(words), max_position_embeddings=LONGEST)
    vision = transformers.ViTConfig(**TOWER, image_size=32, patch_size=16)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text)
    processor = transformers.VisionTextDualEncoderProcessor(image_processor("ViT", **SQUARE), words)
    return transformers.VisionTextDualEncoderModel(config), processor


def siglip(folder):
    words = written(folder, "Siglip", **ALL_POSITIONS)
    text = TOWER | dict(vocab_size=len(words), max_position_embeddings=LONGEST)
    vision = TOWER | dict(image_size=32, patch_size=8)
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    processor = transformers.SiglipProcessor(image_processor("Siglip", **SQUARE), words)
    return transformers.SiglipModel(config), processor


def siglip2(folder):
    ends = dict(add_bos_token=False, add_eos_token=True, padding_side="right")
    words = written(folder, "Gemma", **ends, **ALL_POSITIONS)
    text = TOWER | dict(vocab_size=len(words), max_position_embeddings=LONGEST)
    vision = TOWER | dict(patch_size=8, num_patches=16)
    config = transformers.Siglip2Config(text_config=text, vision_config=vision)
    pictures = image_processor("Siglip2", patch_size=8, max_num_patches=20)
    return transformers.Siglip2Model(config), transformers.Siglip2Processor(pictures, words)


WRITERS = {"align": align, "vit and bert": vit_and_bert, "siglip": siglip, "siglip 2": siglip2}


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_are_ranked_by_what_the_reference_finds_alike(name, tmp_path):
    model, processor = WRITERS[name](tmp_path)
    parity.randomise(model)
    folder = tmp_path / "folder"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    pictures = [Image.fromarray(photo) for photo in PHOTOS]
    words = transformers.AutoTokenizer.from_pretrained(folder)
    read = words(TEXTS, padding="max_length", max_length=LONGEST, return_tensors="pt")
    with torch.no_grad():
        found = model(**read, **processor.image_processor(pictures, return_tensors="pt"))
    cosines = (found.image_embeds @ found.text_embeds.T).numpy()
    assert np.ptp(cosines) > 0.01
    ours = vlm_jax.load_pretrained(folder)
    for number, text in enumerate(TEXTS):
        scores = {row["index"]: row["score"] for row in ours.rank(text, PHOTOS)}
        expected = cosines[:, number]
        np.testing.assert_allclose([scores[i] for i in range(len(PHOTOS))], expected, atol=1e-5)
