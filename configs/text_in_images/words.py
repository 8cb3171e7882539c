"""Text in pictures: English words and short phrases, read and translated by one prefix language
model, whose prompts are "read", "in german", "in french" and "in spanish".

    pip install -e '.[words]'
    python launch.py --config=configs/text_in_images/words.py --workdir=runs/words
    python launch.py --mode=predict --workdir=runs/words --image=PICTURE.png --question="in german"

570 names of emoji of at most 12 characters, drawn in 16 fonts, tilted, coloured, blurred and noisy
(`vlm_jax.data.rendered_words`). Four tests: other drawings (`test`), four other fonts
(`test_fonts`), words that no training phrase contains (`test_words`), and both at once. Scores are
accuracy, which with one true answer is exact match, and the character error rate CER. Beside them
stand the commonest answer to the prompt (question_only) and the answer about the training picture
with the nearest pixels (nearest_picture).

Translations of held-out words cannot be known: nobody told the model what "bagel" is in German.
What it scores there is owed to words that are the same in both languages, 19 % of these 62 phrases
in German, 29 % in French, 23 % in Spanish. Reading them is fair: training also shows made-up words.
"""

from ml_collections import ConfigDict

from configs import common
from vlm_jax.data import rendered_words

LANGUAGES = ("de", "fr", "es")


def words(split, **options):
    """The built-in pictures of words."""
    return dict(name="rendered_words", split=split, languages=LANGUAGES, longest=12) | options


def model(width):
    """A small ResNet with 16 x 16 tokens, of which every letter has at least one, and a causal
    language model over bytes, which attends to them after its prompt.
    """
    block = dict(heads=4, mlp_width=2 * width, activation="relu")
    writer = dict(name="causal_lm", memory="attend", vocab=261, width=width, layers=3)
    kinds = {kind: len(labels) for kind, labels in rendered_words.kinds().items()}
    return dict(
        vision=common.small_resnet(width) | dict(stages=(2,)),
        connector=dict(name="mlp", widths=(width,), norm="layer", positions=True),
        decoder=writer | dict(max_length=64) | block,
        regions=dict(classes=kinds, activation="relu"),
    )


def get_config(arg=None):
    """Arguments: steps, width of every part, smoke."""
    arg = common.parse_arg(arg, steps=4000, width=128, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16
    config.total_steps = arg.steps
    config.model = model(16 if arg.smoke else arg.width)
    config.tasks = dict(
        vqa=dict(
            name="vqa_generation",
            length=25,
            question_length=11,
            per_image=2,
            cut=False,
            characters=True,
            nearest=2000,
        ),
        # Which letter lies where, and the how many-th it is: texts alone would take many times as
        # long to teach a reader where to look next.
        region_labels=dict(kinds=rendered_words.kinds(), grid=16, weight=2.0),
    )
    config.data = dict(train=words("train"), image=dict(size=64), tokenizer=dict(name="byte"))
    config.evals = {
        split: dict(task="vqa", data=words(split)) for split in rendered_words.SPLITS[1:]
    }
    config.optimizer = common.adamw(1.5e-3, multipliers={"vision": 2.5})
    config.schedule = dict(name="cosine", warmup_steps=100)
    return smoke(config) if arg.smoke else config


def smoke(config):
    """`common.shrink` on words, with one evaluation."""
    config = common.shrink(config)
    config.tasks.vqa.nearest = 8
    config.data.train = words("train", length=64)
    config.data.tokenizer = dict(name="byte")
    config.evals = dict(test_both=dict(task="vqa", data=words("test_both", length=2)))
    return config
