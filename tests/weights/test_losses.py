"""Objectives on what folders hold: the reference's own loss, and its gradients for every parameter.

The other parity tests compare outputs, and gradients of random sums of outputs; here it is what
training minimises.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import transformers

from tests.weights import parity
from tests.weights.families import (
    test_align,
    test_bert,
    test_blip,
    test_blip2,
    test_dual,
    test_gemma,
    test_gemma3,
    test_idefics,
    test_idefics3,
    test_lxmert,
    test_paligemma,
    test_qwen2_vl,
    test_resnet,
    test_siglip2,
    test_t5,
    test_vilt,
    test_visual_bert,
    test_vit,
)
from tests.weights.objectives import (
    UNSEEN,
    chosen,
    contrast,
    in_blocks,
    next_words,
    voted,
    words_and_match,
    written,
)
from vlm_jax.losses import contrastive_sigmoid, contrastive_softmax
from vlm_jax.weights.families import align, siglip, siglip2

WORDS = dict(vocab_size=60, bos_token_id=0, eos_token_id=1, pad_token_id=2)
TEXT = dict(hidden_size=16, num_attention_heads=4, intermediate_size=24, num_hidden_layers=2)
TOWER = TEXT | dict(image_size=32, patch_size=8)
IDS = parity.tokens(3, 7, 60)
IDS[:, -1] = WORDS["eos_token_id"]
PHOTOS = parity.pixels(3, 3, 32, 32)
Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """make: a reference model and its inputs, labels among them. ours: (apply, inputs, forward) ->
    f32[B], as `parity.check_loss` has it. theirs: how the reference is asked for its loss.
    """

    make: Callable[[], tuple[Any, Inputs]]
    ours: Callable[..., Any]
    theirs: Callable[..., Any] = lambda model, given: model(**given).loss


def language(kind, config, ids=IDS):
    """A language model that reads all words, and learns all but the first."""
    return lambda: (parity.randomise(kind(config())), dict(input_ids=ids, labels=ids))


def pairs(kind, config):
    return lambda: (parity.randomise(kind(config())), dict(input_ids=IDS, pixel_values=PHOTOS))


def with_loss(model, given):
    """How the reference is asked for its contrastive loss."""
    return model(**given, return_loss=True).loss


def gemma(case):
    kind, config, fields = test_gemma.CASES[case]
    return language(kind, lambda: config(**test_gemma.SMALL, **fields))


def bert(kind, **labels):
    def make():
        hidden = masked(parity.tokens(2, 7, 40, seed=2), regions=0)
        given = test_bert.inputs(40) | dict(labels=hidden, **labels)
        return test_bert.build(kind, "wide heads"), given

    return make


def classes(kind, config, fields):
    """A backbone with five classes, and two pictures of them."""

    def make():
        model = parity.randomise(kind(config(**fields, num_labels=5)))
        pixels = parity.pixels(2, 3, *[fields.get("image_size", 40)] * 2)
        return model, dict(pixel_values=pixels, labels=np.array([3, 1]))

    return make


def lit():
    """A picture tower of ViT and a text tower of BERT."""
    config = test_dual.config_of("vit", "ReLU, three segments")
    model = parity.randomise(transformers.VisionTextDualEncoderModel(config))
    return model, dict(input_ids=IDS % 39 + 1, pixel_values=parity.pixels(3, 3, 24, 24))


def last(ids: np.ndarray, count: int) -> np.ndarray:
    """Labels of the last words alone: as many in every row, so that rows and words weigh alike."""
    labels = np.full(ids.shape, UNSEEN)
    labels[:, -count:] = ids[:, -count:]
    return labels


def answers(module, case, count=3):
    """A model of a family's own tests, which learns the end of each text."""

    def make():
        model = module.build(case)
        inputs = module.texts(model)
        inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
        return model, inputs | dict(labels=last(inputs["input_ids"], count))

    return make


def llava():
    text = transformers.LlamaConfig(**TEXT, **WORDS, num_key_value_heads=2)
    vision = transformers.CLIPVisionConfig(**TOWER)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=59)
    ids = np.concatenate([np.full((3, 16), 59), np.minimum(IDS, 58)], axis=1)
    labels = np.where(ids == 59, UNSEEN, ids)
    model = parity.randomise(transformers.LlavaForConditionalGeneration(config))
    return model, dict(input_ids=ids, pixel_values=PHOTOS, labels=labels)


def git():
    fields = dict(vocab_size=60, max_position_embeddings=9)
    config = transformers.GitConfig(**TEXT | fields, vision_config=TOWER)
    model = parity.randomise(transformers.GitForCausalLM(config))
    return model, dict(input_ids=IDS, pixel_values=PHOTOS, labels=IDS)


def t5(case):
    def make():
        model, inputs = test_t5.network(case), test_t5.inputs_of()
        labels = parity.tokens(2, 5, 50, seed=2)
        del inputs["decoder_attention_mask"]
        return model, inputs | dict(labels=labels, decoder_input_ids=shifted(labels))

    return make


def shifted(labels: np.ndarray) -> np.ndarray:
    """What a decoder reads to write the labels: token 0, then all but the last."""
    return np.pad(labels[:, :-1], ((0, 0), (1, 0)))


def blip_caption():
    model = test_blip.build(transformers.BlipForConditionalGeneration, "one width")
    model.text_decoder.label_smoothing = 0.1
    given = test_blip.inputs("one width")
    del given["attention_mask"]
    return model, given | dict(labels=given["input_ids"])


def blip_answer():
    """The question is padded; the answer is not."""
    model = test_blip.build(transformers.BlipForQuestionAnswering, "one width")
    labels = parity.tokens(2, 4, 38, seed=1)
    given = test_blip.inputs("one width") | dict(decoder_input_ids=labels)
    return model, given | dict(labels=labels)


def blip2(case):
    def make():
        vision, _, text, queries = test_blip2.CASES[case]
        size = test_blip2.VISIONS[vision]["image_size"]
        ids = np.concatenate([np.full((2, queries), 49), parity.tokens(2, 6, 49)], axis=1)
        inputs = dict(pixel_values=parity.pixels(2, 3, size, size), input_ids=ids)
        inputs["attention_mask"] = np.ones_like(ids)
        if text["model_type"] == "opt":
            return test_blip2.network(case), inputs | dict(labels=last(ids, 5))
        labels = parity.tokens(2, 4, 49, seed=1)
        decoded = dict(decoder_input_ids=shifted(labels), labels=labels)
        return test_blip2.network(case), inputs | decoded

    return make


def vilt():
    given = test_vilt.inputs("square")
    votes = np.random.default_rng(3).uniform(size=(2, 5)).astype(np.float32)
    config = transformers.ViltConfig(**test_vilt.CONFIGS["square"])
    model = parity.randomise(transformers.ViltForQuestionAnswering(config))
    return model, given | dict(labels=votes)


def lxmert(kind, **labels):
    def make():
        fields = dict(labels)
        if "matched_label" in fields:
            fields["labels"] = parity.tokens(2, 7, 40, seed=2)
        return test_lxmert.build(kind, "odd depths"), test_lxmert.inputs("odd depths") | fields

    return make


def visual_bert(kind, labels, **more):
    def make():
        config = transformers.VisualBertConfig(**test_visual_bert.CONFIGS["wide heads"])
        given = test_visual_bert.inputs("wide heads")
        return parity.randomise(kind(config)), given | dict(labels=labels, **more)

    return make


def masked(words: np.ndarray, regions: int) -> np.ndarray:
    """Labels of some words, as many in every row, and of no region."""
    hidden = np.where(np.arange(words.shape[1]) % 2 == 0, words, UNSEEN)
    return np.pad(hidden, ((0, 0), (0, regions)), constant_values=UNSEEN)


MATCHED = np.array([0, 1])
SMALL_CLIP = dict(text_config=TEXT | WORDS, vision_config=TOWER, projection_dim=8)
SMALL_SIGLIP = dict(text_config=TEXT | WORDS | dict(max_position_embeddings=9), vision_config=TOWER)
GROUPED = TEXT | WORDS | dict(num_key_value_heads=2)
CASES = {
    "llama": Case(
        language(transformers.LlamaForCausalLM, lambda: transformers.LlamaConfig(**GROUPED)),
        next_words,
    ),
    "gpt2": Case(
        language(
            transformers.GPT2LMHeadModel,
            lambda: transformers.GPT2Config(
                **WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=16
            ),
        ),
        next_words,
    ),
    "opt": Case(
        language(
            transformers.OPTForCausalLM,
            lambda: transformers.OPTConfig(
                **WORDS | TEXT, ffn_dim=24, max_position_embeddings=12, activation_function="gelu"
            ),
        ),
        next_words,
    ),
    "gemma2, in blocks": Case(
        language(
            transformers.Gemma2ForCausalLM,
            lambda: transformers.Gemma2Config(
                **GROUPED, head_dim=6, sliding_window=3, final_logit_softcapping=3.0
            ),
        ),
        in_blocks,
    ),
    "qwen2": Case(
        language(
            transformers.Qwen2ForCausalLM,
            lambda: transformers.Qwen2Config(**GROUPED | dict(num_key_value_heads=1)),
        ),
        next_words,
    ),
    "t5": Case(t5("tied, plain"), written),
    "flan-t5, own output layer": Case(t5("own output layer"), written),
    "gemma": Case(gemma("1: biases, untied"), next_words),
    "gemma3, text": Case(gemma("3: a list of layers, a cap"), next_words),
    "bert": Case(bert(transformers.BertForMaskedLM), written),
    "bert pre-training": Case(
        bert(transformers.BertForPreTraining, next_sentence_label=np.array([0, 1])),
        words_and_match,
    ),
    "vit": Case(
        classes(
            transformers.ViTForImageClassification,
            transformers.ViTConfig,
            test_vit.CONFIGS["no biases, wide heads"],
        ),
        chosen,
    ),
    "resnet": Case(
        classes(
            transformers.ResNetForImageClassification,
            transformers.ResNetConfig,
            test_resnet.CONFIGS["basic, GELU, early stride"],
        ),
        chosen,
    ),
    "align": Case(
        lambda: (test_align.made("usual"), dict(input_ids=IDS % 39 + 1, pixel_values=PHOTOS)),
        contrast(partial(contrastive_softmax, label_smoothing=align.SMOOTHING)),
        with_loss,
    ),
    "lit": Case(lit, contrast(contrastive_softmax), with_loss),
    "clip": Case(
        pairs(transformers.CLIPModel, lambda: transformers.CLIPConfig(**SMALL_CLIP)),
        contrast(contrastive_softmax),
        with_loss,
    ),
    "siglip": Case(
        pairs(transformers.SiglipModel, lambda: transformers.SiglipConfig(**SMALL_SIGLIP)),
        contrast(contrastive_sigmoid, extra=("bias",)),
        with_loss,
    ),
    "siglip 2, naflex": Case(
        lambda: test_siglip2.made("ReLU, deeper"),
        contrast(contrastive_sigmoid, ("bias",), siglip2.see, siglip.seen_text),
        with_loss,
    ),
    "llava": Case(llava, next_words),
    "git": Case(git, next_words),
    "blip captions": Case(blip_caption, lambda *given: next_words(*given, smoothing=0.1)),
    "blip answers": Case(blip_answer, next_words),
    "blip-2 opt": Case(blip2("OPT"), next_words),
    "blip-2 t5": Case(blip2("T5, tied"), written),
    "paligemma": Case(answers(test_paligemma, "1", 2), next_words),
    "paligemma 2": Case(
        answers(test_paligemma, "2, global layers first, no caps, untied", 2), next_words
    ),
    "gemma3": Case(answers(test_gemma3, "a window shorter than an image"), next_words),
    "idefics": Case(answers(test_idefics, "every layer, vector gates, tied"), next_words),
    "smolvlm": Case(answers(test_idefics3, "smolvlm, blocks of sixteen"), next_words),
    "idefics3": Case(answers(test_idefics3, "idefics3"), next_words),
    "qwen2_vl": Case(answers(test_qwen2_vl, "usual"), next_words),
    "vilt answers": Case(vilt, voted),
    "lxmert answers": Case(
        lxmert(transformers.LxmertForQuestionAnswering, labels=np.array([4, 1])), chosen
    ),
    "lxmert pre-training": Case(
        lxmert(transformers.LxmertForPreTraining, matched_label=MATCHED), words_and_match
    ),
    "visual_bert answers": Case(
        visual_bert(
            transformers.VisualBertForQuestionAnswering, np.eye(7, dtype=np.float32)[[6, 2]]
        ),
        chosen,
    ),
    "visual_bert pre-training": Case(
        visual_bert(
            transformers.VisualBertForPreTraining,
            masked(parity.tokens(2, 7, 40, seed=2), regions=4),
            sentence_image_labels=MATCHED,
        ),
        words_and_match,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradients_are_the_reference_s(name, tmp_path):
    case = CASES[name]
    model, inputs = case.make()
    parity.check_loss(model, inputs, tmp_path, case.ours, case.theirs)
