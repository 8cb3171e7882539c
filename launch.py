"""Train, evaluate, ask or reproduce: one program for a laptop, a notebook, GPUs and TPU pods.

python launch.py --config=configs/quickstart.py --workdir=runs/quickstart
    train, then evaluate; the same command again goes on where the run stopped
python launch.py --config=configs/quickstart.py:smoke --workdir=/tmp/x
    two tiny steps of the same
python launch.py --config=... --config.optimizer.learning_rate=3e-4 --workdir=W
    override any key
python launch.py --coordinator=HOST:PORT --processes=4 --process=0 ...
    one of several processes; TPU pods, Slurm and others need no flags, see docs/pods.md
python launch.py --mode=eval --workdir=W [--data=FOLDER] [--memory=FOLDER] [--k=4]
    score a finished run, perhaps with the k nearest entries of another memory
python launch.py --mode=predict --workdir=W --image=PATH [--question=TEXT]
    caption or answer, as JSON
python launch.py --mode=predict --workdir=W --video=PATH [--question=TEXT | --summary [--out=x.png]]
    caption or answer; or key frames with time stamps and a sentence for each
python launch.py --mode=predict --workdir=W --text=TEXT --images=FOLDER
    rank images for a text
python launch.py --mode=predict --workdir=W --image=PATH --texts=FILE
    rank texts for an image
python launch.py --mode=predict --workdir=W --audio=PATH --texts=FILE | --images=FOLDER
    rank texts, or images, for a sound
python launch.py --mode=predict --workdir=W --images=FOLDER [--question=TEXT] [--out=FILE]
    captions, classes or answers of each, a line each in FILE; an interrupted run goes on
python launch.py --mode=predict --workdir=W --text=TEXT [--image=PATH]
    a text gone on with, or its blanks filled
python launch.py --mode=predict --workdir=W --text=TEXT --out=x.png [--samples=4] [--judge=W2]
    draw what a text says, several times, best first by a dual encoder
python launch.py --mode=predict --workdir=W --data=FOLDER [--out=FILE]
    answer the turns without answers of the conversations in FOLDER/data.jsonl; likewise goes on
python launch.py --mode=chat --workdir=W [--image=PATH] [--speed]
    a conversation in the terminal: a line is a turn, /image PATH shows another picture, Ctrl-C
    ends an answer
python launch.py --mode=explain --workdir=W --image=PATH [--question=TEXT] [--method=NAME]
    which part of the picture, and which word, made the model say it: PNGs and a page in --out
python launch.py --mode=predict|eval|chat --pretrained=FOLDER ...
    the same with a published checkpoint (config.json and *.safetensors)
python launch.py --mode=index --workdir=W [--data=FOLDER] [--memory=FOLDER] [--of=text|audio]
    embed a data set with a finished run, into a memory that can be searched
python launch.py --mode=search --workdir=W --text=TEXT | --image=PATH | --audio=PATH
                 [--memory=FOLDER] [--k=10]
    the nearest entries of a memory, as JSON and as a contact sheet
python launch.py --mode=reproduce --config=... --workdir=W
    train, compare with `expected`
python launch.py --mode=plan --config=... --topology=v5e:8x8 [--json]
    compile for a TPU slice that is not there: does it fit, how fast can it be
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
KINDS = ["train", "eval", "predict", "chat", "index", "search", "explain", "reproduce", "plan"]
MODE = flags.DEFINE_enum("mode", "train", KINDS, "What to do.")
DATA = flags.DEFINE_string(
    "data",
    None,
    "eval: folder with data.jsonl to evaluate on instead of the config's sets. predict: with "
    "conversations to answer. index: to remember.",
)
IMAGE = flags.DEFINE_string(
    "image", None, "predict: picture to caption, ask about, or find texts for. chat: shown first."
)
VIDEO = flags.DEFINE_string("video", None, "predict: video to caption, ask about, or sum up.")
AUDIO = flags.DEFINE_string(
    "audio", None, "predict: sound to rank --texts or --images for. search: to look for."
)
SUMMARY = flags.DEFINE_bool("summary", None, "predict: sum --video up by its key frames.")
QUESTION = flags.DEFINE_string("question", None, "predict: question about --image or --video.")
TEXT = flags.DEFINE_string(
    "text", None, "predict: text to find pictures for among --images, or to go on with."
)
IMAGES = flags.DEFINE_string(
    "images", None, "predict: folder of pictures to rank for --text, or to say something of each."
)
TEXTS = flags.DEFINE_string(
    "texts",
    None,
    "predict: file with one text per line to rank for --image. eval: one to score their words by.",
)
PRETRAINED = flags.DEFINE_string(
    "pretrained", None, "eval, predict, chat: a published checkpoint folder instead of a --workdir."
)
MEMORY = flags.DEFINE_string(
    "memory", None, "index, search, eval: folder of the memory; by default WORKDIR/memory."
)
OF = flags.DEFINE_enum(
    "of",
    None,
    ["image", "text", "audio"],
    "index: remember pictures (the default), captions or sounds.",
)
K = flags.DEFINE_integer("k", None, "search, eval: how many entries of the memory.")
SEARCH = flags.DEFINE_string(
    "search", None, "search: exact (the default), faiss:flat, faiss:ivf or faiss:hnsw."
)
METHOD = flags.DEFINE_string(
    "method", None, "explain: names of methods between commas, such as grad_cam; all if left out."
)
OUT = flags.DEFINE_string(
    "out",
    None,
    "explain: folder to write to (WORKDIR/explanations/...). predict: a PNG to draw, or a file for "
    "what is said of pictures or in conversations, a JSON object a line.",
)
SAMPLES = flags.DEFINE_integer("samples", None, "predict: how many pictures of --text to draw.")
JUDGE = flags.DEFINE_string(
    "judge", None, "predict: workdir of a dual encoder that puts the best picture first."
)
SPEED = flags.DEFINE_bool("speed", None, "chat: say after each answer how fast it was.")
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "plan: the chips to plan for, such as v5e:8x8, v5p:4x4x4 or cpu:8."
)
JSON = flags.DEFINE_bool("json", None, "plan: end with one line of JSON.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where no scheduler tells; see docs/pods.md."
)
PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes that run together.")
PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")


def main(arguments: list[str]) -> int:
    """Dispatch to the mode; an expected error ends in one sentence and exit code 1."""
    if len(arguments) > 1:
        return _fail(
            f"unexpected argument {arguments[1]!r}: every option starts with --, see --help"
        )
    training, planning = MODE.value in ("train", "reproduce"), MODE.value == "plan"
    if training and PRETRAINED.value:
        return _fail("--pretrained is for eval and predict; to fine-tune: --config.init=FOLDER")
    if WORKDIR.value is None and not PRETRAINED.value and not planning:
        return _fail("--workdir=FOLDER is missing: where the run lives, such as runs/quickstart")
    if (training or planning) and CONFIG.value is None:
        return _fail(f"--mode={MODE.value} needs --config=FILE, such as configs/quickstart.py")
    logging.set_verbosity(logging.WARNING)
    import jax  # late, so that --help and a mistyped flag answer at once

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.expanduser(
        "~/.cache/vlm_jax/xla"
    )
    # A plan is made on the CPU whatever there is, and its compile time is one of its results.
    jax.config.update("jax_compilation_cache_dir", None if planning else cache)
    if planning:
        jax.config.update("jax_platforms", "cpu")
    from vlm_jax import modes, processes

    try:
        if training or MODE.value == "eval":
            place = (COORDINATOR.value, PROCESSES.value, PROCESS.value)
            processes.join(*place, preemptible=training)
        code = modes.MODES[MODE.value](
            CONFIG.value, WORKDIR.value or "", {f.name: f.value for f in PREDICT_FLAGS}
        )
        processes.leave()
        return code
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if DEBUG.value:
            raise
        code = _fail(f"{error}\n(--debug shows where this happened)")
        return processes.abandon(str(error), code)


PREDICT_FLAGS = (
    *(DATA, IMAGE, VIDEO, AUDIO, SUMMARY, QUESTION, TEXT, IMAGES, TEXTS, PRETRAINED),
    *(MEMORY, OF, K, SEARCH, TOPOLOGY, JSON, METHOD, OUT, SAMPLES, JUDGE, SPEED),
)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    app.run(main)
