"""A published folder as a model that ranks and embeds; what is refused; and the way back."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import tokenizers
import torch
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_sample_images
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import vlm_jax
from tests.weights import parity
from vlm_jax.train import train
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import read_folder, write_tensors

WORDS = ["<|startoftext|>", "<|endoftext|>", "a", "red", "blue", "circle", "square", "on", "the"]
PHOTOS = load_sample_images().images
TEXTS = ["a red circle", "the blue square on a circle"]
TOWER = dict(hidden_size=16, num_attention_heads=2, intermediate_size=24, num_hidden_layers=2)


@functools.cache
def reference() -> CLIPModel:
    text = dict(vocab_size=len(WORDS), max_position_embeddings=8, eos_token_id=1, bos_token_id=0)
    config = CLIPConfig(
        text_config=TOWER | text | dict(pad_token_id=1, projection_dim=12),
        vision_config=TOWER | dict(image_size=32, patch_size=8, projection_dim=12),
        projection_dim=12,
    )
    return parity.randomise(CLIPModel(config))


def write_tokenizer(folder):
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.add_special_tokens(WORDS[:2])
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[(WORDS[0], 0), (WORDS[1], 1)]
    )
    model.save(str(folder / "tokenizer.json"))
    names = dict(bos_token=WORDS[0], eos_token=WORDS[1], pad_token=WORDS[1])
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("clip") / "folder"
    reference().save_pretrained(made)
    write_tokenizer(made)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size=32)
    processor.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def expected():
    """Unit vectors of photos and texts by the reference with its own preprocessing."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size=32)
    pixels = processor(PHOTOS, return_tensors="pt")["pixel_values"]
    ids = [[0, *(WORDS.index(word) for word in text.split()), 1] for text in TEXTS]
    with torch.no_grad():
        rows = [reference()(torch.tensor([row]), pixels) for row in ids]
    return rows[0].image_embeds.numpy(), np.concatenate([row.text_embeds for row in rows])


def test_a_folder_embeds_and_ranks_like_the_reference(folder, expected):
    model = vlm_jax.load_pretrained(folder)
    np.testing.assert_allclose(model.embed_image(PHOTOS), expected[0], atol=1e-5)
    np.testing.assert_allclose(model.embed_text(TEXTS), expected[1], atol=1e-5)
    ranked = model.rank_texts(PHOTOS[0], TEXTS)
    assert [entry["index"] for entry in ranked] == list(np.argsort(-expected[0][0] @ expected[1].T))
    assert model.run.experiment.tokenizer.encode("<|endoftext|> red")[-1] == 3


def test_export_writes_all_that_a_folder_needs(folder, expected, tmp_path):
    vlm_jax.export(vlm_jax.load_pretrained(folder), tmp_path / "out")
    again = vlm_jax.load_pretrained(tmp_path / "out")
    np.testing.assert_allclose(again.embed_text(TEXTS), expected[1], atol=1e-5)
    CLIPModel.from_pretrained(tmp_path / "out")
    with pytest.raises(FileExistsError, match="choose another folder"):
        vlm_jax.export(again, tmp_path / "out")


@pytest.fixture
def uncached():
    """Programs compiled here are not kept: read back from a cache on few cores, XLA:CPU may start a
    step's two all-gathers in a different order on each fake device, and wait for ever.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)


@pytest.mark.usefixtures("uncached")
def test_a_run_starts_from_a_folder_and_is_exported_in_its_format(folder, tmp_path):
    config = {
        "batch_size": 8,
        "total_steps": 2,
        "init": str(folder),
        "tasks": {"retrieval": {"length": 8}},
        "data": {"train": {"name": "scenes", "split": "train", "length": 16}},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
    }
    train(config, tmp_path / "run")
    model = vlm_jax.load(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)  # all is in memory
    vlm_jax.export(model, tmp_path / "out")
    tuned, info = CLIPModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    before, after = (m.visual_projection.weight.detach().numpy() for m in (reference(), tuned))
    assert 1e-4 < np.abs(before - after).max() < 1e-2
    ours = model.run.variables["params"]["contrast_head"]["image"]["kernel"]
    np.testing.assert_array_equal(after.T, ours)


def test_shards_are_found_by_their_index(folder, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(folder / name, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    write_tensors(tensors.items(), tmp_path, most=9000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    whole, parts = read_folder(folder), read_folder(tmp_path)
    leaf = lambda found: found.variables["params"]["vision"]["patch_embedding"]["kernel"]
    np.testing.assert_array_equal(leaf(whole), leaf(parts))
    next(iter(tmp_path.glob("model-00002*"))).unlink()
    with pytest.raises(WeightsError, match=r"lacks model-00002-of-.*which its index lists"):
        read_folder(tmp_path)


def test_all_that_does_not_fit_is_in_one_message(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["logit_scale"]
    tensors["extra.weight"] = np.zeros(3, np.float32)
    tensors["visual_projection.weight"] = np.zeros((12, 17), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        read_folder(tmp_path)
    message = str(caught.value)
    assert "1 missing: logit_scale" in message and "1 unexpected: extra.weight" in message
    assert "1 misshapen: visual_projection.weight [12, 17]" in message
    tensors = load_file(folder / "model.safetensors")
    tensors["visual_projection.weight"] = np.zeros((12, 17), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 misshapen: visual_projection.weight \[12, 17\]"):
        read_folder(tmp_path)


def test_pickled_weights_are_never_opened(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match=r"only as pytorch_model.bin.*safetensors.torch"):
        read_folder(tmp_path)


def test_unknown_models_and_settings_are_named(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"model_type": "clap"}, "model_type='clap' is not supported; did you mean 'clip'"),
        ({"vision_config": {"hidden_act": "xielu"}}, "hidden_act='xielu' is not supported"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        shutil.copy(folder / "model.safetensors", tmp_path)
        with pytest.raises(WeightsError, match=message):
            read_folder(tmp_path)


def test_damaged_files_are_named(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a header")
    with pytest.raises(WeightsError, match="model.safetensors cannot be read, download it again"):
        read_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="config.json is not JSON"):
        read_folder(tmp_path)


def test_bfloat16_files_stay_so_unless_told_otherwise(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    tensors = {
        name: torch.from_numpy(x).bfloat16()
        for name, x in load_file(folder / "model.safetensors").items()
    }
    from safetensors.torch import save_file as save_torch

    save_torch(tensors, tmp_path / "model.safetensors")
    kernel = lambda **given: read_folder(tmp_path, **given).variables["params"]["contrast_head"][
        "image"
    ]["kernel"]
    assert kernel().dtype.name == "bfloat16"
    assert kernel(dtype=np.float32).dtype == np.float32
