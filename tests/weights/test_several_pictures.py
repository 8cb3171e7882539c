"""Folders of classes that read several pictures with a text, or several texts with a picture,
asked in Python as the reference answers.
"""

import pytest
import torch
import transformers
from PIL import Image

from tests.weights.test_predict import PHOTO
from tests.weights.test_setups import (
    LABELS,
    OTHER,
    STARTS,
    bert_words,
    classified,
    rows,
    saved,
)
from tests.weights.writers import TOWER, image_processor
from vlm_jax.data.schema import DataError


def test_vilt_classifies_two_pictures_with_a_text(tmp_path):
    words = bert_words()
    sizes = TOWER | dict(vocab_size=len(words), image_size=32, patch_size=8, id2label=LABELS)
    sizes |= dict(max_position_embeddings=40, num_images=2, modality_type_vocab_size=3)
    model = transformers.ViltForImagesAndTextClassification(transformers.ViltConfig(**sizes))
    pictures = image_processor("Vilt", size={"shortest_edge": 32}, size_divisor=8)
    processor = transformers.ViltProcessor(pictures, words)
    ours = saved(tmp_path, model, processor)
    assert ours.abilities == ("classify", "features")
    inputs = processor([Image.fromarray(x) for x in (PHOTO, OTHER)], STARTS[0], return_tensors="pt")
    for name in ("pixel_values", "pixel_mask"):
        inputs[name] = inputs[name][None]
    with torch.no_grad():
        expected = classified(model(**inputs).logits, LABELS)
    pair = [PHOTO, OTHER]
    assert rows(ours.classify(pair, STARTS[0])) == expected[0]
    found = ours.classify([pair, pair[::-1]], [STARTS[0]] * 2)
    assert rows(found[0]) == expected[0] != rows(found[1])
    with pytest.raises(DataError, match="1 pictures, but each text is about 2 of them"):
        ours.classify(PHOTO, STARTS[0])


def test_visual_bert_classifies_the_regions_of_two_pictures(tmp_path):
    words = bert_words()
    sizes = TOWER | dict(vocab_size=len(words), visual_embedding_dim=10, id2label=LABELS)
    model = transformers.VisualBertForVisualReasoning(transformers.VisualBertConfig(**sizes))
    ours = saved(tmp_path, model, words)
    regions = torch.rand((1, 7, 10), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(**words(STARTS[0], return_tensors="pt"), visual_embeds=regions).logits
    shown = [regions[0, :3].numpy(), regions[0, 3:].numpy()]
    assert rows(ours.classify(shown, STARTS[0])) == classified(logits, LABELS)[0]


def test_visual_bert_orders_answers_to_a_picture(tmp_path):
    words = bert_words()
    sizes = TOWER | dict(vocab_size=len(words), visual_embedding_dim=10)
    model = transformers.VisualBertForMultipleChoice(transformers.VisualBertConfig(**sizes))
    ours = saved(tmp_path, model, words)
    regions = torch.rand((1, 3, 4, 10), generator=torch.Generator().manual_seed(0))
    regions[:] = regions[:, :1]
    given = words(STARTS, padding=True, return_tensors="pt")
    inputs = {name: x[None] for name, x in given.items()}
    with torch.no_grad():
        logits = model(**inputs, visual_embeds=regions).logits[0].tolist()
    ranked = ours.rank_texts(regions[0, 0].numpy(), STARTS)
    assert [(row["index"], row["score"]) for row in ranked] == [
        (i, pytest.approx(logits[i], abs=1e-5)) for i in sorted(range(3), key=lambda i: -logits[i])
    ]
