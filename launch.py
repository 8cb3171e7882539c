"""Train, evaluate, ask or reproduce: one program for a laptop, a notebook, GPUs and TPU pods.

python launch.py --config=configs/quickstart.py --workdir=runs/quickstart
    train, then evaluate; the same command again goes on where the run stopped
python launch.py --config=configs/quickstart.py:smoke --workdir=/tmp/x
    two tiny steps of the same
python launch.py --config=... --config.optimizer.learning_rate=3e-4 --workdir=W
    override any key
python launch.py --mode=eval --workdir=W [--data=FOLDER]
    score a finished run
python launch.py --mode=predict --workdir=W --image=PATH [--question=TEXT]
    caption or answer, as JSON
python launch.py --mode=predict --workdir=W --text=TEXT --images=FOLDER
    rank images for a text
python launch.py --mode=predict --workdir=W --image=PATH --texts=FILE
    rank texts for an image
python launch.py --mode=predict|eval --pretrained=FOLDER ...
    the same with a published checkpoint (config.json and *.safetensors)
python launch.py --mode=reproduce --config=... --workdir=W
    train, compare with `expected`
"""

import os
import sys

if __name__ == "__main__" and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
    # Large pages for malloc, which glibc only reads at a program's start: a training step on a CPU
    # allocates and frees so much that faulting it in page by page takes a quarter of its time.
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.argv])

from absl import app, flags, logging
from ml_collections import config_flags

import vlm_jax  # noqa: F401  its import starts the clock

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, perhaps with :arguments.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, logs, report.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "predict", "reproduce"], "What to do.")
DATA = flags.DEFINE_string(
    "data", None, "eval: folder with data.jsonl to evaluate on instead of the config's sets."
)
IMAGE = flags.DEFINE_string(
    "image", None, "predict: picture to caption, ask about, or find texts for."
)
QUESTION = flags.DEFINE_string("question", None, "predict: question about --image.")
TEXT = flags.DEFINE_string("text", None, "predict: text to find pictures for among --images.")
IMAGES = flags.DEFINE_string("images", None, "predict: folder of pictures to rank for --text.")
TEXTS = flags.DEFINE_string(
    "texts", None, "predict: file with one text per line to rank for --image."
)
PRETRAINED = flags.DEFINE_string(
    "pretrained", None, "eval, predict: a published checkpoint folder instead of a --workdir."
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")


def main(arguments: list[str]) -> int:
    """Dispatch to the mode; an expected error ends in one sentence and exit code 1."""
    if len(arguments) > 1:
        return _fail(
            f"unexpected argument {arguments[1]!r}: every option starts with --, see --help"
        )
    training = MODE.value in ("train", "reproduce")
    if training and PRETRAINED.value:
        return _fail("--pretrained is for eval and predict; to fine-tune: --config.init=FOLDER")
    if WORKDIR.value is None and not PRETRAINED.value:
        return _fail("--workdir=FOLDER is missing: where the run lives, such as runs/quickstart")
    if training and CONFIG.value is None:
        return _fail(f"--mode={MODE.value} needs --config=FILE, such as configs/quickstart.py")
    logging.set_verbosity(logging.WARNING)
    import jax  # late, so that --help and a mistyped flag answer at once

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.expanduser(
        "~/.cache/vlm_jax/xla"
    )
    jax.config.update("jax_compilation_cache_dir", cache)
    from vlm_jax import modes

    try:
        return modes.MODES[MODE.value](
            CONFIG.value, WORKDIR.value or "", {f.name: f.value for f in PREDICT_FLAGS}
        )
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if DEBUG.value:
            raise
        return _fail(f"{error}\n(--debug shows where this happened)")


PREDICT_FLAGS = (DATA, IMAGE, QUESTION, TEXT, IMAGES, TEXTS, PRETRAINED)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    app.run(main)
