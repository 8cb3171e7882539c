"""SmallCap (arXiv:2209.15323): a locked language model looks at the image through small trained
cross-attention, and reads what similar images are called in its prompt.

    python -m vlm_jax.data.prepare kit
    python -m vlm_jax.data.prepare emoji --size 224
    python launch.py --config=configs/captioning/kit_smallcap.py:k=4 --workdir=runs/kit_smallcap
    python launch.py --config=configs/captioning/kit_smallcap.py:paper --workdir=runs/smallcap \
        --config.init.parts.vision=CLIP --config.init.parts.decoder=GPT2

The cross-attention's heads are `factor` times narrower than the language model's; nothing else is
trained. With the kit's EfficientNet-Lite0 and SmolLM2-135M these are 8,663,040 of 146,566,336
parameters at factor 4. `:paper` has CLIP ViT-B/32 and GPT-2 and trains 7,094,016 of 219,008,256 (at
factors 1, 2, 8 and 16 28,348,416, 14,178,816, 3,551,616 and 1,780,416); the authors' recipe:
AdamW, learning rate 1e-4, batch 64, 10 epochs, 25 tokens, four captions of similar images; COCO
CIDEr 119.7 (from memory). The norms before the cross-attention stay as they begin, as theirs do.
What differs: without a folder of its own, `:paper` begins with noise, and its data has no
neighbours.
"""

from ml_collections import ConfigDict

from configs import common

TEMPLATE = "Similar images show\n\n{prompt}\n\nThis image shows "
FROZEN = ["vision", "decoder/embed", "decoder/transformer/final_norm"]
FROZEN += ["decoder/transformer/layers/(self_.*|mlp.*|cross_norm)"]
CLIP = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, patch_size=32)


def get_config(arg=None):
    """Arguments: steps; batch; factor; k neighbours in the prompt, found by encoder, "pixels" or a
    workdir; texts, "label" or "tags"; paper; smoke.
    """
    arg = common.parse_arg(
        arg,
        steps=600,
        batch=16,
        factor=4,
        k=0,
        encoder="pixels",
        texts="label",
        paper=False,
        smoke=False,
    )
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64 if arg.paper else arg.batch
    parts, statistics = common.kit(arg.smoke), common.LITE_STATISTICS
    if arg.paper:
        vision = common.published("clip", dict(vision_config=CLIP, text_config={}))["vision"]
        parts = dict(vision=vision, decoder=common.published("gpt2", {})["decoder"])
        statistics = common.CLIP_STATISTICS
    decoder = parts["decoder"]
    narrow = dict(head_dim=max(decoder["width"] // decoder["heads"] // arg.factor, 1))
    decoder |= dict(memory="attend", cross=narrow)
    config.model = dict(vision=parts["vision"], decoder=decoder, **statistics)
    config.tasks = dict(captioning=dict(length=25, template="This image shows {prompt}"))
    if arg.paper:
        return _paper(config)
    config.total_steps = arg.steps
    common.kit_captioning(config, arg.texts, FROZEN)
    config.optimizer.learning_rate = 5e-4
    if arg.smoke:
        common.shrink(config)
        del config.init
        config.data.image.size = 32
        return config
    config.init.skip = ["vision/head", "decoder/transformer/layers/cross_.*"]
    if arg.k:
        config.tasks.captioning.template = TEMPLATE
        config.tasks.captioning.retrieved = dict(k=arg.k, to="prompt", length=16, fewer=0.5)
        _with_neighbours(config, arg)
    return config


def _with_neighbours(config, arg):
    """Names of similar drawings among the training data beside every example."""
    memory = dict(source=config.data.train.source.to_dict(), encoder=arg.encoder)
    for section in (config.data.train, *(section.data for section in config.evals.values())):
        near = dict(name="retrieved", source=section.source.to_dict(), memory=memory, k=arg.k)
        section.source = ConfigDict(near)


def _paper(config):
    """The authors' recipe, on COCO."""
    config.total_epochs = 10
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=224, fit="crop"),
        tokenizer=dict(name="bpe", size=50_257),
    )
    config.evals = dict(
        val=dict(task="captioning", data=common.coco("val"), options=dict(beams=3), every_epochs=5)
    )
    config.optimizer = common.adamw(1e-4, frozen=FROZEN)
    return config
