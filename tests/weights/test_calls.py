"""Padding on either side: the reference's forward pass with a mask and no positions, in a table.

Where padding counts as positions (GPT-2, BLIP, GIT) and where it does not (OPT) is the reference's
own choice; where positions are relative, both come to the same.
"""

import numpy as np
import pytest
import torch
import transformers

from tests.weights import parity
from vlm_jax.weights.families.gemma3 import GEMMA3
from vlm_jax.weights.families.gpt2 import GPT2
from vlm_jax.weights.families.paligemma import PALIGEMMA
from vlm_jax.weights.pretrained import read_folder

MASK = np.array(
    [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 0, 0]]
)
"""Padding on the left, on the right, and on both sides."""

ENDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
SMALL = dict(vocab_size=50, hidden_size=12, num_attention_heads=3, num_hidden_layers=2) | ENDS
LLAMA = SMALL | dict(intermediate_size=20, num_key_value_heads=1, max_position_embeddings=32)
BERT = SMALL | dict(intermediate_size=20, max_position_embeddings=16)
WINDOWED = dict(sliding_window=3, layer_types=["sliding_attention", "full_attention"])
EYE = dict(hidden_size=12, num_attention_heads=2, intermediate_size=16, num_hidden_layers=1)
EYE |= dict(image_size=16, patch_size=8)
GIT = BERT | dict(vision_config=EYE)
BLIP = dict(vision_config=EYE, text_config=BERT | dict(sep_token_id=5))
T5 = dict(vocab_size=50, d_model=12, d_kv=4, d_ff=16, num_layers=2, num_heads=3) | ENDS
CASES = {
    "GPT2LMHeadModel": dict(n_embd=12, n_layer=2, n_head=3, vocab_size=50, n_positions=16) | ENDS,
    "OPTForCausalLM": BERT | dict(ffn_dim=20, word_embed_proj_dim=12),
    "LlamaForCausalLM": LLAMA,
    "Gemma2ForCausalLM": LLAMA | dict(head_dim=6) | WINDOWED,
    "Qwen2ForCausalLM": LLAMA | WINDOWED | dict(use_sliding_window=True),
    "GitForCausalLM": GIT,
    "BlipForConditionalGeneration": BLIP,
    "BlipForQuestionAnswering": BLIP,
    "T5ForConditionalGeneration": T5 | dict(feed_forward_proj="gated-gelu"),
}


def build(name: str, fields: dict) -> torch.nn.Module:
    kind = getattr(transformers, name)
    return parity.randomise(kind(kind.config_class(**fields)))


def inputs_of(name: str) -> dict[str, np.ndarray]:
    """Text, what sees it, and a picture where the class wants one."""
    ids = parity.tokens(3, MASK.shape[1], 50)
    inputs = dict(input_ids=ids, attention_mask=MASK)
    if name.startswith(("Blip", "Git")):
        inputs |= dict(pixel_values=parity.pixels(3, 3, 16, 16))
    if name.startswith(("BlipForQ", "T5")):
        answers = dict(decoder_input_ids=ids[:, ::-1].copy(), decoder_attention_mask=MASK)
        inputs |= answers
    return inputs


@pytest.mark.parametrize("name", CASES)
def test_padding_on_either_side(name, tmp_path):
    model, inputs = build(name, CASES[name]), inputs_of(name)
    if name.startswith("BlipForQ"):  # the reference's forward starts the decoder by itself
        expected = answered(model, inputs)
    else:
        expected = parity.outputs(model, inputs, lambda m, given: m(**given), ("logits",))["logits"]
    model.save_pretrained(tmp_path)
    found = parity.run(read_folder(tmp_path), "forward", inputs)["logits"]
    where = dict(logits=MASK)
    expected = expected[:, -MASK.shape[1] :]
    parity.compare(dict(logits=found), dict(logits=expected), 1e-5, where)


def answered(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Logits of the decoder of BLIP's VQA, given its answers as they are."""
    given = parity.tensors_of(inputs)
    with torch.no_grad():
        seen = model.vision_model(given["pixel_values"])[0]
        asked = model.text_encoder(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            encoder_hidden_states=seen,
        )[0]
        return model.text_decoder(
            input_ids=given["decoder_input_ids"],
            attention_mask=given["decoder_attention_mask"],
            encoder_hidden_states=asked,
        ).logits.numpy()


def test_values_that_a_call_would_not_obey_are_refused():
    ids, types = np.array([[9, 9, 4, 5, 6]]), np.array([[1, 1, 0, 0, 0]])
    config = dict(image_token_index=9)
    GEMMA3.agree(config, dict(input_ids=ids, token_type_ids=types))
    for wrong in (0 * types, 1 - types):
        with pytest.raises(ValueError, match="token_type_ids other than 1 at the image tokens, 9"):
            GEMMA3.agree(config, dict(input_ids=ids, token_type_ids=wrong))
    mask = np.array([[0, 1, 1, 1, 1]])
    for right in ([[0, 0, 1, 1, 1]], [[1, 0, 0, 0, 1]], [[0, 0, 0, 0, 0]]):
        PALIGEMMA.agree({}, dict(token_type_ids=np.array(right), attention_mask=mask))
    for wrong in ([[0, 1, 0, 1, 1]], [[0, 1, 1, 1, 0]]):
        with pytest.raises(ValueError, match="a prompt, 0, after what is written, 1"):
            PALIGEMMA.agree({}, dict(token_type_ids=np.array(wrong), attention_mask=mask))
    words = dict(input_ids=ids, token_type_ids=0 * ids)
    with pytest.raises(ValueError, match="token_type_ids, which are words to the reference"):
        GPT2.calls["forward"](None, words, {})


def test_positions_may_be_given(tmp_path):
    """Those of GPT-2 and, behind its image, of GIT."""
    for name in ("GPT2LMHeadModel", "GitForCausalLM"):
        model = build(name, CASES[name])
        model.save_pretrained(tmp_path / name)
        places = np.broadcast_to(np.arange(9)[::-1] + 2, (3, 9)).copy()
        inputs = inputs_of(name) | dict(attention_mask=np.ones((3, 9), int), position_ids=places)
        expected = parity.outputs(model, inputs, lambda m, given: m(**given), ("logits",))
        found = read_folder(tmp_path / name).call("forward", inputs)
        parity.compare(found, {"logits": expected["logits"][:, -9:]}, 1e-5)
