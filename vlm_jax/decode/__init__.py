"""Writing text with anything that can be asked for the next token: greedy, drawn, or with beams.

Nothing here knows a model. `generate` reads the prompts with a decoder and searches on; the
searches themselves start from the logits f32[B, V] of the first token and a cache, and then call
`step(tokens i32[B, K], cache) -> (logits f32[B, K, V], cache)` for K hypotheses about each example.
Everything is traced, so a caller jits encoder, prompt and search together, and the device is never
asked whether it is done: the loop ends by itself once every row is.
"""

from vlm_jax.decode.beams import beam_search
from vlm_jax.decode.buckets import Programs, Writer, pack, round_up
from vlm_jax.decode.continued import draft, read_on, write_on
from vlm_jax.decode.flow import integrate, noise
from vlm_jax.decode.generate import generate
from vlm_jax.decode.guidance import guided
from vlm_jax.decode.hypotheses import Step, branch, follow
from vlm_jax.decode.masked import unmask
from vlm_jax.decode.rerank import rerank
from vlm_jax.decode.sampling import write
from vlm_jax.decode.search import Generated, Request, Search, example_keys, make_request
from vlm_jax.decode.trie import Trie, make_trie

__all__ = [
    "Generated",
    "Programs",
    "Request",
    "Search",
    "Step",
    "Trie",
    "Writer",
    "beam_search",
    "branch",
    "draft",
    "example_keys",
    "follow",
    "generate",
    "guided",
    "integrate",
    "make_request",
    "make_trie",
    "noise",
    "pack",
    "read_on",
    "rerank",
    "round_up",
    "unmask",
    "write",
    "write_on",
]
