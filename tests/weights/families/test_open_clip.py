"""open_clip's folders of CLIP: ViT and ModifiedResNet."""

import json
from functools import partial

import open_clip as clip
import pytest

from tests.weights import objectives, oracles, parity
from vlm_jax.losses import contrastive_sigmoid, contrastive_softmax
from vlm_jax.tokenizers.published import read_tokenizer
from vlm_jax.weights import pretrained
from vlm_jax.weights.families import open_clip
from vlm_jax.weights.folder import WeightsError

TEXT = dict(context_length=9, vocab_size=50)
CASES = {
    "ViT": dict(
        embed_dim=12,
        quick_gelu=True,
        vision_cfg=dict(width=16, layers=2, head_width=4, patch_size=8, image_size=32),
        text_cfg=TEXT | dict(width=16, layers=2, heads=2),
    ),
    "ViT, other options, logit bias": dict(
        embed_dim=10,
        init_logit_bias=-1.0,
        nonscalar_logit_scale=True,
        custom_text=True,
        vision_cfg=dict(width=24, layers=1, head_width=8, mlp_ratio=2.3, patch_size=16)
        | dict(image_size=32, no_ln_pre=True, pool_type="avg", act_kwargs=dict(approximate="tanh")),
        text_cfg=TEXT
        | dict(width=10, layers=3, heads=5, mlp_ratio=1.5, pool_type="last")
        | dict(proj_type="none", no_causal_mask=True, norm_kwargs=dict(eps=1e-3)),
    ),
    "ViT, mean before the norm": dict(
        embed_dim=8,
        vision_cfg=dict(width=12, layers=1, head_width=4, patch_size=16, image_size=32)
        | dict(pool_type="avg", final_ln_after_pool=True),
        text_cfg=TEXT | dict(width=8, layers=1, heads=2, pool_type="first", block_type="default"),
    ),
    "ModifiedResNet": dict(
        embed_dim=12,
        vision_cfg=dict(width=8, layers=[1, 2, 1, 1], head_width=32, image_size=64),
        text_cfg=TEXT | dict(width=16, layers=2, heads=4, pool_type="eos", eos_id=49),
    ),
    "ModifiedResNet, wide heads, logit bias": dict(
        embed_dim=7,
        init_logit_bias=-2.0,
        quick_gelu=True,
        custom_text=True,
        vision_cfg=dict(width=6, layers=[2, 1, 3, 1], head_width=96, image_size=96),
        text_cfg=TEXT
        | dict(width=12, layers=1, heads=6, mlp_ratio=1.7, norm_kwargs=dict(eps=1e-3)),
    ),
}


def build(model_cfg):
    """open_clip's class for a model_cfg, as its factory chooses it."""
    fields = dict(model_cfg)
    kind = clip.CustomTextCLIP if fields.pop("custom_text", False) else clip.CLIP
    return kind(**fields, output_dict=True)


def outputs(model, given):
    """The reference's outputs by our names."""
    logits = model.get_logits(given["image"], given["text"])
    features = (model.encode_image(given["image"], normalize=True),)
    features += (model.encode_text(given["text"], normalize=True),)
    names = ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds")
    return dict(zip(names, (*logits, *features), strict=True))


contrast = partial(objectives.contrast_of, open_clip.named)
OBJECTIVES = {
    False: (contrast(contrastive_softmax), clip.ClipLoss()),
    True: (contrast(contrastive_sigmoid, ("bias",)), clip.loss.SigLipLoss()),
}
"""Whether the logits have a bias: what is trained then, ours and open_clip's."""


@pytest.mark.parametrize("case", CASES)
def test_open_clip(case, tmp_path):
    model_cfg = CASES[case]
    model = parity.randomise(build(model_cfg))
    size = model_cfg["vision_cfg"]["image_size"]
    words = parity.tokens(3, 9, 49)
    words[:2, 6] = 49  # the third text has no end
    inputs = dict(image=parity.pixels(3, 3, size, size), text=words)
    names = ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text")
    config = dict(model_cfg=model_cfg, preprocess_cfg={})
    loaded = oracles.check(model, config, inputs, tmp_path, outputs, names, files=open_clip.FILES)
    ours, theirs = OBJECTIVES[model.logit_bias is not None]
    ask = lambda model, given: theirs(**model(**given))
    parity.compare_loss(model, loaded, inputs, ours, ask)


SAID = ["a photo of a cat", "A Photo,  of\ta CAT!!", "don't  stop &amp; go &lt;b&gt;", "x" * 300]
SAID += [
    "naïve café — “quotes” … ½",
    "日本語 テスト 😀👍🏽",
    "1st 1234567 v2.0",
    "",
    " re's we'LL I'M ",
]
SAID += [
    "<|endoftext|> hi",
    "ﬁne ﬂuﬀy ＡＢＣ",
    "a_b-c/d\\e",
    "line\nbreak",
    "cafÃ© itâ€™s mojibake",
]


def test_texts_are_cleaned_and_read_as_open_clip_does(tmp_path):
    """By its own vocabulary, whose two special tokens have other names in published folders."""
    theirs = clip.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): index for token, index in theirs.encoder.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    merges = [" ".join(pair) for pair in theirs.bpe_ranks]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (tmp_path / open_clip.FILES[0]).write_text(json.dumps(dict(model_cfg={})))
    ours = read_tokenizer(tmp_path)
    for text, expected in zip(SAID, theirs(SAID).tolist(), strict=True):
        ids = [*ours.before, *ours.encode(text)[:75], *ours.after]
        assert ids + [0] * (77 - len(ids)) == expected, text
    (tmp_path / "config.json").write_text(json.dumps(dict(model_type="clip")))
    assert read_tokenizer(tmp_path).encode("a &amp; b") != ours.encode("a &amp; b")


COUNTS = {
    "ViT-B-32-quickgelu": 151_277_313,
    "ViT-B-16": 149_620_737,
    "ViT-L-14": 427_616_513,
    "ViT-L-14-336": 427_944_193,
    "RN50": 102_007_137,
    "RN101": 119_688_033,
    "ViT-H-14": 986_109_441,
    "ViT-g-14": 1_366_678_273,
    "ViT-bigG-14": 2_539_567_105,
}


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config = dict(model_type="open_clip", model_cfg=clip.get_model_config(label))
    assert pretrained.count(config) == COUNTS[label]


@pytest.mark.parametrize("label", ["ViT-B-32", "RN50"])
def test_published_names_and_shapes(label):
    model_cfg = clip.get_model_config(label)
    theirs = oracles.shapes_of(lambda: build(model_cfg))
    assert parity.published(dict(model_type="open_clip", model_cfg=model_cfg)) == theirs


def test_values_that_are_not_supported():
    for section, given, message in (
        ("vision_cfg", dict(timm_model_name="vit_small"), "timm_model_name='vit_small'"),
        ("text_cfg", dict(hf_model_name="roberta-base"), "hf_model_name='roberta-base'"),
        ("vision_cfg", dict(ls_init_value=0.1), "ls_init_value=0.1"),
    ):
        with pytest.raises(WeightsError, match=message):
            open_clip.model(dict(model_cfg={"embed_dim": 8, section: given}))
    with pytest.raises(WeightsError, match="lacks the section model_cfg"):
        open_clip.model({})
