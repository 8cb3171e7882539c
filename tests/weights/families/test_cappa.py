"""CapPa's .npz files, against a forward pass in NumPy of the same arrays."""

import jax
import numpy as np
import pytest
import sentencepiece

import vlm_jax
from tests.tokenizers.test_classes import UNIGRAM, spoken
from tests.weights import parity
from tests.weights.families.test_big_vision import (
    attend,
    compare_gradients,
    dense,
    flat,
    image_arrays,
    mlp,
    noise,
    normed,
    round_trip,
    run_image,
)
from vlm_jax.weights import pretrained
from vlm_jax.weights.folder import Arrays, WeightsError, read_config
from vlm_jax.weights.pretrained import read_folder

MEMORY, LENGTH = 12, 7
SMALL, ODD = (8, 2, 10), (15, 3, 7)
"""Width, heads and the width within the MLP of a decoder's layers."""


def block_arrays(draw, bias, sizes):
    own, heads, hidden = sizes
    head = own // heads
    attention = lambda width: {
        "query": {"kernel": draw(own, heads, head)},
        "key": {"kernel": draw(width, heads, head)},
        "value": {"kernel": draw(width, heads, head)},
        "out": {"kernel": draw(heads, head, own)},
    }
    with_bias = lambda size: {"bias": draw(size)} if bias else {}
    norms = {f"LayerNorm{i}": {"scale": 1 + draw(own)} | with_bias(own) for i in (1, 2, 3)}
    layers = {
        "Dense_0": {"kernel": draw(own, hidden)} | with_bias(hidden),
        "Dense_1": {"kernel": draw(hidden, own)} | with_bias(own),
    }
    return norms | {"SelfAttn": attention(own), "CrossAttn": attention(MEMORY), "MLP": layers}


def arrays_of(draw, scan, bias, parallel, vocab=30, layers=3, sizes=SMALL):
    width = sizes[0]
    blocks = [block_arrays(draw, bias, sizes) for _ in range(layers)]
    own = {f"EncDecBlock{i}": block for i, block in enumerate(blocks)}
    if scan:
        own = {"EncDecBlock": jax.tree.map(lambda *x: np.stack(x, axis=1), *blocks)}
    ends = {
        "EmbedTargets": {"embedding": draw(vocab + parallel, width)},
        "LayerNorm": {"scale": 1 + draw(width), "bias": draw(width)},
        "LogitsDense": {"kernel": draw(width, vocab), "bias": draw(vocab)},
    }
    return {
        "encoder": image_arrays(draw, "gap", scan),
        "decoder": own | ends,
        "pos_embedding_decoder": draw(1, LENGTH, width),
    }


def with_zeros(tree, name=""):
    """The same with a bias of zeros where there is none."""
    if "scale" in tree:
        return {"bias": np.zeros_like(tree["scale"])} | tree
    if "kernel" in tree:
        kernel = tree["kernel"]
        shape = kernel.shape[1:] if name in ("query", "key", "value") else kernel.shape[-1:]
        return {"bias": np.zeros(shape)} | tree
    return {key: with_zeros(value, key) for key, value in tree.items()}


def run(pixels, ids, tree):
    """Logits of each word of i32[B, T] behind those before it."""
    p, seen = tree["decoder"], run_image(pixels, tree["encoder"], "gap")[0]
    shifted = np.concatenate([np.zeros_like(ids[:, :1]), ids[:, :-1]], axis=1)
    count, causal = ids.shape[1], np.tri(ids.shape[1], dtype=bool)
    x = p["EmbedTargets"]["embedding"][shifted] + tree["pos_embedding_decoder"][:, :count]
    blocks = [p[name] for name in sorted(p) if name.startswith("EncDecBlock")]
    if "EncDecBlock" in p:
        layers = range(p["EncDecBlock"]["LayerNorm1"]["scale"].shape[1])
        blocks = [jax.tree.map(lambda leaf, i=i: leaf[:, i], p["EncDecBlock"]) for i in layers]
    for block in map(with_zeros, blocks):
        y = normed(x, block["LayerNorm1"])
        x = x + attend(y, y, block["SelfAttn"], causal)
        x = x + attend(normed(x, block["LayerNorm2"]), seen, block["CrossAttn"])
        x = x + mlp(normed(x, block["LayerNorm3"]), block["MLP"])
    return dense(normed(x, p["LayerNorm"]), p["LogitsDense"])


@pytest.mark.parametrize(
    ("scan", "bias", "parallel", "sizes"),
    [(False, False, True, SMALL), (True, True, False, ODD), (True, False, False, SMALL)],
)
def test_cappa(scan, bias, parallel, sizes, tmp_path):
    tree = arrays_of(noise(), scan, bias, parallel, layers=2 if sizes == ODD else 3, sizes=sizes)
    arrays = flat(tree, "params/")
    np.savez(tmp_path / "model.npz", **arrays)
    pixels, ids = parity.pixels(2, 12, 12, 3), parity.tokens(2, 6, 30)
    expected = {"logits": run(pixels, ids, tree)}
    given = dict(image=pixels, text=ids)
    for loaded in (read_folder(tmp_path / "model.npz"), round_trip(tmp_path, tmp_path, arrays)):
        parity.compare(parity.run(loaded, "forward", given), expected, 1e-5)
    assert loaded.family.model(loaded.config)["decoder"]["parallel"] == parallel
    hugging = dict(pixel_values=pixels.transpose(0, 3, 1, 2), input_ids=ids)
    parity.compare(parity.run(loaded, "forward", hugging), expected, 1e-5)
    if (scan, bias) != (True, False):
        ask = lambda tree: run(pixels, ids, tree["params"])
        compare_gradients(loaded, "forward", given, "logits", arrays, ask)


def test_a_file_beside_its_sentencepiece_model_describes_a_picture(tmp_path):
    file = spoken(**UNIGRAM)["model"]
    words = sentencepiece.SentencePieceProcessor(model_proto=file)
    tree = arrays_of(noise(), True, False, True, words.get_piece_size())
    np.savez(tmp_path / "model.npz", **flat(tree, "params/"))
    (tmp_path / "spiece.model").write_bytes(file)
    model = vlm_jax.load_pretrained(tmp_path)
    said = set()
    for picture in np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8):
        ids = np.zeros((1, 0), np.int32)
        while ids.shape[1] < LENGTH and 1 not in ids:
            more = np.pad(ids, ((0, 0), (0, 1)))
            best = run(picture[None] / 127.5 - 1, more, tree)[0, -1].argmax()
            ids = np.concatenate([ids, [[best]]], axis=1).astype(np.int32)
        said.add(words.decode([int(i) for i in ids[0] if i > 2]))
        assert model.caption(picture) == words.decode([int(i) for i in ids[0] if i > 2])
    assert len(said) > 1


def test_what_is_missing_is_named(tmp_path):
    tree = arrays_of(noise(), False, False, False)
    np.savez(tmp_path / "model.npz", **flat(tree, "params/"))
    assert read_config(tmp_path) == dict(model_type="cappa")
    arrays = Arrays(flat(tree, "params/"))
    del arrays["params/decoder/EncDecBlock0/MLP/Dense_0/kernel"]
    with pytest.raises(WeightsError, match="no tensor EncDecBlock0/MLP/Dense_0/kernel"):
        pretrained.from_tensors(dict(model_type="cappa"), arrays)


LARGE = dict(width=1024, heads=16, mlp_width=4096)
COUNTS = {
    "Cap B/16": (dict(), 191_668_736),
    "CapPa B/16": (dict(dec=dict(parallel=True)), 191_669_504),
    "CapPa L/14": (
        dict(
            img=LARGE | dict(patch=14, side=16, positions=256, layers=24),
            dec=LARGE | dict(parallel=True),
        ),
        469_495_040,
    ),
}


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert pretrained.count(config | dict(model_type="cappa")) == expected
