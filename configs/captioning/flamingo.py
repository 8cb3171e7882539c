"""Flamingo, as IDEFICS-9B rebuilt it, on captions (arXiv:2204.14198, 2306.16527).

    python launch.py --config=configs/captioning/flamingo.py:folder=PATH --workdir=runs/flamingo

PATH: a published folder such as HuggingFaceM4/idefics-9b. 8,929,679,632 parameters: CLIP H/14, a
perceiver resampler to 64 tokens, and Llama 7B with gated cross-attention before every fourth layer.
Only resampler and gated layers are trained. The recipe is OpenFlamingo's: learning rate 1e-4,
constant after 1,875 steps of warmup (rate and shape from memory), 64 captioned pictures per GPU,
whose loss counts 0.2 beside that of interleaved pages. The paper's 80B model reports COCO CIDEr
84.3 with no example, 103 with four, 113.8 (from memory) with 32; OpenFlamingo-9B 89.0 with four.
What differs: one picture and its caption at a time, no interleaved pages, so no number with
examples is expected.
"""

from ml_collections import ConfigDict

from configs import common
from vlm_jax.tokenizers.published import read_tokenizer

TINY = dict(num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
LOCKED = ["vision", "decoder/embed", "decoder/logits", "decoder/transformer/final_norm"]
LOCKED += ["decoder/.*/(self|mlp)[^/]*"]


def get_config(arg=None):
    """Arguments: folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 512
    config.total_epochs = 10
    vision = dict(embed_dim=1280, image_size=224, patch_size=14, num_hidden_layers=32)
    vision |= dict(num_attention_heads=16, intermediate_size=5120)
    text = dict(vocab_size=32_000, hidden_size=4096, num_hidden_layers=32)
    text |= dict(num_attention_heads=32, intermediate_size=11_008, additional_vocab_size=2)
    resampler = dict(resampler_n_latents=64, resampler_depth=6, resampler_n_heads=16)
    resampler |= dict(resampler_head_dim=96)
    every, frame = 4, "{<fake_token_around_image>}"
    before = "{bos}" + frame + "{<image>}" + frame
    if arg.smoke:
        vision = TINY | dict(embed_dim=32, image_size=32, patch_size=8)
        text = TINY | dict(vocab_size=512, hidden_size=32, max_position_embeddings=128)
        resampler = dict(resampler_n_latents=4, resampler_depth=2, resampler_n_heads=2)
        resampler |= dict(resampler_head_dim=8)
        every, before = 2, "{bos}"
    perceiver = resampler | dict(qk_layer_norms_perceiver=True)
    described = text | dict(vision_config=vision, perceiver_config=perceiver)
    described |= dict(use_resampler=True, qk_layer_norms=True, cross_layer_interval=every)
    config.model = common.published("idefics", described) | common.CLIP_STATISTICS
    config.tasks = dict(captioning=dict(length=40, template=before))
    config.data = dict(train=common.coco("train"), image=dict(size=vision["image_size"]))
    common.fine_tune(config, arg.folder, name="bpe", size=32_000)
    if arg.folder:  # the picture is seen from its token on
        config.model.decoder.image_token = read_tokenizer(arg.folder).id_of("<image>")
    config.evals = dict(val=dict(task="captioning", data=common.coco("val"), options=dict(beams=3)))
    config.optimizer = common.adamw(1e-4, weight_decay=0.1, frozen=LOCKED)
    config.schedule = dict(name="constant", warmup_steps=1875)
    return common.shrink(config) if arg.smoke else config
