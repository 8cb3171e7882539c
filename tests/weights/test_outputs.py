"""Every output of every family by its name, against the attribute of the reference that has it.

`python -m vlm_jax.weights.check` compares them, so its comparison does it here, too: it must accept
what the reference returned, and refuse it after a small change.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file

from tests.weights import oracles, parity, test_calls
from tests.weights.families import (
    test_big_vision,
    test_blip,
    test_blip2,
    test_clip,
    test_coca,
    test_efficientnet_lite,
    test_gemma3,
    test_idefics,
    test_idefics3,
    test_lxmert,
    test_open_clip,
    test_paligemma,
    test_qwen2_vl,
    test_t5,
    test_torchvision,
    test_vilt,
    test_visual_bert,
)
from vlm_jax.weights import check, pretrained
from vlm_jax.weights.families import open_clip
from vlm_jax.weights.pretrained import Pretrained, read_folder

ATOL = 1e-5
Ask = Callable[[Any, dict[str, torch.Tensor]], dict[str, torch.Tensor]]
"""(reference, inputs) -> outputs by our names."""


@dataclasses.dataclass(frozen=True)
class Once:
    """A network whose call is made once. Everything else is that of the network."""

    network: Pretrained
    found: Any

    def call(self, name, inputs, flags):
        return self.found

    def __getattr__(self, name):
        return getattr(self.network, name)


def agree(loaded, inputs, expected, call="forward", flags=None):
    """The check accepts the reference's outputs, and none that was changed. expected: NAME:KIND is
    another array that NAME may stand for.
    """
    flags = flags or {}
    once = Once(loaded, loaded.call(call, inputs, flags))

    def report(outs):
        flag = {name: np.asarray(value) for name, value in flags.items()}
        entry = {"in": inputs, "flag": flag, "out": outs}
        return check.compare(once, {call: entry}, ATOL)

    usual = {name: x for name, x in expected.items() if ":" not in name}
    others = {name.split(":")[0]: x for name, x in expected.items() if ":" in name}
    for outs in (usual, others) if others else (usual,):
        for name, entry in report(outs).items():
            assert entry["ok"] and entry["scale"] > 0.05, (name, entry)
        for name, entry in report({n: x + 1e-3 * np.abs(x).max() for n, x in outs.items()}).items():
            assert not entry["ok"], (name, entry)


def compare(model, inputs, folder, ask, call="forward", flags=None):
    """The same for a reference that saves a folder."""
    model.save_pretrained(folder)
    with torch.no_grad():
        found = ask(model, parity.tensors_of(inputs))
    expected = {name: x.numpy() for name, x in found.items()}
    agree(read_folder(folder), inputs, expected, call, flags)


def asks(hidden: str = "hidden_states", **names: str) -> Ask:
    """logits, the last of the attribute `hidden` as tokens, and attributes by our names."""

    def ask(model, given):
        found = model(**given, output_hidden_states=True)
        tokens = {"tokens": getattr(found, hidden)[-1]} if hidden else {}
        own = {ours: attribute(found, theirs) for ours, theirs in names.items()}
        return {"logits": found.logits} | tokens | own

    return ask


def attribute(found: Any, path: str) -> torch.Tensor:
    """found.a.b of "a.b"; tensors of a list are one below the other."""
    for name in path.split("."):
        found = getattr(found, name)
    return torch.cat(list(found)) if isinstance(found, (list, tuple)) else found


# --- models that write ----------------------------------------------------------------------------

LANGUAGE = [name for name in test_calls.CASES if name.endswith("ForCausalLM") or "GPT2" in name]


@pytest.mark.parametrize("name", [name for name in LANGUAGE if "Git" not in name])
def test_language_models(name, tmp_path):
    model = test_calls.build(name, test_calls.CASES[name])
    compare(model, test_calls.inputs_of(name), tmp_path, asks())


def test_gemma_1(tmp_path):
    fields = test_calls.LLAMA | dict(head_dim=6)
    model = test_calls.build("GemmaForCausalLM", fields)
    compare(model, test_calls.inputs_of("GemmaForCausalLM"), tmp_path, asks())


def test_gemma_3_without_images(tmp_path):
    fields = test_calls.LLAMA | dict(head_dim=6) | test_calls.WINDOWED
    model = test_calls.build("Gemma3ForCausalLM", fields)
    compare(model, test_calls.inputs_of("Gemma3ForCausalLM"), tmp_path, asks())


def test_t5_has_the_encoders_states(tmp_path):
    ask = asks("decoder_hidden_states", text_tokens="encoder_last_hidden_state")
    compare(test_t5.network("unscaled, gated"), test_t5.inputs_of(), tmp_path, ask)


def test_git_has_its_towers_states_or_the_projected_ones(tmp_path):
    model = test_calls.build("GitForCausalLM", test_calls.GIT)

    def ask(model, given):
        image = model.git.image_encoder(given["pixel_values"]).last_hidden_state
        images = {"image_tokens": model.git.visual_projection(image), "image_tokens:tower": image}
        return asks()(model, given) | images

    compare(model, test_calls.inputs_of("GitForCausalLM"), tmp_path, ask)


def test_blip_captions(tmp_path):
    model = test_blip.build(transformers.BlipForConditionalGeneration, "two widths")
    names = dict(image_tokens="image_embeds", image_embeds="image_embeds")
    states = asks("", **names, tokens="last_hidden_state")

    def ask(model, given):
        pooled = model.vision_model(given["pixel_values"]).pooler_output
        return states(model, given) | dict(pooled=pooled)

    compare(model, test_blip.inputs("two widths"), tmp_path, ask)


def test_blip_answers(tmp_path):
    model = test_blip.build(transformers.BlipForQuestionAnswering, "one width")
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    answers = dict(decoder_input_ids=parity.tokens(2, 4, 38, seed=1), decoder_attention_mask=mask)

    def ask(model, given):
        found = model(**given)
        read = model.text_encoder(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            encoder_hidden_states=found.image_embeds,
        ).last_hidden_state
        written = model.text_decoder.bert(
            input_ids=given["decoder_input_ids"],
            attention_mask=given["decoder_attention_mask"],
            encoder_hidden_states=read,
            encoder_attention_mask=given["attention_mask"],
            is_decoder=True,
        ).last_hidden_state
        own = dict(image_embeds=found.image_embeds, image_tokens=found.last_hidden_state)
        return own | dict(text_tokens=read, tokens=written)

    compare(model, test_blip.inputs("one width") | answers, tmp_path, ask)


@pytest.mark.parametrize("case", ["OPT", "T5, tied"])
def test_blip2_states(case, tmp_path):
    vision, _, text, queries = test_blip2.CASES[case]
    ids = np.concatenate([np.full((2, queries), 49), parity.tokens(2, 6, 49)], axis=1)
    size = test_blip2.VISIONS[vision]["image_size"]
    inputs = dict(pixel_values=parity.pixels(2, 3, size, size), input_ids=ids)
    if text["model_type"] == "t5":
        inputs["decoder_input_ids"] = parity.tokens(2, 5, 49, seed=1)

    def ask(model, given):
        found = model(**given, output_hidden_states=True)
        inner = found.language_model_outputs
        image = found.vision_outputs.last_hidden_state
        seen = dict(image_tokens=image, queries=found.qformer_outputs.last_hidden_state)
        seen |= {"pooled": found.vision_outputs.pooler_output}
        seen |= {"pooled:queries": found.qformer_outputs.pooler_output}
        if "decoder_input_ids" in given:
            seen |= dict(text_tokens=inner.encoder_last_hidden_state)
            return seen | dict(logits=found.logits, tokens=inner.decoder_hidden_states[-1])
        return seen | dict(logits=found.logits, tokens=inner.hidden_states[-1])

    compare(test_blip2.network(case), inputs, tmp_path, ask)


def small_llava():
    """LLaVA with CLIP and a Llama."""
    eye = dict(hidden_size=16, num_attention_heads=2, intermediate_size=24, patch_size=8)
    text = test_calls.LLAMA | dict(vocab_size=60, max_position_embeddings=64)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**eye, num_hidden_layers=3, image_size=16),
        text_config=transformers.LlamaConfig(**text),
        image_token_index=59,
    )
    return parity.randomise(transformers.LlavaForConditionalGeneration(config))


def two_pictures():
    """Both in the first row, the second row has none."""
    ids, image = parity.tokens(2, 12, 50), np.full(4, 59)
    ids[0, 1:5] = ids[0, 7:11] = image
    return dict(pixel_values=parity.pixels(2, 3, 16, 16), input_ids=ids)


def test_llava(tmp_path):
    compare(small_llava(), two_pictures(), tmp_path, asks(image_tokens="image_hidden_states"))


PROJECTING = {
    "paligemma": (test_paligemma, "1"),
    "paligemma 2": (test_paligemma, "2, an image token beyond the vocabulary"),
    "gemma 3": (test_gemma3, "a window shorter than an image"),
    "idefics 3": (test_idefics3, "idefics3"),
    "smolvlm": (test_idefics3, "smolvlm, tied, an image token beyond the vocabulary"),
}


@pytest.mark.parametrize("name", PROJECTING)
def test_projected_images(name, tmp_path):
    module, case = PROJECTING[name]
    model = module.build(case)
    # Where the reference leaves the whole output of its tower, the projected ones are within.
    path = "image_hidden_states" + (".pooler_output" if name == "smolvlm" else "")
    compare(model, module.texts(model), tmp_path, asks(image_tokens=path))


def test_qwen2_vl_images(tmp_path):
    model = test_qwen2_vl.build("usual")

    def ask(model, given):
        seen = model.model.get_image_features(given["pixel_values"], given["image_grid_thw"])
        return asks()(model, given) | dict(image_tokens=torch.cat(list(seen.pooler_output)))

    compare(model, test_qwen2_vl.texts(model), tmp_path, ask)


@pytest.mark.parametrize("case", test_idefics.CASES)
def test_idefics_1(case, tmp_path):
    fields = test_idefics.CASES[case]
    config = transformers.IdeficsConfig(**test_idefics.SMALL, **fields)
    model = parity.randomise(transformers.IdeficsForVisionText2Text(config))
    seen = np.zeros((2, 7, 2), np.int64)
    seen[0, 2:4, 0] = seen[0, 4:, 1] = seen[1, 1:, 0] = seen[1, 5:, 1] = 1
    inputs = dict(pixel_values=parity.pixels(2, 2, 3, 16, 16), input_ids=parity.tokens(2, 7, 50))
    inputs |= dict(image_attention_mask=seen, attention_mask=np.ones((2, 7), np.int64))
    compare(model, inputs, tmp_path, asks(image_tokens="image_hidden_states"))


def states_and_scores(loaded, inputs, path):
    """tokens and logits, and the output layer at `path` of the parameters, its kernel and bias."""
    found, layer = loaded.call("forward", inputs), loaded.variables["params"]
    for name in path:
        layer = layer[name]
    kernel, bias = (np.asarray(layer.get(name, 0.0)) for name in ("kernel", "bias"))
    return found["tokens"], found["logits"], kernel, bias


@pytest.mark.parametrize("kind", ["lstm_merge", "open_clip_coca"])
def test_states_are_what_scores_are_made_of(kind):
    """Where the reference does not hand them out."""
    path = ("decoder", "logits")
    if kind == "lstm_merge":
        config = dict(model_type=kind, vocab_size=11, width=4, features=5)
        inputs = dict(features=parity.pixels(3, 5), input_ids=parity.tokens(3, 6, 11))
    else:
        model_cfg = test_coca.CASES["no pooler"]
        config, inputs = dict(model_type=kind, model_cfg=model_cfg), test_coca.inputs_of(model_cfg)
    family, rng = pretrained.family_of(config), np.random.default_rng(0)
    model, shapes = pretrained.shapes_of(family, config)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
    loaded = Pretrained(family, config, model, jax.tree.map(draw, shapes))
    tokens, logits, kernel, bias = states_and_scores(loaded, inputs, path)
    parity.compare(dict(logits=np.asarray(tokens) @ kernel + bias), dict(logits=logits), 1e-5)


# --- models that understand -----------------------------------------------------------------------

FUSED = {
    "vilt": (transformers.ViltModel, test_vilt, transformers.ViltConfig, "square"),
    "vilt, three types": (
        *(transformers.ViltModel, test_vilt, transformers.ViltConfig),
        "no biases, three modalities",
    ),
    "visual_bert": (
        *(transformers.VisualBertModel, test_visual_bert, transformers.VisualBertConfig),
        "wide heads",
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_fusion_encoders(name, tmp_path):
    kind, module, config, case = FUSED[name]
    model = parity.randomise(kind(config(**module.CONFIGS[case])))

    def ask(model, given):
        found = model(**given)
        return dict(tokens=found.last_hidden_state, pooled=found.pooler_output)

    compare(model, module.inputs(case), tmp_path, ask)


def test_vilt_with_a_head_has_states_before_the_last_norm(tmp_path):
    config = transformers.ViltConfig(**test_vilt.CONFIGS["square"])
    model = parity.randomise(transformers.ViltForMaskedLM(config))
    compare(model, test_vilt.inputs("square"), tmp_path, asks())


def test_vilt_in_one_size_is_shuffled(tmp_path):
    model = parity.randomise(
        transformers.ViltModel(transformers.ViltConfig(**test_vilt.CONFIGS["square"]))
    )
    inputs = dict(pixel_values=parity.pixels(2, 3, 24, 24), input_ids=parity.tokens(2, 7, 40))

    def ask(model, given):
        return dict(tokens=model(**given).last_hidden_state)

    torch.manual_seed(3)
    compare(model, inputs, tmp_path, ask)
    ours = read_folder(tmp_path).call("forward", inputs)["tokens"]
    theirs = ask(model, parity.tensors_of(inputs))["tokens"].detach().numpy()
    assert np.abs(ours - theirs).max() > 0.01


def test_lxmert_streams(tmp_path):
    case = "odd depths"

    def ask(model, given):
        found = model(**given)
        text, image = found.language_output, found.vision_output
        return dict(text_tokens=text, image_tokens=image, tokens=text, pooled=found.pooled_output)

    model = test_lxmert.build(transformers.LxmertModel, case)
    compare(model, test_lxmert.inputs(case), tmp_path, ask)


@pytest.mark.parametrize("call", ["match", "contrast"])
def test_blip_retrieval(call, tmp_path):
    model = test_blip.build(transformers.BlipForImageTextRetrieval, "two widths")

    def ask(model, given):
        found = model(**given, use_itm_head=call == "match")
        states = dict(image_tokens=found.last_hidden_state, text_tokens=found.question_embeds)
        return states | dict(score=found.itm_score)

    flags = dict(use_itm_head=call == "match")
    compare(model, test_blip.inputs("two widths"), tmp_path, ask, call, flags)


# --- dual encoders --------------------------------------------------------------------------------


def test_clip_with_one_mask_for_both(tmp_path):
    text, vision, other = test_clip.CASES["usual"]
    act = {"hidden_act": other["hidden_act"]}
    own = dict(vocab_size=50, max_position_embeddings=17, eos_token_id=40, bos_token_id=0)
    config = transformers.CLIPConfig(
        text_config=text | act | own | dict(pad_token_id=1),
        vision_config=vision | act | dict(image_size=32),
        projection_dim=12,
    )
    # As many words as image tokens, whose padding says nothing about images.
    ids, mask = parity.tokens(3, 17, 40), np.ones((3, 17), np.int64)
    ids[:, 4], mask[1, 5:] = 40, 0
    inputs = dict(pixel_values=parity.pixels(3, 3, 32, 32), input_ids=ids, attention_mask=mask)
    names = ("image_embeds", "text_embeds", "logits_per_image", "image_tokens", "text_tokens")
    model = parity.randomise(transformers.CLIPModel(config))

    def ask(model, given):
        found = test_clip.with_tokens(model, given)
        # In its whole output, the reference has put a projected vector in its place.
        pooled = model.text_model(given["input_ids"], given["attention_mask"]).pooler_output
        return {name: found[name] for name in names} | dict(pooled=pooled)

    compare(model, inputs, tmp_path, ask, "contrast")


@pytest.mark.parametrize("case", ["ViT", "ViT, mean before the norm"])
def test_open_clip_tokens(case, tmp_path):
    model_cfg = test_open_clip.CASES[case]
    model = parity.randomise(test_open_clip.build(model_cfg))
    words = parity.tokens(3, 9, 49)
    words[:, 6] = 49
    size = model_cfg["vision_cfg"]["image_size"]
    inputs = dict(image=parity.pixels(3, 3, size, size), text=words)
    given = parity.tensors_of(inputs)
    with torch.no_grad():
        expected = test_open_clip.outputs(model, given)
        model.visual.output_tokens = True
        expected["image_tokens"] = model.visual(given["image"])[1]
        x, mask = text_states(model, given["text"])
        expected["text_tokens"] = model.ln_final(model.transformer(x, attn_mask=mask))
    loaded = kept(model, dict(model_cfg=model_cfg), tmp_path, open_clip.FILES)
    agree(loaded, inputs, {name: x.numpy() for name, x in expected.items()}, "contrast")


def text_states(model, text):
    return model.token_embedding(text) + model.positional_embedding, model.attn_mask


def test_coca_tokens(tmp_path):
    model_cfg = test_coca.CASES["pooled"]
    model, inputs = parity.randomise(test_coca.build(model_cfg)), test_coca.inputs_of(model_cfg)
    given = parity.tensors_of(inputs)
    with torch.no_grad():
        expected = test_coca.outputs(model, given)
        expected["image_tokens"] = model._encode_image(given["image"])[1]
        expected["text_tokens"] = model._encode_text(given["text"])[1]
    loaded = kept(model, dict(model_cfg=model_cfg), tmp_path, open_clip.FILES)
    agree(loaded, inputs, {name: x.numpy() for name, x in expected.items()})


def test_big_vision_tokens(tmp_path):
    draw = test_big_vision.noise()
    tree = {
        "img": test_big_vision.image_arrays(draw, "map", True),
        "txt": test_big_vision.text_arrays(draw, True, 12),
    }
    np.savez(tmp_path / "model.npz", **test_big_vision.flat(tree | {"t": draw(1)}, "params/"))
    image, ids = parity.pixels(3, 12, 12, 3), parity.tokens(3, 6, 30)
    text = tree["txt"]
    words = text["Embed_0"]["embedding"][ids] + text["pos_embedding"][:, :6]
    tokens, pooled = test_big_vision.run_image(image, tree["img"], "map")
    outs = dict(image_tokens=tokens, pooled=pooled)
    outs |= dict(text_tokens=test_big_vision.run_stack(words, text["Encoder_0"]))
    agree(read_folder(tmp_path / "model.npz"), dict(image=image, text=ids), outs, "contrast")


def kept(model, config, folder: Path, files=("config.json", "model.safetensors")) -> Pretrained:
    """A folder of a reference that only has a state dict."""
    (folder / files[0]).write_text(json.dumps(config))
    save_file(oracles.state_of(model), folder / files[1])
    return read_folder(folder)


# --- backbones ------------------------------------------------------------------------------------


def test_torchvision_resnet(tmp_path):
    model, pixels = test_torchvision.small_resnet(18, [1, 1, 1, 1]), parity.pixels(2, 3, 45, 70)
    layers = list(model.children())
    with torch.no_grad():
        image = torch.nn.Sequential(*layers[:-2])(torch.from_numpy(pixels))
        pooled = layers[-2](image).flatten(1)
        outs = dict(logits=model(torch.from_numpy(pixels)), image_tokens=image, pooled=pooled)
        outs |= {"features": pooled, "features:map": image}
    loaded = kept(model, dict(model_type="torchvision", arch="resnet18"), tmp_path)
    agree(loaded, dict(pixel_values=pixels), {name: x.numpy() for name, x in outs.items()})


def test_torchvision_vgg(tmp_path):
    model = test_torchvision.small_vgg(13, 8, 2, units=9)
    pixels = parity.pixels(2, 3, 70, 104)
    with torch.no_grad():
        given = torch.from_numpy(pixels)
        image = model.features(given)
        states = model.classifier[:-1](model.avgpool(image).flatten(1))
        outs = dict(logits=model(given), image_tokens=image)
        outs |= {"features": states, "features:map": image}
    loaded = kept(model, dict(model_type="torchvision", arch="vgg13"), tmp_path)
    agree(loaded, dict(pixel_values=pixels), {name: x.numpy() for name, x in outs.items()})


def test_efficientnet(tmp_path):
    model = test_efficientnet_lite.small(5)
    pixels = parity.pixels(2, 3, 45, 32)
    with torch.no_grad():
        given = torch.from_numpy(pixels)
        image = model.forward_features(given)
        pooled = model.forward_head(image, pre_logits=True)
        outs = dict(logits=model(given), image_tokens=image, features=pooled)
    config = test_efficientnet_lite.LITE0 | dict(stages=[1, 2, 2], head=24)
    loaded = kept(model, config, tmp_path)
    agree(loaded, dict(pixel_values=pixels), {name: x.numpy() for name, x in outs.items()})


def test_resnet_with_a_classifier(tmp_path):
    sizes = dict(embedding_size=6, hidden_sizes=[8, 12], depths=[2, 1], num_labels=5)
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes))

    def ask(model, given):
        inner = model.resnet(**given)
        vector = inner.pooler_output.flatten(1)
        return asks()(model, given) | dict(pooled=inner.pooler_output, features=vector)

    inputs = dict(pixel_values=parity.pixels(2, 3, 33, 40))
    compare(parity.randomise(model), inputs, tmp_path, ask)


def test_vit_with_a_classifier(tmp_path):
    sizes = dict(hidden_size=16, image_size=24, num_hidden_layers=2, intermediate_size=20)
    config = transformers.ViTConfig(**sizes, num_attention_heads=4, patch_size=8, num_labels=7)

    def ask(model, given):
        states = model.vit(**given).last_hidden_state
        first = states[:, 0]
        found = asks()(model, given)
        names = dict(image_tokens=states, pooled=first, features=first, tokens=states)
        return found | names | {"tokens:unnormed": found["tokens"]}

    model = parity.randomise(transformers.ViTForImageClassification(config))
    compare(model, dict(pixel_values=parity.pixels(2, 3, 24, 24)), tmp_path, ask)
