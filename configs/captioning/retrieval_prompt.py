"""Captions written from an image and from what similar images are called, as words in the prompt.

    python -m vlm_jax.data.prepare emoji
    python launch.py --config=configs/captioning/retrieval_prompt.py --workdir=runs/prompt
    python launch.py --mode=eval --workdir=runs/prompt --k=0
    python launch.py --mode=eval --workdir=runs/prompt --memory=ANOTHER_MEMORY

SmallCap (arXiv:2209.15323) at the size of the built-in data: its template around the names of the k
nearest drawings, a small ResNet that the decoder attends to, everything trained from scratch. In
half of the training examples fewer names are shown, so that one run answers with any number of
them. Neighbours are found by `encoder`: "pixels", the workdir of a run such as that of
configs/retrieval/emoji.py, or the folder of a published vision encoder. A drawing's own name is
never among them.

`benchmarks/retrieval_augmented.py` makes the table of k = 0, 1, 4 and other memories. Without any
captioner, the name of the nearest drawing by pixels has on the 171 unseen Noto drawings a CIDEr-D
of 0.10 (0.02 to 0.21) out of the seen OpenMoji drawings, and of 1.28 (0.89 to 1.70) when a memory
of the unseen ones is swapped in. No captions of a full run are claimed.
"""

from ml_collections import ConfigDict

from configs import common

TEMPLATE = "Similar images show\n\n{prompt}\n\nThis image shows {bos}"


def get_config(arg=None):
    """Arguments: steps; k (0: no neighbours); encoder; data, "emoji" or "scenes"; width; smoke."""
    arg = common.parse_arg(
        arg, steps=2000, k=4, encoder="pixels", data="emoji", width=192, smoke=False
    )
    width, vocab = (32, 512) if arg.smoke else (arg.width, 2048)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_steps = arg.steps
    config.model = dict(
        vision=common.small_resnet(width),
        decoder=dict(
            name="causal_lm",
            memory="attend",
            vocab=vocab,
            width=width,
            layers=2,
            heads=4,
            mlp_width=2 * width,
            max_length=256,
            dropout=0.1,
        ),
    )
    section = dict(length=30 if arg.data == "scenes" else 16, label_smoothing=0.1)
    if arg.k:
        near = dict(k=arg.k, to="prompt", length=section["length"], fewer=0.5)
        section |= dict(template=TEMPLATE, retrieved=near)
    config.tasks = dict(captioning=section)
    config.optimizer = common.adamw(1e-3, weight_decay=0.05, ema=0.995)
    config.schedule = dict(name="cosine", warmup_percent=5)
    config.data = dict(
        augment=common.of_drawings(),
        tokenizer=dict(name="bpe", size=vocab),
    )
    common.with_neighbours(config, arg)
    return config
