"""GGUF files (github.com/ggml-org/ggml, docs/gguf.md) of Llama-type language models, dequantised,
as a checkpoint folder's config.json, tensors and tokenizer. Needs the package `gguf`.

Such files hold query and key matrices with their rows reordered for rotary positions that turn
neighbouring channels; ours, like the published ones, turn channel i with channel i + K / 2.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import write_tensors
from vlm_jax.workdir import atomic_write_text

INSTALL = "reading GGUF files needs the package gguf; run: pip install gguf"

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""A tensor's name there, without the number of its layer, and in a Llama folder."""

DIGITS = {"type": "Digits", "individual_digits": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PRE_TOKENIZERS: Mapping[str, dict[str, Any]] = {
    "gpt-2": BYTES,
    "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]},
}
"""How texts are split before merging, by tokenizer.ggml.pre."""

CONTROL = 3
"""The token type of those that no text is ever read as."""


def convert(path: str | Path, folder: Path) -> None:
    """Write the file's network and tokenizer into an existing folder that `read_folder` reads.

    WeightsError without the package, for a damaged file, another architecture or another tokenizer.
    """
    reader = _reader(path)
    fields = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    names = {tensor.name for tensor in reader.tensors}
    write = lambda file, content: atomic_write_text(
        folder / file, json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    )
    try:
        config = config_of(fields, tied="output.weight" not in names)
        write("config.json", config)
        write("tokenizer.json", tokenizer_of(fields))
        roles, ids = special_tokens(fields)
        write("tokenizer_config.json", roles)
        write("generation_config.json", ids)
    except KeyError as error:
        raise WeightsError(f"{path} lacks the field {error}, which this conversion needs") from None
    write_tensors(tensors_of(reader, config), folder)


def _reader(path: str | Path) -> Any:
    try:
        import gguf  # late: an optional package
    except ImportError:
        raise WeightsError(INSTALL) from None
    try:
        return gguf.GGUFReader(path)
    except (ValueError, OSError, IndexError) as error:
        raise WeightsError(f"{path} is no readable GGUF file: {error}") from None


def config_of(fields: Mapping[str, Any], tied: bool) -> dict[str, Any]:
    """The fields as the config.json of a Llama folder. tied: there is no output matrix.

    WeightsError for another architecture, KeyError for a missing field.
    """
    kind = fields["general.architecture"]
    if kind != "llama":
        raise WeightsError(f"general.architecture={kind!r} is not supported, only 'llama' is")
    heads = fields["llama.attention.head_count"]
    width = fields["llama.embedding_length"]
    return dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        vocab_size=fields.get("llama.vocab_size", len(fields["tokenizer.ggml.tokens"])),
        hidden_size=width,
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=fields.get("llama.attention.head_count_kv", heads),
        head_dim=fields.get("llama.rope.dimension_count", width // heads),
        hidden_act="silu",
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        rope_theta=float(fields.get("llama.rope.freq_base", 10_000.0)),
        tie_word_embeddings=tied,
    )


def tensors_of(reader: Any, config: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(published name, f32 array) of every tensor. WeightsError for one of an unknown name."""
    from gguf import quants  # late: an optional package

    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    for tensor in reader.tensors:
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", tensor.name)
        if tensor.name == "rope_freqs.weight" or not match or match[2] not in NAMES:
            raise WeightsError(f"tensor {tensor.name} has no place in a Llama network")
        array = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if match[2] in heads:
            array = half_split(array, config[heads[match[2]]])
        layer = "" if match[1] is None else f"model.layers.{match[1]}."
        yield f"{layer}{NAMES[match[2]]}.weight", array


def half_split(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows [N * K, D] of queries or keys in which channels 2 i and 2 i + 1 turn together, ordered
    so that i and i + K / 2 do.
    """
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def tokenizer_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The definition (tokenizer.json) of the file's byte-level BPE. WeightsError for another kind,
    KeyError for a missing field.
    """
    kind, split = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or split not in PRE_TOKENIZERS:
        raise WeightsError(
            f"tokenizer.ggml.model={kind!r} with pre={split!r} is not supported, only 'gpt2' with "
            f"{', '.join(PRE_TOKENIZERS)} is"
        )
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    added = [
        dict(id=i, content=token) | plain for i, token in enumerate(tokens) if kinds[i] == CONTROL
    ]
    model = dict(type="BPE", vocab={token: i for i, token in enumerate(tokens)})
    model |= dict(merges=fields["tokenizer.ggml.merges"])
    return dict(
        version="1.0",
        added_tokens=added,
        pre_tokenizer=PRE_TOKENIZERS[split],
        decoder=BYTES,
        model=model,
    )


def special_tokens(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """(tokenizer_config.json: tokens by role and the chat template; generation_config.json: their
    ids).
    """
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    keys = {ours: f"tokenizer.ggml.{theirs}_token_id" for ours, theirs in roles.items()}
    ids = {f"{role}_token_id": fields[key] for role, key in keys.items() if key in fields}
    tokens = fields["tokenizer.ggml.tokens"]
    named = {key.removesuffix("_id"): tokens[index] for key, index in ids.items()}
    if "tokenizer.chat_template" in fields:
        named["chat_template"] = fields["tokenizer.chat_template"]
    return named, {key: ids[key] for key in ids if key != "unk_token_id"}
