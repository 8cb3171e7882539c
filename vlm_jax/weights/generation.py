"""The reference's options for writing texts, as a `decode.Search`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_jax import decode

SEARCH_FLAGS = {
    "num_beams": "beams",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "pad_token_id": "pad",
}
"""The reference's flags and what `decode.Search` calls them."""

LENGTH_FLAGS = ("max_new_tokens", "max_length", "min_new_tokens", "min_length")
"""max_length and min_length count the prompt, and give way to the others."""

SET_FLAGS = (
    *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
    *("forced_bos_token_id", "forced_eos_token_id", "num_return_sequences"),
)
"""Flags that become something else of a `Search`."""

UNSEEN = dict.fromkeys(
    ("use_cache", "interpolate_pos_encoding", "output_attentions", "output_hidden_states")
)
"""Flags of any call that change nothing that is compared, whatever their values."""

PASSIVE_FLAGS: dict[str, tuple | None] = UNSEEN | {
    "do_sample": (False,),
    "return_dict_in_generate": None,
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False,),
    "guidance_scale": (1.0,),
    "sequence_bias": ({},),
    "exponential_decay_length_penalty": (),
    "stop_strings": ([],),
    "watermarking_config": (),
    "max_time": (),
    "output_scores": None,
    "output_logits": None,
}
"""Flags that change nothing, and the values for which that is so (None: any)."""

DRAWING_FLAGS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "top_h")
DRAWING_FLAGS += ("epsilon_cutoff", "eta_cutoff")
"""Flags that only texts drawn at random obey."""

TOKEN_FLAGS = ("eos_token_id", "bos_token_id", "decoder_start_token_id", "sep_token_id")

DEFAULT_LENGTH = 20
"""Tokens to write where nothing says how many."""


def folder_flags(generation: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder itself says about searching, in its generation_config.json or, without one, in
    its config.json, as in the folders of old.
    """
    given = generation or config
    names = (*SEARCH_FLAGS, *LENGTH_FLAGS, *SET_FLAGS, *PASSIVE_FLAGS, *DRAWING_FLAGS)
    return {name: given[name] for name in names if given.get(name) is not None}


def first_token(flags: Mapping) -> int:
    """The token that a text starts with where the caller gives none. ValueError if unknown."""
    for name in ("decoder_start_token_id", "bos_token_id"):
        if flags.get(name) is not None:
            return int(flags[name])
    raise ValueError("generate needs input_ids, or the flag bos_token_id")


def search_of(flags: Mapping, prompt: int = 1, room: int | None = None) -> decode.Search:
    """`decode.Search` of the reference's flags. prompt: tokens of the prompt, padding included.
    room: most tokens that fit after it, where no flag says how many to write.

    ValueError for a flag that is not known here, or a value that is not supported.
    """
    _check(flags)
    told = {name: value for name, value in flags.items() if value is not None}
    ends = tuple(np.atleast_1d(told.get("eos_token_id", [])).astype(int).tolist())
    options: dict[str, Any] = {
        ours: told[name] for name, ours in SEARCH_FLAGS.items() if name in told
    }
    options.setdefault("pad", ends[0] if ends else 0)
    options |= _lengths(told, prompt, room)
    options |= _banned(told, ends)
    if "forced_bos_token_id" in told and prompt == 1:
        options["forced"] = (int(told["forced_bos_token_id"]),)
    if "forced_eos_token_id" in told:
        forced = np.atleast_1d(told["forced_eos_token_id"]).astype(int).tolist()
        if set(forced) != set(ends):
            raise ValueError(
                f"generate: forced_eos_token_id={forced} is not supported, only {list(ends)}, "
                "the eos_token_id, is"
            )
        options["force_eos"] = True
    if told.get("num_return_sequences", 1) != 1:
        options["n_best"] = int(told["num_return_sequences"])
    return decode.Search(**options, eos=ends)


def _check(flags: Mapping) -> None:
    known = {*SEARCH_FLAGS, *LENGTH_FLAGS, *SET_FLAGS, *PASSIVE_FLAGS, *DRAWING_FLAGS, *TOKEN_FLAGS}
    # One best token leaves nothing to chance.
    certain = flags.get("top_k") == 1 and (flags.get("num_beams") or 1) == 1
    for name, value in flags.items():
        if name not in known:
            raise ValueError(f"generate: unknown flag {name!r}; known: {', '.join(sorted(known))}")
        if name == "do_sample" and certain:
            continue
        allowed = PASSIVE_FLAGS.get(name)
        if value is not None and allowed is not None and value not in allowed:
            raise ValueError(f"generate: {name}={value!r} is not supported")


def _lengths(told: Mapping, prompt: int, room: int | None) -> dict[str, int]:
    """Most and fewest tokens to write. ValueError if the prompt is as long as max_length."""
    most = DEFAULT_LENGTH if room is None else min(DEFAULT_LENGTH, room)
    if "max_new_tokens" in told:
        most = int(told["max_new_tokens"])
    elif "max_length" in told:
        most = int(told["max_length"]) - prompt
        if most < 1:
            raise ValueError(
                f"generate: max_length={told['max_length']} counts the prompt, which has {prompt} "
                "tokens: raise it"
            )
    fewest = max(int(told.get("min_length", 0)) - prompt, 0)
    fewest = int(told.get("min_new_tokens", fewest))
    return dict(max_length=most, min_length=min(fewest, most))


def _banned(told: Mapping, ends: tuple[int, ...]) -> dict[str, tuple]:
    """Tokens never to write, not to begin with, or not after others, as far as there are any."""
    flat = lambda name: tuple(sorted(set(np.atleast_1d(told.get(name, [])).astype(int).tolist())))
    words = {tuple(map(int, word)) for word in told.get("bad_words_ids", [])}
    # As in the reference, where an end by itself is no bad word.
    words -= {(end,) for end in ends}
    found = dict(banned=flat("suppress_tokens"), banned_first=flat("begin_suppress_tokens"))
    found |= dict(banned_words=tuple(sorted(words)))
    return {name: tokens for name, tokens in found.items() if tokens}
