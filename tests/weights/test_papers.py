"""Networks without a packaged reference, against their papers' equations in torch: Show, Attend and
Tell, Cap and CapPa, and CoCa with the paper's decoder.

The oracles are written from the papers alone, out of torch.nn layers; their random weights are
copied by a table of names, and logits, losses, the gradients of every parameter and the likeliest
words, one after the other, are compared.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import open_clip as clip
import pytest
import torch
from torch import nn

from configs.captioning import cappa
from tests.weights import oracles, parity
from tests.weights.families import test_coca
from vlm_jax import decode, models
from vlm_jax.decoders.attending_lstm import AttendingLstm
from vlm_jax.losses import masked_cross_entropy
from vlm_jax.losses.coverage import doubly_stochastic
from vlm_jax.types import Features
from vlm_jax.weights import convert
from vlm_jax.weights.families import open_clip
from vlm_jax.weights.folder import Arrays
from vlm_jax.weights.rules import Rule, Rules, attention, dense, norm, patches, reshaped

VOCAB, LENGTH = 30, 6


def compare(oracle: nn.Module, rules: Rules, shapes: Any, ours: Any, theirs: Any) -> Any:
    """Logits, loss and the gradients of all parameters, which are returned. ours: params -> (loss,
    logits); theirs: oracle -> the same. shapes: of our variables.
    """
    parity.randomise(oracle)
    read = lambda tensors: convert.read(Arrays(tensors), shapes, rules)["params"]
    params = read(oracles.state_of(oracle))
    expected, logits = theirs(oracle)
    gradients = jax.jit(jax.value_and_grad(ours, has_aux=True))
    (loss, found), slopes = jax.device_get(gradients(params))
    wanted = {"logits": logits.detach().numpy(), "loss": expected.detach().numpy()[None]}
    parity.compare({"logits": found, "loss": loss[None]}, wanted, 1e-5)
    parity.compare_trees(slopes, read(parity.gradients_of(oracle, expected)), 1e-4, least=0.01)
    return params


FIRST = np.array([[1], [2]])
"""With which word the texts of two pictures begin."""
LIKELIEST = decode.Search(max_length=LENGTH, eos=())


def compare_texts(
    found: Any, scores: Callable[[torch.Tensor], torch.Tensor], first: np.ndarray = FIRST
) -> None:
    """found: tokens behind the first. scores: of words i64[B, T], logits; each text is read anew
    for every word.
    """
    words = torch.from_numpy(first)
    with torch.no_grad():
        for _ in range(LENGTH):
            words = torch.cat([words, scores(words)[:, -1:].argmax(-1)], dim=1)
    np.testing.assert_array_equal(found, words[:, 1:].numpy())
    assert len(np.unique(words[:, 1:])) > 1


def next_words(logits: torch.Tensor, targets: np.ndarray) -> torch.Tensor:
    flat = torch.from_numpy(targets).reshape(-1)
    return nn.functional.cross_entropy(logits.reshape(len(flat), -1), flat)


class SoftAttention(nn.Module):
    """arXiv:1502.03044, sections 3.1 and 4.2: annotation vectors a_i are weighed by a network of
    the last state, the expected one is gated, and the word follows from it, the state and the word
    before.
    """

    def __init__(self, channels: int, width: int, attention: int):
        super().__init__()
        self.init_c, self.init_h = (nn.Linear(channels, width) for _ in range(2))
        self.of_image = nn.Linear(channels, attention)
        self.of_state = nn.Linear(width, attention)
        self.energy = nn.Linear(attention, 1)
        self.beta = nn.Linear(width, 1)
        self.embed = nn.Embedding(VOCAB, width)
        self.cell = nn.LSTMCell(width + channels, width)
        self.l_h, self.l_z = nn.Linear(width, width), nn.Linear(channels, width)
        self.l_o = nn.Linear(width, VOCAB)

    def forward(self, image: torch.Tensor, words: torch.Tensor):
        mean = image.mean(dim=1)
        h, c = torch.tanh(self.init_h(mean)), torch.tanh(self.init_c(mean))
        scores, looked = [], []
        for t in range(words.shape[1]):
            y = self.embed(words[:, t])
            e = self.energy(torch.tanh(self.of_image(image) + self.of_state(h)[:, None]))
            alpha = torch.softmax(e[..., 0], dim=1)
            z = torch.sigmoid(self.beta(h)) * (alpha[:, :, None] * image).sum(dim=1)
            h, c = self.cell(torch.cat([y, z], dim=1), (h, c))
            scores.append(self.l_o(torch.tanh(y + self.l_h(h) + self.l_z(z))))
            looked.append(alpha)
        return torch.stack(scores, dim=1), torch.stack(looked, dim=1)


def gates(kind: str, theirs: str, part: str) -> list[Rule]:
    """torch keeps the gates side by side: input, forget, cell, output."""
    paths = tuple(f"step/lstm/{kind}{gate}/{part}" for gate in "ifgo")
    form = reshaped((-1,), (-1,)) if part == "bias" else dense("", "")[0].form
    return [Rule(paths, f"cell.{theirs}", form)]


LAYERS = {"first_cell": "init_c", "first_hidden": "init_h", "keys": "of_image"}
LAYERS |= {"step/query": "of_state", "step/score": "energy", "step/gate": "beta"}
LAYERS |= {"deep_hidden": "l_h", "deep_context": "l_z", "logits": "l_o"}


@pytest.mark.parametrize(("channels", "width", "attention"), [(5, 8, 4), (7, 3, 9)])
def test_show_attend_and_tell(channels, width, attention):
    table = [rule for ours, theirs in LAYERS.items() for rule in dense(ours, theirs)]
    table += [Rule("token/embedding", "embed.weight")]
    table += gates("i", "weight_ih", "kernel") + gates("h", "weight_hh", "kernel")
    table += gates("h", "bias_hh", "bias")
    oracle = SoftAttention(channels, width, attention)
    del oracle.cell.bias_ih  # torch adds two biases, of which one is enough
    oracle.cell.bias_ih = torch.zeros(4 * width)
    image = parity.pixels(2, 9, channels)
    words = parity.tokens(2, LENGTH, VOCAB)
    memory = Features(jnp.asarray(image), jnp.ones((2, 9), bool))
    network = AttendingLstm(vocab=VOCAB, width=width, attention_width=attention)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.asarray(words), memory)
    targets, real = parity.tokens(2, LENGTH, VOCAB, seed=1), jnp.ones((2, LENGTH), bool)

    def ours(params):
        given = (jnp.asarray(words), memory)
        logits, _, looked = network.apply({"params": params}, *given, method="look")
        loss = masked_cross_entropy(logits, jnp.asarray(targets), real)
        return jnp.mean(loss + doubly_stochastic(looked, real)), logits

    def theirs(model):
        logits, looked = model(torch.from_numpy(image), torch.from_numpy(words))
        missed = ((1 - looked.sum(dim=1)) ** 2).sum(dim=1) / LENGTH  # eq. 14, a word
        return next_words(logits, targets) + missed.mean(), logits

    bound = partial(network.apply, {"params": compare(oracle, table, shapes, ours, theirs)})
    start = partial(network.apply, {}, method="init_cache")
    given = (jnp.asarray(FIRST), jnp.ones(FIRST.shape, bool), memory, LIKELIEST)
    written = jax.jit(lambda: decode.generate(bound, start, *given).tokens)()
    compare_texts(written, lambda words: oracle(torch.from_numpy(image), words)[0])


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=bias) for _ in range(4))

    def forward(self, x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor | None = None):
        split = lambda z: z.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.q(x)), split(self.k(y)), split(self.v(y))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Pre-norm: attention to itself, in a decoder to the image, then an MLP with the tanh GELU."""

    def __init__(self, width: int, heads: int, hidden: int, writes: bool):
        super().__init__()
        norm = lambda: nn.LayerNorm(width, eps=1e-6, bias=not writes)
        self.norm1, self.own = norm(), Attention(width, heads, bias=not writes)
        if writes:
            self.norm2, self.image = norm(), Attention(width, heads, bias=False)
        self.norm3 = norm()
        self.up, self.down = (
            nn.Linear(*sizes, bias=not writes) for sizes in ((width, hidden), (hidden, width))
        )

    def forward(self, x, image=None, mask=None):
        y = self.norm1(x)
        x = x + self.own(y, y, mask)
        if image is not None:
            x = x + self.image(self.norm2(x), image)
        return x + self.down(nn.functional.gelu(self.up(self.norm3(x)), approximate="tanh"))


class Cappa(nn.Module):
    """arXiv:2306.07915, section 3: a ViT without a class token, and a decoder that reads a caption
    from left to right or, where it is to be guessed at once, mask tokens in both directions.
    """

    def __init__(self, size: dict, vision: dict, depth: int, extra: int):
        super().__init__()
        width, heads, hidden = size["width"], size["heads"], size["mlp_width"]
        self.patch = nn.Conv2d(3, width, vision["patch"], stride=vision["patch"])
        count = (vision["image_size"] // vision["patch"]) ** 2
        self.place = nn.Parameter(torch.zeros(count, width))
        blocks = lambda number, writes: nn.ModuleList(
            Block(width, heads, hidden, writes) for _ in range(number)
        )
        self.encoder, self.decoder = blocks(vision["layers"], False), blocks(depth, True)
        self.encoder_norm, self.norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.embed = nn.Embedding(VOCAB, width)
        self.unknown = nn.Parameter(torch.zeros(1, width)) if extra else torch.zeros(0, width)
        self.at = nn.Parameter(torch.zeros(64, width))
        self.logits = nn.Linear(width, VOCAB)

    def forward(self, image: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        seen = self.patch(image).flatten(2).transpose(1, 2) + self.place
        for block in self.encoder:
            seen = block(seen)
        seen = self.encoder_norm(seen)
        length = words.shape[1]
        before = torch.ones(length, length).tril().bool()
        guessed = (words == VOCAB).all(dim=1)
        mask = (before | guessed[:, None, None])[:, None]
        x = torch.cat([self.embed.weight, self.unknown])[words] + self.at[:length]
        for block in self.decoder:
            x = block(x, seen, mask)
        return self.logits(self.norm(x))


def cappa_rules(patch: int) -> Rules:
    names, table = ("q", "k", "v", "o"), []
    for ours, theirs, bias in (("vision", "encoder", True), ("decoder", "decoder", False)):
        layers, block = f"{ours}/transformer/layers", f"{theirs}.{{}}"
        table += [
            *norm(f"{layers}/self_norm", f"{block}.norm1", bias),
            *attention(f"{layers}/self_attention", f"{block}.own", names, bias),
            *norm(f"{layers}/mlp_norm", f"{block}.norm3", bias),
            *dense(f"{layers}/mlp/up", f"{block}.up", bias),
            *dense(f"{layers}/mlp/down", f"{block}.down", bias),
        ]
    layers, block = "decoder/transformer/layers", "decoder.{}"
    return [
        *table,
        *norm(f"{layers}/cross_norm", f"{block}.norm2", bias=False),
        *attention(f"{layers}/cross_attention", f"{block}.image", names, bias=False),
        *dense("vision/patch_embedding", "patch", form=patches(patch)),
        Rule("vision/position", "place"),
        *norm("vision/transformer/final_norm", "encoder_norm"),
        Rule("decoder/embed/token/embedding", "embed.weight"),
        Rule("decoder/embed/extra_token/embedding", "unknown"),
        Rule("decoder/embed/position", "at"),
        *norm("decoder/transformer/final_norm", "norm"),
        *dense("decoder/logits", "logits"),
    ]


@pytest.mark.parametrize("arg", ["smoke", "smoke,parallel"])
def test_cap_and_cappa(arg):
    config = cappa.get_config(arg).model.to_dict()
    size = dict(width=12, heads=3, mlp_width=20)
    vision, depth = dict(patch=6, image_size=18, layers=2), 3
    config["vision"] |= size | vision
    config["decoder"] |= size | dict(vocab=VOCAB, layers=depth)
    network = models.build(config)
    words = parity.tokens(2, LENGTH, VOCAB)
    if "parallel" in arg:
        words[1] = VOCAB  # all of this caption is to be guessed
    real = jnp.ones((2, LENGTH), bool)
    read = dict(tokens=jnp.asarray(words), tokens_mask=real, prefix=jnp.zeros(2, jnp.int32))
    example = dict(image=jnp.zeros((1, 18, 18, 3), jnp.uint8))
    example |= dict(words={name: array[:1] for name, array in read.items()})
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), example, {"words": "generate"}))
    image = parity.pixels(2, 3, 18, 18)
    targets = parity.tokens(2, LENGTH, VOCAB, seed=1)

    def ours(params):
        apply = lambda *given, method: network.apply({"params": params}, *given, method=method)
        visual = apply(jnp.moveaxis(jnp.asarray(image), 1, 3), method="encode_image")
        logits = apply(visual, read, method="generate")["logits"]
        return jnp.mean(masked_cross_entropy(logits, jnp.asarray(targets), real)), logits

    def theirs(model):
        logits = model(torch.from_numpy(image), torch.from_numpy(words))
        return next_words(logits, targets), logits

    oracle = Cappa(size, vision, depth, extra=int("parallel" in arg))
    params = compare(oracle, cappa_rules(6), shapes, ours, theirs)
    apply = partial(network.apply, {"params": params})

    def write():
        visual = apply(jnp.moveaxis(jnp.asarray(image), 1, 3), method="encode_image")
        read, start = (partial(apply, method=name) for name in ("decode", "init_cache"))
        given = (jnp.asarray(FIRST), jnp.ones(FIRST.shape, bool), visual, LIKELIEST)
        return decode.generate(read, start, *given).tokens

    compare_texts(jax.jit(write)(), lambda words: oracle(torch.from_numpy(image), words))


class Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("case", ["pooled at equal width", "no pooler"])
def test_coca_with_the_paper_s_decoder(case, tmp_path):
    """arXiv:2205.01917, section 3.2: a multimodal layer attends to the text, then to the image, and
    ends in one MLP. open_clip's layers have a second one, which is taken out.
    """
    base = test_coca.CASES[case]
    model = clip.CoCa(**{name: x for name, x in base.items() if name != "custom_text"})
    for block in model.text_decoder.resblocks:
        block.mlp, block.ln_2 = Nothing(), nn.Identity()
    config = dict(
        model_cfg=base | dict(multimodal_cfg=base["multimodal_cfg"] | dict(decoder_parts="paper"))
    )
    names = ("logits", "image_embeds", "text_embeds")
    given = (config, test_coca.inputs_of(base), tmp_path, test_coca.outputs, names)
    loaded = oracles.check(parity.randomise(model), *given, files=open_clip.FILES)
    image = given[1]["image"][: len(FIRST)]
    flags = dict(max_new_tokens=LENGTH, bos_token_id=1, eos_token_id=49)
    found = loaded.call("generate", dict(image=image), flags)["tokens"]
    ask = lambda words: model(torch.from_numpy(image), words, output_labels=False)["logits"]
    compare_texts(found[:, 1:], ask, np.ones_like(FIRST))
