"""A conversation about pictures: follow-up questions that say "it", a second picture in its midst.

    python launch.py --config=configs/vqa/scene_chat.py --workdir=runs/chat
    python launch.py --config=configs/vqa/scene_chat.py:data=FOLDER --workdir=runs/own
    python launch.py --mode=chat --workdir=runs/chat --image=PICTURE.png

A small causal language model reads questions, pictures and its own answers as one text, and keeps
their keys and values from turn to turn. One run of half an hour of processor time, on 384
conversations of two pictures with four questions each:

    first questions   0.727 (the same words' commonest answer: 0.260)
    follow-ups        0.764 after the model's own answers, 0.838 after true ones; without what was
                      said before, but with the picture, 0.646; the commonest answer 0.421

A wrong answer misleads what follows, because "it" is then another object: hence the two numbers.

FOLDER: one's own conversations, a data.jsonl as `vlm_jax.data.jsonl` reads it, and a subfolder
`val` of the same kind. Nothing is learned of regions then, and words are pieces of their own.
"""

from ml_collections import ConfigDict

from configs import common
from vlm_jax.data import scenes

VOCAB, GRID, PICTURES = 128, 8, 2
OWN = dict(vocab=4096, length=1024 - 64, answer_length=64)
"""For other people's words."""


def model(width, layers):
    """A small ResNet, whose 8 x 8 tokens stand in the midst of what a Llama-like decoder reads."""
    return dict(
        vision=common.small_resnet(width // 2),
        connector=dict(name="mlp", widths=(width,), norm="layer", positions=True),
        decoder=dict(
            name="causal_lm",
            memory="insert",
            image_token=VOCAB,  # no word of the tokenizer: it only marks a place
            memory_projection=False,
            bidirectional="memory",
            vocab=VOCAB,
            width=width,
            layers=layers,
            heads=4,
            mlp_width=2 * width,
            max_length=1024,
            positions="none",
            ropes=({},),
            norm="rms",
            activation="relu",  # quicker than others on a CPU
            bias=False,
        ),
        regions=dict(
            classes={kind: len(words) for kind, words in scenes.kinds().items()}, activation="relu"
        ),
    )


def get_config(arg=None):
    """Arguments: steps, width of every part, layers of the decoder; data: a folder of one's own
    conversations; smoke.
    """
    arg = common.parse_arg(arg, steps=4000, width=128, layers=4, data="", smoke=False)
    width, layers = (32, 1) if arg.smoke else (arg.width, arg.layers)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16
    config.total_steps = arg.steps
    config.model = model(width, layers)
    shown = dict(name="run", token=str(VOCAB), count=GRID * GRID)
    config.tasks = dict(
        chat=dict(format=dict(picture=shown), length=PICTURES * GRID**2 + 96, answer_length=5),
        region_labels=dict(kinds=scenes.kinds(), grid=GRID, pictures=PICTURES, weight=3.0),
    )
    config.data = dict(
        train=dict(name="scene_dialogues", split="train", images=PICTURES),
        image=dict(size=64, pictures=PICTURES),
        tokenizer=dict(name="word", examples=1000),
    )
    test = dict(name="scene_dialogues", split="test", images=PICTURES, length=384)
    config.evals = dict(chat=dict(task="chat", data=test))
    config.optimizer = common.adamw(1e-3, multipliers={"vision": 4.0})
    config.schedule = dict(name="cosine", warmup_steps=100)
    config.expected = {
        "chat/first/accuracy": (0.73, 0.08),
        "chat/follow_up/accuracy": (0.76, 0.06),
        "chat/follow_up/accuracy/true_history": (0.84, 0.05),
    }
    config = _own(config, arg.data) if arg.data else config
    return _shrunk(config, own=bool(arg.data)) if arg.smoke else config


def _own(config, folder):
    """The same for the conversations of a folder."""
    config.model.decoder.update(vocab=OWN["vocab"], image_token=OWN["vocab"])
    del config.model.regions, config.tasks.region_labels, config.expected
    config.tasks.chat.update({name: OWN[name] for name in ("length", "answer_length")})
    config.tasks.chat.format.picture.token = str(OWN["vocab"])
    config.data.train = dict(name="jsonl", path=folder)
    config.data.tokenizer = dict(name="bpe", size=OWN["vocab"])
    config.evals.chat.data = dict(name="jsonl", path=f"{folder}/val")
    return config


def _shrunk(config, own):
    """Two steps, with conversations in place of single scenes."""
    train, evals = config.data.train, config.evals.chat.data
    config = common.shrink(config)
    if own:
        config.data.train, config.evals.chat.data = train, evals
        return config
    data = dict(name="scene_dialogues", images=PICTURES)
    config.data.train = data | dict(split="train", length=64)
    for section in config.evals.values():
        section.data = data | dict(split="test", turns=1, length=4)
    return config
