"""Text in pictures: English words and short phrases, read and translated by one prefix language
model, whose prompts are "read", "in german", "in french" and "in spanish".

    pip install -e '.[words]'
    python launch.py --config=configs/text_in_images/words.py --workdir=runs/words
    python launch.py --mode=predict --workdir=runs/words --image=PICTURE.png --question="in german"

570 names of emoji of at most 12 characters, drawn in 16 fonts, tilted, coloured, blurred and noisy
(`vlm_jax.data.rendered_words`): one line of 32 x 128 pixels, as readers of text lines get it.
Convolutions fold each 4 pixels of the line into one of 32 tokens, from left to right
(arXiv:1507.05717, section 2.1), each of which says in training which letter it is part of, and the
how many-th that is; the text alone would take many times as long to teach where to look next.

Four tests of 300 pictures, four prompts each: other drawings (`test`), four other fonts
(`test_fonts`), words that no training phrase contains (`test_words`), and both at once. Share of
exact answers, and the character error rate CER, after 192,000 pictures, 25 minutes of training on 2
CPU cores beside other work:

              read          in german     in french     in spanish
    test        .987  .002    .867  .106    .870  .101    .833  .139
    test_fonts  .870  .022    .737  .187    .753  .165    .743  .187
    test_words  .970  .006    .053  .644    .077  .692    .027  .765
    test_both   .830  .032    .027  .670    .050  .726    .020  .793

The baselines know next to nothing: the commonest answer to the prompt (question_only) is right for
at most .003, CER 1.12 or more; the answer about the training picture with the nearest pixels
(nearest_picture) for .017, CER 0.94 or more.

Translations of held-out words cannot be known: nobody told the model what "bagel" is in German.
What it scores there is owed to words that are the same in both languages, 19 % of these 62 phrases
in German, 29 % in French, 23 % in Spanish. Reading them is fair: training also shows made-up words.
"""

from ml_collections import ConfigDict

from configs import common
from vlm_jax.data import rendered_words

LANGUAGES = ("de", "fr", "es")
SIZE, COLUMN = (32, 128), 4


def words(split, **options):
    """The built-in pictures of words."""
    line = dict(size=SIZE, lines=1, smallest=8, tilt=5.0, longest=12)
    return dict(name="rendered_words", split=split, languages=LANGUAGES) | line | options


def model(width):
    """Columns through convolutions and two layers, and a causal language model over bytes, which
    attends to them after its prompt.
    """
    block = dict(width=width, heads=4, mlp_width=2 * width, activation="relu", layers=2)
    columns = dict(patch=(SIZE[0], COLUMN), image_size=SIZE, stem="conv", stem_width=24)
    alone = dict(class_token=False, pooling="none", positions="sincos", standardised=True)
    kinds = {kind: len(labels) for kind, labels in rendered_words.kinds().items()}
    return dict(
        vision=dict(name="vit") | columns | alone | block,
        decoder=dict(name="causal_lm", memory="attend", vocab=261, max_length=64) | block,
        regions=dict(classes=kinds, activation="relu"),
    )


def get_config(arg=None):
    """Arguments: steps, width of every part, smoke."""
    arg = common.parse_arg(arg, steps=6000, width=128, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_steps = arg.steps
    config.model = model(32 if arg.smoke else arg.width)
    config.tasks = dict(
        vqa=dict(
            name="vqa_generation",
            length=25,
            question_length=11,
            cut=False,
            characters=True,
            nearest=2000,
        )
    )
    # With equal weights, learning to count, which is easier, delays learning the letters by far.
    for kind, weight in (("letter", 2.0), ("number", 0.5)):
        labels = dict(kinds={kind: rendered_words.kinds()[kind]}, grid=(1, SIZE[1] // COLUMN))
        config.tasks[kind] = dict(name="region_labels", weight=weight) | labels
    config.data = dict(train=words("train", length=500_000), image=dict(size=SIZE, fit="pad"))
    config.data.tokenizer = dict(name="byte")
    config.evals = {
        split: dict(task="vqa", data=words(split)) for split in rendered_words.SPLITS[1:]
    }
    config.optimizer = common.adamw(1.5e-3)
    config.schedule = dict(name="cosine", warmup_steps=100)
    config.expected = {
        "test/accuracy/type/read": (0.98, 0.03),
        "test/accuracy/type/de": (0.86, 0.08),
        "test_fonts/accuracy/type/read": (0.87, 0.08),
        "test_words/accuracy/type/read": (0.96, 0.04),
        "test_both/CER/type/read": (0.035, 0.025),
    }
    return smoke(config) if arg.smoke else config


def smoke(config):
    """`common.shrink` on words, with one evaluation."""
    config = common.shrink(config)
    config.tasks.vqa.nearest = 8
    config.data.train = words("train", length=64)
    config.data.tokenizer = dict(name="byte")
    config.evals = dict(test_both=dict(task="vqa", data=words("test_both", length=2)))
    return config
