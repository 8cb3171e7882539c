"""big_vision's .npz files, against a forward pass in NumPy of the same arrays."""

import math

import jax
import numpy as np
import pytest
import sentencepiece

import vlm_jax
from tests.tokenizers.test_classes import UNIGRAM, spoken
from tests.weights import parity
from vlm_jax.weights import convert, pretrained
from vlm_jax.weights.families import big_vision
from vlm_jax.weights.folder import Arrays, WeightsError
from vlm_jax.weights.pretrained import read_folder, write_folder

MHA = "MultiHeadDotProductAttention_0"


def norm_arrays(draw, width):
    return {"scale": 1 + draw(width), "bias": draw(width)}


def dense_arrays(draw, inputs, outputs):
    return {"kernel": draw(inputs, outputs), "bias": draw(outputs)}


def attention_arrays(draw, width, heads):
    head = width // heads
    found = {
        name: {"kernel": draw(width, heads, head), "bias": draw(heads, head)}
        for name in ("query", "key", "value")
    }
    return found | {"out": {"kernel": draw(heads, head, width), "bias": draw(width)}}


def mlp_arrays(draw, width, hidden):
    pairs = ((width, hidden), (hidden, width))
    return {f"Dense_{i}": dense_arrays(draw, *pair) for i, pair in enumerate(pairs)}


def block_arrays(draw, width, heads, hidden):
    return {
        "LayerNorm_0": norm_arrays(draw, width),
        MHA: attention_arrays(draw, width, heads),
        "LayerNorm_1": norm_arrays(draw, width),
        "MlpBlock_0": mlp_arrays(draw, width, hidden),
    }


def stack_arrays(draw, layers, scan, *sizes):
    blocks = [block_arrays(draw, *sizes) for _ in range(layers)]
    own = {f"encoderblock_{i}": block for i, block in enumerate(blocks)}
    if scan:
        own = {"encoderblock": jax.tree.map(lambda *x: np.stack(x), *blocks)}
    return own | {"encoder_norm": norm_arrays(draw, sizes[0])}


def image_arrays(
    draw,
    pool,
    scan,
    classes=None,
    own_position=False,
    rep_size=None,
    layers=2,
    sizes=(12, 3, 20, 4, 3),
):
    """sizes: width, heads, width within the MLP, pixels and patches a side."""
    width, heads, hidden, patch, side = sizes
    found = {
        "embedding": {"kernel": draw(patch, patch, 3, width), "bias": draw(width)},
        "pos_embedding": draw(1, side**2 + own_position, width),
        "Transformer": stack_arrays(draw, layers, scan, width, heads, hidden),
    }
    if pool == "tok":
        found["cls"] = draw(1, 1, width)
    if pool == "map":
        found["MAPHead_0"] = {
            "probe": draw(1, 1, width),
            MHA: attention_arrays(draw, width, heads),
            "LayerNorm_0": norm_arrays(draw, width),
            "MlpBlock_0": mlp_arrays(draw, width, hidden),
        }
    if rep_size:
        found["pre_logits"] = dense_arrays(draw, width, rep_size)
    return found | ({"head": dense_arrays(draw, rep_size or width, classes)} if classes else {})


def text_arrays(draw, scan, classes, vocab=30, layers=3, sizes=(8, 2, 10)):
    return {
        "Embed_0": {"embedding": draw(vocab, sizes[0])},
        "pos_embedding": draw(1, 6, sizes[0]),
        "Encoder_0": stack_arrays(draw, layers, scan, *sizes),
        "head": dense_arrays(draw, sizes[0], classes),
    }


def flat(tree, prefix=""):
    """A nested dict as {"a/b": array}."""
    found = {}
    for name, value in tree.items():
        found |= (
            flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
        )
    return found


def noise(seed=0):
    rng = np.random.default_rng(seed)
    return lambda *shape: (0.3 * rng.normal(size=shape)).astype(np.float32)


def normed(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def attend(x, y, p, seen=True):
    q, k, v = (
        np.einsum("btd,dnk->btnk", source, p[name]["kernel"]) + p[name]["bias"]
        for source, name in ((x, "query"), (y, "key"), (y, "value"))
    )
    scores = np.einsum("btnk,bsnk->bnts", q, k) / math.sqrt(q.shape[-1])
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    seen = np.einsum("bnts,bsnk->btnk", weights, v)
    return np.einsum("btnk,nkd->btd", seen, p["out"]["kernel"]) + p["out"]["bias"]


def mlp(x, p):
    x = dense(x, p["Dense_0"])
    x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return dense(x, p["Dense_1"])


def run_stack(x, p):
    blocks = [p[name] for name in sorted(p) if name.startswith("encoderblock_")]
    if "encoderblock" in p:
        count = len(p["encoderblock"]["LayerNorm_0"]["scale"])
        blocks = [jax.tree.map(lambda leaf, i=i: leaf[i], p["encoderblock"]) for i in range(count)]
    for block in blocks:
        y = normed(x, block["LayerNorm_0"])
        x = x + attend(y, y, block[MHA])
        x = x + mlp(normed(x, block["LayerNorm_1"]), block["MlpBlock_0"])
    return normed(x, p["encoder_norm"])


def run_image(pixels, p, pool):
    """(tokens, pooled) of [B, H, W, 3]."""
    size, cut = p["embedding"]["kernel"].shape[0], []
    for row in range(0, pixels.shape[1], size):
        for column in range(0, pixels.shape[2], size):
            cut.append(pixels[:, row : row + size, column : column + size].reshape(len(pixels), -1))
    kernel = p["embedding"]["kernel"].reshape(-1, p["embedding"]["kernel"].shape[-1])
    x = np.stack(cut, axis=1) @ kernel + p["embedding"]["bias"]
    if pool == "tok":
        first = np.broadcast_to(p["cls"], (len(x), 1, x.shape[-1]))
        own = p["pos_embedding"].shape[1] > x.shape[1]
        x = x if own else x + p["pos_embedding"]
        x = np.concatenate([first, x], axis=1)
        x = x + p["pos_embedding"] if own else x
    else:
        x = x + p["pos_embedding"]
    x = run_stack(x, p["Transformer"])
    tokens = x[:, 1:] if pool == "tok" else x
    pooled = x[:, 0] if pool == "tok" else x.mean(axis=1)
    if pool == "map":
        head = p["MAPHead_0"]
        pooled = attend(np.broadcast_to(head["probe"], (len(x), 1, x.shape[-1])), x, head[MHA])
        pooled = (pooled + mlp(normed(pooled, head["LayerNorm_0"]), head["MlpBlock_0"]))[:, 0]
    pooled = np.tanh(dense(pooled, p["pre_logits"])) if "pre_logits" in p else pooled
    return tokens, dense(pooled, p["head"]) if "head" in p else pooled


def run_text(ids, p):
    x = p["Embed_0"]["embedding"][ids] + p["pos_embedding"][:, : ids.shape[1]]
    return dense(run_stack(x, p["Encoder_0"])[:, -1], p["head"])


def nested(arrays):
    """What `flat` takes apart."""
    tree = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = array
    return tree


def compare_gradients(loaded, call, inputs, name, arrays, ask):
    """Of a random projection of one output, against central differences in float64 along a random
    direction of each array.
    """
    rng = np.random.default_rng(1)
    exact = {key: array.astype(np.float64) for key, array in arrays.items()}
    weights = rng.normal(size=ask(nested(exact)).shape)

    def loss(params):
        apply = lambda *args, **given: loaded.model.apply({"params": params}, *args, **given)
        return (loaded.family.calls[call](apply, inputs, {})[name] * weights).sum()

    inputs = jax.tree.map(jax.numpy.asarray, inputs)
    gradients = jax.jit(jax.grad(loss))(loaded.variables["params"])
    found = dict(convert.write({"params": gradients}, loaded.family.rules(loaded.config)))
    assert set(found) == set(arrays)
    for key, array in exact.items():
        way = rng.normal(size=array.shape)
        sides = [ask(nested(exact | {key: array + step * way})) for step in (1e-5, -1e-5)]
        expected = ((sides[0] - sides[1]) * weights).sum() / 2e-5
        scale = max(1.0, np.abs(found[key] * way).sum())
        assert abs((found[key] * way).sum() - expected) < 1e-4 * scale, key


def round_trip(path, folder, arrays):
    """Exported and read again, every array is as it was, under its name."""
    loaded = read_folder(path)
    write_folder(loaded, folder / "exported")
    with np.load(folder / "exported" / "model.npz", allow_pickle=False) as written:
        assert set(written.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(written[name], array, err_msg=name)
    return read_folder(folder / "exported")


@pytest.mark.parametrize(("scan", "classes", "biased"), [(False, None, True), (True, 10, False)])
def test_two_towers(scan, classes, biased, tmp_path):
    draw = noise()
    wide = dict(layers=1, sizes=(9, 3, 7)) if scan else {}
    tree = {
        "img": image_arrays(draw, "map", scan, classes),
        "txt": text_arrays(draw, scan, classes or 12, **wide),
        "t": draw(1),
    } | ({"b": draw(1)} if biased else {})
    arrays = flat(tree, "params/")
    np.savez(tmp_path / "model.npz", **arrays)
    pixels, ids = parity.pixels(3, 12, 12, 3), parity.tokens(3, 6, 30)
    images, texts = run_image(pixels, tree["img"], "map")[1], run_text(ids, tree["txt"])
    images, texts = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))

    def ask(tree):
        tree = tree["params"]
        images, texts = run_image(pixels, tree["img"], "map")[1], run_text(ids, tree["txt"])
        images, texts = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
        return images @ texts.T * np.exp(tree["t"]) + (tree["b"] if biased else 0)

    logits = ask(dict(params=tree))
    expected = dict(image_embeds=images, text_embeds=texts, logits_per_image=logits)
    for loaded in (
        read_folder(tmp_path / "model.npz"),
        round_trip(tmp_path, tmp_path, arrays),
    ):
        found = parity.run(loaded, "contrast", dict(image=pixels, text=ids))
        parity.compare(found, expected, 1e-5)
    if scan:
        given = dict(image=pixels, text=ids)
        compare_gradients(loaded, "contrast", given, "logits_per_image", arrays, ask)


CASES = {
    "tok": dict(pool="tok", scan=False, classes=7),
    "tok with a position": dict(pool="tok", scan=True, own_position=True, classes=5, rep_size=9),
    "gap": dict(pool="gap", scan=True, classes=4),
    "map": dict(pool="map", scan=False),
    "map, five heads": dict(pool="map", scan=True, layers=3, sizes=(10, 5, 14, 3, 5)),
    "gap, one head": dict(pool="gap", scan=False, layers=1, sizes=(6, 1, 9, 5, 2), classes=3),
}


@pytest.mark.parametrize("case", CASES)
def test_image_tower(case, tmp_path):
    tree = image_arrays(noise(), **CASES[case])
    arrays = flat(tree, "params/")
    np.savez(tmp_path / "vit.npz", **arrays)
    patch, side = CASES[case].get("sizes", (4, 3))[-2:]
    pixels = parity.pixels(2, patch * side, patch * side, 3)
    tokens, pooled = run_image(pixels, tree, CASES[case]["pool"])
    loaded = round_trip(tmp_path, tmp_path, arrays)
    found = parity.run(loaded, "forward", dict(pixel_values=pixels.transpose(0, 3, 1, 2)))
    name = "logits" if "head" in tree else "pooled"
    parity.compare(found, {"tokens": tokens, name: pooled}, 1e-5)
    if case == "tok with a position":
        ask = lambda tree: run_image(pixels, tree["params"], "tok")[1]
        given = dict(pixel_values=pixels.transpose(0, 3, 1, 2))
        compare_gradients(loaded, "forward", given, name, arrays, ask)


def test_a_file_beside_its_sentencepiece_model_is_asked(tmp_path):
    file = spoken(**UNIGRAM)["model"]
    words = sentencepiece.SentencePieceProcessor(model_proto=file)
    draw = noise()
    text = text_arrays(draw, False, 12, words.get_piece_size())
    tree = {"img": image_arrays(draw, "map", True), "txt": text, "t": draw(1), "b": draw(1)}
    np.savez(tmp_path / "model.npz", **flat(tree, "params/"))
    (tmp_path / "spiece.model").write_bytes(file)
    model = vlm_jax.load_pretrained(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3), np.uint8)
    ids = [*(words.encode("a photo of two cats") + [1] * 5)[:5], 1]
    images = run_image(pictures / 127.5 - 1, tree["img"], "map")[1]
    vector = run_text(np.array([ids]), text)[0]
    likeness = images @ vector / np.linalg.norm(images, axis=1) / np.linalg.norm(vector)
    found = model.rank("a photo of two cats", list(pictures))
    scores = {row["index"]: row["score"] for row in found}
    np.testing.assert_allclose([scores[i] for i in range(5)], likeness, atol=1e-5)


def test_a_picture_of_384_pixels_keeps_six_unread():
    image = big_vision.IMAGE | dict(patch=14, side=27, positions=729)
    assert big_vision.resolution(image) == 384
    assert big_vision.resolution(image | dict(res=378)) == 378
    assert big_vision.pictures(dict(img=image))[0]["size"] == 384
    assert pretrained.count(dict(model_type="big_vision", img=image)) == pretrained.count(
        dict(model_type="big_vision", img=image | dict(res=378))
    )


def test_names_of_older_files(tmp_path):
    tree = image_arrays(noise(), "tok", scan=False, classes=3, own_position=True)
    arrays = {}
    for name, array in flat(tree).items():
        name = name.replace("pos_embedding", "Transformer/posembed_input/pos_embedding")
        name = name.replace(MHA, "MultiHeadDotProductAttention_1")
        name = name.replace("/LayerNorm_1/", "/LayerNorm_2/")
        arrays[name.replace("MlpBlock_0", "MlpBlock_3")] = array
    np.savez(tmp_path / "old.npz", **arrays)
    pixels = parity.pixels(2, 12, 12, 3)
    found = parity.run(read_folder(tmp_path), "forward", dict(image=pixels))
    parity.compare(found, dict(logits=run_image(pixels, tree, "tok")[1]), 1e-5)


def test_half_precision_arrays(tmp_path):
    arrays = flat(image_arrays(noise(), "map", scan=False), "params/")
    stored = {n: np.asarray(jax.numpy.asarray(x, "bfloat16")) for n, x in arrays.items()}
    np.savez(tmp_path / "half.npz", **{n: x.view("V2") for n, x in stored.items()})
    variables = read_folder(tmp_path).variables["params"]["vision"]
    assert variables["position"].dtype == "bfloat16"
    expected = stored["params/pos_embedding"][0]
    np.testing.assert_array_equal(np.asarray(variables["position"]), expected)


def test_what_is_refused(tmp_path):
    path = tmp_path / "pickled.npz"
    np.savez(path, model=np.array([{"a": 1}], dtype=object))
    with pytest.raises(WeightsError, match="pickled.npz cannot be read"):
        read_folder(path)
    arrays = Arrays({"params/txt/BertEncoder_0/x": np.zeros(2)})
    with pytest.raises(WeightsError, match="BERT"):
        pretrained.from_tensors(dict(model_type="big_vision"), arrays)
    with pytest.raises(WeightsError, match="no tensor Transformer/encoderblock_0"):
        pretrained.from_tensors(dict(model_type="big_vision"), Arrays(x=np.zeros(2)))


SIGLIP_TEXT = dict(classes=768)
COUNTS = {
    "SigLIP B/16 at 224": (dict(txt=SIGLIP_TEXT), 203_155_970),
    "SigLIP B/16 at 256": (dict(img=dict(side=16, positions=256), txt=SIGLIP_TEXT), 203_202_050),
    "ViT-B/16, 1000 classes": (dict(img=dict(pool="tok", classes=1000)), 86_566_888),
    "LiT B16B image tower": (dict(img=dict(pool="tok", classes=768)), 86_388_480),
    "LiT B16B_2 image tower": (dict(img=dict(pool="tok")), 85_797_888),
    "LiT L16L image tower": (
        dict(
            img=dict(pool="tok", width=1024, layers=24, heads=16, mlp_width=4096),
        ),
        303_300_608,
    ),
}


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert pretrained.count(config | dict(model_type="big_vision")) == expected
