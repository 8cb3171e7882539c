import json
import sys

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.weights import parity
from vlm_jax.tokenizers.published import read_tokenizer
from vlm_jax.weights import gguf as ours
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import read_folder

SIZES = dict(vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16)
KINDS = gguf.GGMLQuantizationType
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def model(tied=True):
    """A Llama of which every parameter is random."""
    options = dict(max_position_embeddings=64, rope_theta=5000.0, rms_norm_eps=2e-5)
    config = LlamaConfig(**SIZES, **HEADS, **options, tie_word_embeddings=tied)
    return parity.randomise(LlamaForCausalLM(config))


def bpe():
    """A small byte-level BPE that reads digits one by one."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers
    made.pre_tokenizer = split.Sequence(
        [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=split.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["a cat sat on the mat, the cat ate 12 rats"] * 3, trainer)
    return made


def interleaved(rows, heads):
    """How the format orders rows of queries and keys: first halves and second halves by turns."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def theirs(name):
    """A tensor's name in a Llama folder as the format calls it."""
    known = {value: key for key, value in ours.NAMES.items()}
    parts = name.removesuffix(".weight")
    if not parts.startswith("model.layers."):
        return f"{known[parts]}.weight"
    _, _, layer, rest = parts.split(".", 3)
    return f"blk.{layer}.{known[rest]}.weight"


def write(path, network, kinds=None, tokenizer=None, **changes):
    """The network as a GGUF file. kinds: how matrices are quantised, by the end of their names."""
    writer = gguf.GGUFWriter(path, changes.pop("architecture", "llama"))
    config, tokenizer = network.config, tokenizer or bpe()
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    definition = json.loads(tokenizer.to_str())
    tokens = [None] * config.vocab_size
    for token, index in tokenizer.get_vocab(with_added_tokens=True).items():
        tokens[index] = token
    tokens = [token if token is not None else f"[unused{i}]" for i, token in enumerate(tokens)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(changes.pop("pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in definition["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages }}")
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        called, array = theirs(name), tensor.numpy()
        part = called.split(".")[-2]
        array = interleaved(array, heads[part]) if part in heads else array
        kind = (kinds or {}).get(part, KINDS.F32)
        stored = gguf.quants.quantize(array, kind)
        writer.add_tensor(changes.get("rename", {}).get(called, called), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_the_network_computes_what_the_reference_does(tied, tmp_path):
    network = model(tied)
    ours.convert(write(tmp_path / "x.gguf", network), tmp_path)
    inputs = dict(input_ids=parity.tokens(2, 9, 300))
    expected = parity.outputs(network, inputs, lambda m, given: m(**given), ("logits",))
    parity.compare(parity.run(read_folder(tmp_path), "forward", inputs), expected, 1e-5)


def test_quantised_matrices_are_what_the_package_makes_of_them(tmp_path):
    network = model()
    kinds = {"attn_q": KINDS.Q4_1, "ffn_down": KINDS.Q8_0, "token_embd": KINDS.Q8_0}
    ours.convert(write(tmp_path / "x.gguf", network, kinds), tmp_path)
    params = read_folder(tmp_path).variables["params"]["decoder"]
    again = lambda x, kind: gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind)
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    words = again(state["model.embed_tokens.weight"], KINDS.Q8_0)
    np.testing.assert_array_equal(params["embed"]["token"]["embedding"], words)
    layers = params["transformer"]["layers"]
    query = state["model.layers.1.self_attn.q_proj.weight"]
    kernel = np.asarray(layers["self_attention"]["query"]["kernel"][1])
    turned = again(interleaved(query, 4), KINDS.Q4_1)
    np.testing.assert_array_equal(kernel.T, ours.half_split(turned, 4))
    assert 0 < np.abs(kernel.T - query).max() < 0.1 * np.abs(query).max()
    down = state["model.layers.0.mlp.down_proj.weight"]
    np.testing.assert_array_equal(
        np.asarray(layers["mlp"]["down"]["kernel"][0]).T, again(down, KINDS.Q8_0)
    )


def test_half_split_undoes_the_format():
    rows = np.arange(4 * 16 * 3).reshape(64, 3)
    np.testing.assert_array_equal(ours.half_split(interleaved(rows, 4), 4), rows)
    assert not np.array_equal(ours.half_split(interleaved(rows, 4), 2), rows)


def test_the_tokenizer_reads_and_writes_as_before(tmp_path):
    tokenizer = bpe()
    ours.convert(write(tmp_path / "x.gguf", model(), tokenizer=tokenizer), tmp_path)
    read = read_tokenizer(tmp_path)
    for text in ("the cat, 1234 rats", "naïve 猫 \n\n  x", "<|im_end|> is text"):
        expected = tokenizer.encode(text).ids if "<" not in text else None
        assert expected is None or read.encode(text) == expected
        assert read.decode(read.encode(text)) == text
    assert (read.bos, read.eos, read.pad, read.size) == (1, 2, 2, 300)
    template = json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]
    assert template == "{{ messages }}"
    ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(architecture="gemma"), "general.architecture='gemma'"),
        (dict(pre="llama-bpe"), "pre='llama-bpe'"),
        (dict(rename={"blk.0.attn_q.weight": "blk.0.attn_qkv.weight"}), "attn_qkv"),
    ],
)
def test_what_is_not_supported_is_named(changes, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        ours.convert(write(tmp_path / "x.gguf", model(), **changes), tmp_path)


def test_files_that_are_none(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUX" + bytes(60))
    with pytest.raises(WeightsError, match="x.gguf is no readable GGUF file"):
        ours.convert(tmp_path / "x.gguf", tmp_path)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(WeightsError, match="pip install gguf"):
        ours.convert(tmp_path / "x.gguf", tmp_path)


def test_interleaving_matters():
    """The wrong order is another network, so that the parity above can fail."""
    rows = torch.randn(64, 8).numpy()
    assert np.abs(interleaved(rows, 4) - rows).max() > 1
