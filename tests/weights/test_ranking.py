"""Published folders with a matching head rank as the reference's two calls say."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import vlm_jax
from tests.weights import parity
from tests.weights.test_predict import PHOTO
from tests.weights.writers import TOWER, blip, image_processor, make_tokenizer
from vlm_jax.data.schema import Example
from vlm_jax.evaluate import evaluate

TEXTS = ["a roof", "what colour is it", "Describe this image.", "red"]
PHOTOS = [PHOTO, 255 - PHOTO, PHOTO[:, ::-1, ::-1].copy(), PHOTO[20:40, 10:50].copy()]


class Known(list):
    name = "photos"


def blip2_retrieval():
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    roles = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")
    words = make_tokenizer(names, before=["[CLS]"], after=["[SEP]"], **roles)
    qformer = TOWER | dict(vocab_size=len(words), max_position_embeddings=40)
    opt = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, ffn_dim=8, vocab_size=9)
    config = transformers.Blip2Config(
        vision_config=TOWER | dict(image_size=32, patch_size=16),
        qformer_config=qformer | dict(use_qformer_text_input=True),
        text_config=transformers.OPTConfig(**opt),
        num_query_tokens=3,
        image_token_index=None,
    )
    processor = transformers.BlipProcessor(
        image_processor("Blip", size=dict(height=32, width=32)), words
    )
    return transformers.Blip2ForImageTextRetrieval(config), processor


def scores_of(model, processor, pixels, text):
    """(cosine, logit of the match) of a picture and a text by the reference, [ENC] first in BLIP's
    match, as its authors have it.
    """
    words = processor.tokenizer(text, return_tensors="pt")
    given = dict(pixel_values=pixels, attention_mask=words["attention_mask"])
    ids = words["input_ids"]
    with torch.no_grad():
        if isinstance(model, transformers.BlipForImageTextRetrieval):
            cosine = model(**given, input_ids=ids, use_itm_head=False).itm_score
            first = torch.full_like(ids[:, :1], model.config.text_config.bos_token_id + 1)
            together = torch.cat([first, ids[:, 1:]], dim=1)
            return cosine.item(), model(**given, input_ids=together).itm_score[0, 1].item()
        cosine = model(**given, input_ids=ids).logits_per_image
        match = model(**given, input_ids=ids, use_image_text_matching_head=True).logits_per_image
        return cosine.item(), match[0, 1].item()


WRITERS = {
    "blip": lambda: blip(transformers.BlipForImageTextRetrieval),
    "blip-2": blip2_retrieval,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_ranks_by_its_contrast_and_then_by_its_match(name, tmp_path):
    model, processor = WRITERS[name]()
    parity.randomise(model)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ours = vlm_jax.load_pretrained(tmp_path)
    pictures = [
        processor.image_processor(Image.fromarray(photo), return_tensors="pt")["pixel_values"]
        for photo in PHOTOS
    ]
    cosine, match = np.array(
        [[scores_of(model, processor, pixels, text) for text in TEXTS] for pixels in pictures]
    ).transpose(2, 0, 1)
    setup = ours.run.experiment
    task = setup.tasks["retrieval"]
    few = dataclasses.replace(task, match=dict(task.match) | dict(rerank=2))
    ours.run.experiment = dataclasses.replace(setup, tasks={"retrieval": few})

    def check(rows, cosine, match):
        first = np.argsort(-cosine)
        best = sorted(first[:2], key=lambda i: -(match + cosine)[i])
        assert [row["index"] for row in rows] == [*best, *first[2:]]
        np.testing.assert_allclose(
            [row["score"] for row in rows], cosine[[*best, *first[2:]]], atol=2e-5
        )
        found = [row["match"] for row in rows if "match" in row]
        np.testing.assert_allclose(found, (match + cosine)[best], atol=5e-5)

    check(ours.rank(TEXTS[1], PHOTOS), cosine[:, 1], match[:, 1])
    check(ours.rank_texts(PHOTOS[2], TEXTS), cosine[2], match[2])
    examples = [
        Example(id=str(i), image=PHOTOS[i], captions=[TEXTS[i]], questions=[]) for i in range(4)
    ]
    found = evaluate(ours.run, "val", {"task": "retrieval"}, Known(examples), None)
    for way, x, y in (("image_to_text", cosine, match), ("text_to_image", cosine.T, match.T)):
        assert found[f"val/{way}/R@1"] == np.mean(np.argmax(x, axis=1) == np.arange(4))
        kept = np.argsort(-x, axis=1)[:, :2]
        best = [row[np.argmax((x + y)[i][row])] for i, row in enumerate(kept)]
        assert found[f"val/{way}/reranked/R@1"] == np.mean(best == np.arange(4))


def test_vilt_ranks_by_its_match_alone(tmp_path):
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    roles = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")
    words = make_tokenizer(names, before=["[CLS]"], after=["[SEP]"], **roles)
    sizes = TOWER | dict(vocab_size=len(words), image_size=32, patch_size=8)
    config = transformers.ViltConfig(**sizes, max_position_embeddings=40)
    pictures = image_processor("Vilt", size={"shortest_edge": 32}, size_divisor=8)
    processor = transformers.ViltProcessor(pictures, words)
    model = parity.randomise(transformers.ViltForImageAndTextRetrieval(config))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ours = vlm_jax.load_pretrained(tmp_path)
    logits = np.zeros((len(PHOTOS), len(TEXTS)), np.float32)
    for i, photo in enumerate(PHOTOS):
        for j, text in enumerate(TEXTS):
            given = processor(Image.fromarray(photo), text, return_tensors="pt")
            with torch.no_grad():
                logits[i, j] = model(**given).logits.item()

    def check(rows, expected):
        order = np.argsort(-expected)
        assert [row["index"] for row in rows] == order.tolist()
        np.testing.assert_allclose([row["score"] for row in rows], expected[order], atol=1e-5)
        assert not any("match" in row for row in rows)

    check(ours.rank(TEXTS[1], PHOTOS), logits[:, 1])
    check(ours.rank_texts(PHOTOS[2], TEXTS), logits[2])
    assert ours.abilities == ("rank", "rank_texts", "features")
    examples = [
        Example(id=str(i), image=PHOTOS[i], captions=[TEXTS[i]], questions=[]) for i in range(4)
    ]
    found = evaluate(ours.run, "val", {"task": "retrieval"}, Known(examples), None)
    for way, table in (("image_to_text", logits), ("text_to_image", logits.T)):
        ranks = 1 + (table > np.diag(table)[:, None]).sum(axis=1)
        assert found[f"val/{way}/R@1"] == np.mean(ranks == 1)
        assert found[f"val/{way}/mean_rank"] == np.mean(ranks)
    assert not any("reranked" in name for name in found) and found["val/n_texts"] == 4
