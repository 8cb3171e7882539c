"""SmallCap (arXiv:2209.15323): a locked language model looks at the image through small trained
cross-attention, and reads what similar images are called in its prompt.

    python -m vlm_jax.data.prepare kit
    python -m vlm_jax.data.prepare emoji --size 224
    python launch.py --config=configs/captioning/kit_smallcap.py --workdir=runs/kit_smallcap
    python launch.py --config=configs/captioning/kit_smallcap.py:paper --workdir=runs/smallcap \
        --config.init.parts.vision=CLIP --config.init.parts.decoder=GPT2

The cross-attention's heads are `factor` times narrower than the language model's; nothing else is
trained. With the kit's EfficientNet-Lite0 and SmolLM2-135M these are 8,663,070 of 146,566,366
parameters at factor 4, 30 of them gates that begin at 0 (Flamingo's, arXiv:2204.14198): the run
begins as SmolLM2 itself, which is asked in its own chat format and ends an answer by itself, so
that minutes of training on a CPU do no harm. `:paper` has CLIP ViT-B/32 and GPT-2 and trains
7,094,016 of 219,008,256 (at factors 1, 2, 8 and 16 28,348,416, 14,178,816, 3,551,616 and
1,780,416); the authors' recipe: AdamW, learning rate 1e-4, batch 64, 10 epochs, 25 tokens, four
captions of similar images; COCO CIDEr 119.7 (from memory). The norms before the cross-attention
stay as they begin, as theirs do. What differs: gates and chat format; without a folder of its own,
`:paper` begins with noise, and its data has no neighbours.

After 40 steps (`:demo,steps=40`; the whole run has not been measured), with names of ImageNet's
classes swapped in (`vlm_jax.memory.classes`): the cat of scikit-image is a "tiger cat", its coffee
a "tea cup", its motorcycle a "moped", its rocket a "building crane", its astronaut "bikes"; without
neighbours nearly all are "a picture of a person wearing a hat". docs/retrieval.md has the rest.
"""

from ml_collections import ConfigDict

from configs import common

ANSWER = "Name what my picture shows, in few words.{<|im_end|>}\n{<|im_start|>}assistant\n"
ALONE = "{<|im_start|>}user\n" + ANSWER
NEIGHBOURS = "{<|im_start|>}user\nSimilar pictures show\n\n{prompt}\n\n" + ANSWER
FROZEN = ["vision", "decoder/embed", "decoder/transformer/final_norm"]
FROZEN += ["decoder/transformer/layers/(self_.*|mlp.*|cross_norm)"]
CLIP = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, patch_size=32)


def get_config(arg=None):
    """Arguments: steps; batch; factor; k neighbours in the prompt (0: none), found by encoder, the
    kit's own ("kit"), "pixels" or a workdir; texts, "label" or "tags"; paper; demo, to train for
    `make demo-photo` alone, without evaluation; smoke.
    """
    arg = common.parse_arg(
        arg,
        steps=240,
        batch=8,
        factor=4,
        k=4,
        encoder="kit",
        texts="label",
        paper=False,
        demo=False,
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
    decoder |= {} if arg.paper else dict(cross_gate="scalar")
    config.model = dict(vision=parts["vision"], decoder=decoder, **statistics)
    config.tasks = dict(captioning=dict(length=32, template=ALONE))
    if arg.paper:
        return _paper(config)
    config.total_steps = arg.steps
    common.kit_captioning(config, arg.texts, FROZEN)
    config.optimizer.learning_rate = 5e-4
    config.optimizer.multipliers = [("decoder/.*cross_gate", 20.0)]
    config.logs = dict(every_steps=10)
    if arg.smoke:
        common.shrink(config)
        del config.init
        config.data.image.size = 32
        config.tasks.captioning.template = "{prompt}{bos}"  # its tokenizer has no others
    else:
        config.init.skip = ["vision/head", "decoder/transformer/layers/cross_.*"]
    if arg.k:
        _with_neighbours(config, arg)
    if arg.demo:
        config.evals = {}
    return config


def _with_neighbours(config, arg):
    """Beside every example what similar pictures among the training data are called."""
    task, data, encoder = config.tasks.captioning, config.data.train, arg.encoder
    task.template = task.template if arg.smoke else NEIGHBOURS
    task.length = 10  # besides the prompt
    task.retrieved = dict(k=arg.k, to="prompt", length=8, fewer=0.5)
    if encoder == "kit":
        encoder = "pixels" if arg.smoke else common.kit_folder("efficientnet_lite0")
    remembered = data.to_dict() if arg.smoke else data.source.to_dict()
    memory = dict(source=remembered, encoder=encoder)
    near = lambda data: dict(name="retrieved", source=data.to_dict(), memory=memory, k=arg.k)
    config.data.train = near(config.data.train)
    for section in config.evals.values():
        section.data = near(section.data)


def _paper(config):
    """The authors' recipe, on COCO."""
    config.tasks = dict(captioning=dict(length=25, template="This image shows {prompt}"))
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
