"""open_clip's folders of CoCa."""

import jax
import jax.numpy as jnp
import numpy as np
import open_clip as clip
import pytest
import transformers

from tests.weights import objectives, oracles, parity
from vlm_jax.decoders import coca as decoder
from vlm_jax.losses import contrastive_softmax, masked_cross_entropy
from vlm_jax.weights import pretrained
from vlm_jax.weights.families import coca, open_clip
from vlm_jax.weights.folder import Arrays, WeightsError

TEXT = dict(context_length=9, vocab_size=50, embed_cls=True, output_tokens=True)
CASES = {
    "pooled": dict(
        embed_dim=16,
        vision_cfg=dict(width=24, layers=2, head_width=8, patch_size=8, image_size=32)
        | dict(attentional_pool=True, attn_pooler_queries=5, attn_pooler_heads=4)
        | dict(output_tokens=True),
        text_cfg=TEXT | dict(width=16, layers=2, heads=2),
        multimodal_cfg=dict(width=16, layers=3, heads=4, context_length=9, vocab_size=50),
        custom_text=True,
    ),
    "pooled at equal width": dict(
        embed_dim=12,
        quick_gelu=True,
        vision_cfg=dict(width=12, layers=1, head_width=6, patch_size=16, image_size=32)
        | dict(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2)
        | dict(output_tokens=True, pool_type="avg"),
        text_cfg=TEXT | dict(width=12, layers=1, heads=3, mlp_ratio=1.5),
        multimodal_cfg=dict(width=12, layers=1, heads=1, context_length=9, vocab_size=50),
        custom_text=True,
    ),
    "no pooler": dict(
        embed_dim=10,
        vision_cfg=dict(width=16, layers=1, head_width=4, patch_size=8, image_size=16)
        | dict(output_tokens=True),
        text_cfg=TEXT | dict(width=16, layers=2, heads=2),
        multimodal_cfg=dict(width=16, layers=1, heads=2, context_length=9, vocab_size=50),
        custom_text=True,
    ),
}


def build(model_cfg):
    """open_clip's class for a model_cfg."""
    return clip.CoCa(**{name: x for name, x in model_cfg.items() if name != "custom_text"})


def outputs(model, given):
    """The reference's outputs by our names."""
    found = model(given["image"], given["text"])
    images, texts = found["image_features"], found["text_features"]
    logits = found["logit_scale"] * images @ texts.T
    parts = dict(logits=found["logits"], image_embeds=images, text_embeds=texts)
    return parts | dict(logits_per_image=logits, logits_per_text=logits.T)


def inputs_of(model_cfg):
    """Pictures, and texts of which one is padded, and one has the id of padding within it."""
    size = model_cfg["vision_cfg"]["image_size"]
    words = parity.tokens(3, 9, 50)
    words[1, 5:] = words[2, 3] = 0
    return dict(image=parity.pixels(3, 3, size, size), text=words)


@pytest.mark.parametrize("case", CASES)
def test_coca(case, tmp_path):
    model_cfg = CASES[case]
    model = parity.randomise(build(model_cfg))
    names = ("logits", "image_embeds", "text_embeds", "logits_per_image", "logits_per_text")
    config, inputs = dict(model_cfg=model_cfg), inputs_of(model_cfg)
    loaded = oracles.check(model, config, inputs, tmp_path, outputs, names, files=open_clip.FILES)
    if case == "pooled":
        compare_cached(loaded, inputs)
    whole = inputs | dict(text=parity.tokens(3, 9, 50))
    parity.compare_loss(model, loaded, whole, both_losses, open_clips_losses)


def both_losses(apply, inputs, forward):
    """Contrast, and twice what the next words cost (arXiv:2205.01917, section 4.1)."""
    words = inputs["text"][:, 1:]
    logits = forward(apply, inputs)["logits"]
    match = objectives.contrast_of(open_clip.named, contrastive_softmax)(apply, inputs, forward)
    return match + 2 * masked_cross_entropy(logits, words, jnp.ones(words.shape, bool))


def open_clips_losses(model, given):
    return sum(clip.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)(**model(**given)))


def compare_cached(loaded, inputs):
    """Word by word, with a cache, the logits are those of the whole text."""
    apply = lambda *args, **given: loaded.model.apply(loaded.variables, *args, **given)
    visual = apply(jnp.asarray(inputs["image"]).transpose(0, 2, 3, 1), method="encode_image")
    words = jnp.asarray(np.maximum(inputs["text"], 1))
    whole, _ = apply(words, visual, method="decode")
    cache = apply(visual, 9, method="init_cache")
    step = jax.jit(lambda word, memory, cache: apply(word, memory, cache, method="decode"))
    for place in range(9):
        seen = visual if place == 0 else None
        logits, cache = step(words[:, place : place + 1], seen, cache)
        np.testing.assert_allclose(logits[:, 0], whole[:, place], atol=1e-4)


def test_the_paper_has_one_mlp_per_layer():
    base = CASES["pooled"]
    paper = base | dict(multimodal_cfg=base["multimodal_cfg"] | dict(decoder_parts="paper"))
    names, usual = (
        set(parity.published(dict(model_type="open_clip_coca", model_cfg=cfg)))
        for cfg in (paper, base)
    )
    assert all(name.startswith("text_decoder.resblocks.") for name in usual - names)
    assert {name.split(".")[3] for name in usual - names} == {"mlp", "ln_2"}
    assert coca.model(dict(model_cfg=paper))["decoder"]["parts"] == decoder.PAPER


@pytest.mark.parametrize("case", ["pooled", "no pooler"])
def test_open_clips_own_flags(case, monkeypatch):
    """open_clip asks for names that newer releases of transformers lack, of its beams alone."""
    module = clip.coca_model
    names = ("LogitsProcessorList", "TopPLogitsWarper", "TopKLogitsWarper", "MaxLengthCriteria")
    names += ("RepetitionPenaltyLogitsProcessor", "MinLengthLogitsProcessor")
    for name in (*names, "StoppingCriteriaList"):
        monkeypatch.setattr(module, name, getattr(transformers, name), raising=False)
    kinds = dict(top_k=transformers.TopKLogitsWarper, top_p=transformers.TopPLogitsWarper)
    monkeypatch.setattr(module, "GENERATION_TYPES", kinds | dict(beam_search=""), raising=False)
    monkeypatch.setattr(module, "_has_transformers", True)
    base = CASES[case]
    model = parity.randomise(build(base))
    config = dict(model_type="open_clip_coca", model_cfg=base)
    loaded = pretrained.from_tensors(config, Arrays(oracles.state_of(model)))
    size = base["vision_cfg"]["image_size"]
    given = dict(image=parity.pixels(3, 3, size, size))
    flags = dict(sot_token_id=1, eos_token_id=3, seq_len=8, min_seq_len=3, pad_token_id=0)
    flags |= dict(generation_type="top_k", top_k=1, fixed_output_length=True)
    for more in ({}, dict(repetition_penalty=1.7), dict(min_seq_len=6)):
        asked = flags | more
        expected = model.generate(**parity.tensors_of(given), **asked).numpy()
        found = np.asarray(loaded.call("generate", given, asked)["tokens"])
        np.testing.assert_array_equal(found, expected)
    wrong = [dict(generation_type="top_p"), dict(top_k=5), dict(generation_type="beam_search")]
    wrong += [dict(max_seq_len=4), dict(min_seq_len=8)]
    for more in wrong:
        (name, value), *_ = more.items()
        with pytest.raises(ValueError, match=f"{name}={value!r}"):
            loaded.call("generate", given, flags | more)


def test_generation(tmp_path):
    base = CASES["pooled"]
    model = parity.randomise(build(base))
    config = dict(model_type="open_clip_coca", model_cfg=base)
    loaded = pretrained.from_tensors(config, Arrays(oracles.state_of(model)))
    image = parity.pixels(2, 3, 32, 32)
    flags = dict(max_new_tokens=6, bos_token_id=1, eos_token_id=49, pad_token_id=0)
    found = np.asarray(loaded.call("generate", dict(image=image), flags)["tokens"])
    words = np.full((2, 1), 1)
    for _ in range(found.shape[1] - 1):
        given = parity.tensors_of(dict(image=image, text=words))
        next_words = model(**given, output_labels=False)["logits"][:, -1].argmax(-1).numpy()
        ended = (words == 49).any(axis=1)
        words = np.concatenate([words, np.where(ended, 0, next_words)[:, None]], axis=1)
    np.testing.assert_array_equal(found, words)


COUNTS = {
    "coca_ViT-B-32": 253_560_065,
    "coca_ViT-L-14": 638_450_177,
    "coca_base": 440_337_409,
}


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config = dict(model_type="open_clip_coca", model_cfg=clip.get_model_config(label))
    assert pretrained.count(config) == COUNTS[label]


@pytest.mark.parametrize("label", ["coca_ViT-B-32", "coca_base"])
def test_published_names_and_shapes(label):
    model_cfg = clip.get_model_config(label)
    theirs = oracles.shapes_of(lambda: build(model_cfg))
    assert parity.published(dict(model_type="open_clip_coca", model_cfg=model_cfg)) == theirs


def test_values_that_are_not_supported():
    cfg = CASES["pooled"]
    for section, given, message in (
        ("text_cfg", dict(embed_cls=False), "embed_cls=False"),
        ("text_cfg", dict(pad_id=3), "pad_id=3"),
        ("text_cfg", dict(norm_kwargs=dict(eps=1e-3)), "norm_kwargs={'eps': 0.001}"),
        ("text_cfg", dict(act_kwargs=dict(approximate="tanh")), "act_kwargs={'approximate'"),
        ("vision_cfg", dict(norm_kwargs=dict(eps=1e-3)), "norm_kwargs={'eps': 0.001}"),
        ("vision_cfg", dict(attentional_pool="parallel"), "attentional_pool='parallel'"),
        ("multimodal_cfg", dict(width=20), "multimodal_width=20"),
    ):
        with pytest.raises(WeightsError, match=message):
            coca.model(dict(model_cfg=cfg | {section: cfg[section] | given}))
