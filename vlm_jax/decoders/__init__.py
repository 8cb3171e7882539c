"""What writes text: `(tokens, memory, cache=None, *, mask, prefix, after, train) -> (logits
f32[B, T, V], cache)`.

tokens i32[B, T]; memory: Features of the image (and of whatever else was fused with it). mask
bool[B, T]: which tokens are real; prompts may be padded on either side, and the logits of padding
mean nothing. prefix i32[B]: how many of the first real tokens are prompt. after i32[B]: the one
token of each row whose logits are wanted, f32[B, 1, V]; those of every token of a prompt would be
the most that decoding with a large vocabulary holds.

Without a cache all T tokens are read at once (teacher forcing). With one, made by
`init_cache(memory, length, extra)` for at most `length` tokens, they are appended to what it holds:
memory and prefix are passed with the prompt, on the first call, and never again. extra: how many
slots more several continuations of an example need than one; a cache that grew K of them (see
decode.hypotheses) takes a token of each.
"""

from vlm_jax.decoders.attending_lstm import AttendingLstm
from vlm_jax.decoders.causal_lm import CausalLM
from vlm_jax.decoders.coca import CoCaDecoder
from vlm_jax.decoders.lstm_merge import LstmMerge

DECODERS = {
    "lstm_merge": LstmMerge,
    "attending_lstm": AttendingLstm,
    "causal_lm": CausalLM,
    "coca": CoCaDecoder,
}
