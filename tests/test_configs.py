"""Every config file runs as `:smoke`, and its full size has the parameters it promises."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import common
from vlm_jax import experiment, train, trees, workdir
from vlm_jax.data import pipeline
from vlm_jax.data.sources import SOURCES, make_source
from vlm_jax.step import initial_state
from vlm_jax.weights.families import FAMILIES

FOLDER = Path(__file__).parent.parent / "configs"
FILES = sorted(p for p in FOLDER.rglob("*.py") if p.name not in ("common.py", "__init__.py"))
NAMES = [str(path.relative_to(FOLDER)) for path in FILES]


def load(name, arg=None):
    """The config of a file, as launch.py reads it."""
    spec = importlib.util.spec_from_file_location("a_config", FOLDER / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return workdir.to_json(module.get_config(arg))


@pytest.mark.parametrize("name", NAMES)
def test_smoke(name, tmp_path):
    metrics = train.train(load(name, "smoke"), tmp_path)
    assert metrics
    assert all(np.isfinite(value) for key, value in metrics.items() if "masked" not in key)


@pytest.mark.parametrize("name", NAMES)
def test_full_config_says_how_to_run_it_and_has_known_keys(name):
    config = load(name)
    experiment.check_config(config)
    assert f"--config=configs/{name}" in (FOLDER / name).read_text()


class Detected:
    """The built-in scenes as a detector might have read them: noise for the features of regions."""

    name = "detected"

    def __init__(self, split, length=64, captions=1, questions=2):
        options = dict(length=length, captions=captions, questions=questions)
        self.scenes = make_source(common.scenes(split, **options))

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        noise = np.random.default_rng(index).normal(size=(5, 2048))
        return {**self.scenes[index], "image": noise.astype(np.float32)}


@pytest.mark.parametrize("name", ["pretraining/visualbert.py", "vqa/visualbert.py"])
def test_smoke_of_detected_regions(name, tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "detected", Detected)
    config = load(name, "regions=5,smoke")
    for data in (config["data"]["train"], config["evals"]["val"]["data"]):
        data["name"] = "detected"
    metrics = train.train(config, tmp_path)
    assert all(np.isfinite(value) for key, value in metrics.items() if "masked" not in key)


def parameters(name, arg=None, image=None):
    """Parameter shapes of a config at full size, on the built-in data, or on an image of this
    shape.
    """
    config = load(name, arg)
    config["data"]["train"] = common.scenes("train", length=64)
    config["data"]["tokenizer"] = {"name": "word", "examples": 64}
    for task in config["tasks"].values():
        if isinstance(task.get("answers"), int):
            task["answers"] = [str(number) for number in range(task["answers"])]
        if "template" in task:  # names that only the published tokenizer knows
            task["template"] = re.sub(r"{<[^*}]*", "{[UNK]", task["template"])
    if image is not None:
        config["data"]["image"]["fit"] = "none"
    source = experiment.source(config["data"]["train"], "train")
    setup = experiment.build(config, None, source)
    tasks = {task: setup.tasks[task].preprocess for task in setup.tasks}
    batch = pipeline.stack([pipeline.Loader(source, setup.read, tasks)(0)])
    if image is not None:
        batch["image"] = np.zeros((1, *image), np.float32)
    return jax.eval_shape(lambda: initial_state(setup, batch, 0))["params"]


REGIONS = (36, 2052)
"""Shape of an image that a detector has read: features and a box for each region."""

SEEN = {"regions": REGIONS, "regions=36": (36, 2048), "regions=100": (100, 2048)}
"""The same by a config's argument; without boxes for VisualBERT."""

COUNTS = (
    ("captioning/blip.py", None, 223_971_644),
    ("captioning/blip2.py", None, 3_744_679_936),
    ("captioning/blip2.py", "rows=50304", 3_744_761_856),
    ("captioning/blip2.py", "t5", 3_942_446_592),
    ("captioning/cappa.py", None, 191_668_736),
    ("captioning/cappa.py", "parallel", 191_669_504),
    ("captioning/cappa.py", "parallel,large", 469_495_040),
    ("captioning/coca.py", None, 253_560_065),
    ("captioning/kit_prefix.py", None, 138_956_224),
    ("captioning/kit_smallcap.py", None, 146_566_366),
    ("captioning/kit_smallcap.py", "paper", 219_008_256),
    ("captioning/coca.py", "large", 638_450_177),
    ("captioning/coca.py", "paper", 386_605_057),
    ("captioning/flamingo.py", None, 8_929_679_632),
    ("captioning/git.py", None, 176_619_066),
    ("captioning/git.py", "large", 394_196_026),
    ("captioning/paligemma2.py", None, 3_032_242_416),
    ("captioning/paligemma2.py", "res=448", 3_033_127_152),
    ("captioning/paligemma2.py", "large", 9_662_638_832),
    ("captioning/show_attend_tell.py", None, 34_999_122),
    ("pretraining/visualbert.py", "regions=36", 112_074_812),
    ("retrieval/align.py", None, 134_792_513),
    ("retrieval/align.py", "efficientnet", 171_527_249),
    ("retrieval/align.py", "large", 360_616_001),
    ("retrieval/blip.py", None, 223_744_259),
    ("retrieval/blip2.py", None, 1_172_032_259),
    ("retrieval/clip.py", None, 151_277_313),
    ("retrieval/clip.py", "patch=16", 149_620_737),
    ("retrieval/clip.py", "large", 427_616_513),
    ("retrieval/clip.py", "large,res=336", 427_944_193),
    ("retrieval/clip.py", "rn50", 102_007_137),
    ("retrieval/lit.py", None, 196_460_545),
    ("retrieval/lit_kit.py", None, 26_427_905),
    ("retrieval/siglip.py", None, 203_155_970),
    ("retrieval/siglip.py", "so400m", 877_960_498),
    ("retrieval/siglip2.py", None, 375_187_970),
    ("retrieval/siglip2.py", "so400m", 1_136_008_498),
    ("retrieval/siglip2.py", "naflex", 375_234_050),
    ("retrieval/siglip2.py", "so400m,naflex", 1_135_670_962),
    ("retrieval/vilt.py", None, 111_595_777),
    ("text_to_image/tokenizer_vq.py", "paper", 72_141_699),
    ("text_to_image/tokenizer_vq.py", "paper,codes=16384", 76_073_859),
    ("video/git_video.py", None, 176_623_674),
    ("vqa/blip.py", None, 361_230_140),
    ("vqa/blip2.py", None, 3_744_679_936),
    ("vqa/blip2.py", "t5", 3_942_446_592),
    ("vqa/git.py", None, 176_619_066),
    ("vqa/git.py", "res=480", 177_159_738),
    ("vqa/gemma3.py", None, 4_300_079_472),
    ("vqa/llava.py", None, 7_063_427_072),
    ("vqa/llava.py", "rows=32000", 7_062_902_784),
    ("vqa/llava.py", "large", 13_351_494_656),
    ("vqa/lxmert.py", "regions", 213_930_297),
    ("vqa/paligemma.py", None, 2_923_466_480),
    ("vqa/paligemma.py", "res=448", 2_924_351_216),
    ("vqa/qwen2_vl.py", None, 2_208_985_600),
    ("vqa/smolvlm.py", None, 256_484_928),
    ("vqa/smolvlm.py", "size=500m", 507_482_304),
    ("vqa/smolvlm.py", "size=8b", 8_462_086_384),
    ("vqa/vilt.py", None, 117_588_537),
    ("vqa/visualbert.py", "regions=100", 113_856_825),
)
"""Config, argument and parameters: those of the published network but for CoCa as in the paper and
ALIGN with smaller towers, which nobody published, and the temperature of the contrast of BLIP and
BLIP-2, which their folders leave out.
"""


@pytest.mark.parametrize(("name", "arg", "count"), COUNTS)
def test_a_full_config_has_the_published_number_of_parameters(name, arg, count):
    assert trees.count_parameters(parameters(name, arg, SEEN.get(arg or ""))) == count
    assert f"{count:,}" in (FOLDER / name).read_text()


@pytest.mark.parametrize(
    ("name", "family", "published", "arg"),
    [
        ("retrieval/blip.py", "blip", {"architectures": ["BlipForImageTextRetrieval"]}, None),
        ("retrieval/vilt.py", "vilt", {"architectures": ["ViltForMaskedLM"]}, None),
        (
            "vqa/visualbert.py",
            "visual_bert",
            {"architectures": ["VisualBertForPreTraining"], "visual_embedding_dim": 2048},
            "regions=100",
        ),
        ("vqa/lxmert.py", "lxmert", {"architectures": ["LxmertForPreTraining"]}, "regions"),
        ("vqa/vilt.py", "vilt", {"architectures": ["ViltForMaskedLM"]}, None),
        ("vqa/vilt.py", "vilt", {"architectures": ["ViltModel"]}, None),
        ("vqa/vilt.py", "vilt", {"architectures": ["ViltForQuestionAnswering"]}, None),
        (
            "retrieval/vilt.py",
            "vilt",
            {"architectures": ["ViltForImageAndTextRetrieval"]},
            None,
        ),
        ("vqa/lxmert.py", "lxmert", {"architectures": ["LxmertModel"]}, "regions"),
        ("vqa/lxmert.py", "lxmert", {"architectures": ["LxmertForQuestionAnswering"]}, "regions"),
        (
            "vqa/visualbert.py",
            "visual_bert",
            {"architectures": ["VisualBertForQuestionAnswering"], "visual_embedding_dim": 2048},
            "regions=100",
        ),
    ],
)
def test_all_but_what_is_skipped_comes_from_the_folder(name, family, published, arg):
    init = load(name, ",".join(filter(None, [arg, "folder=PATH"])))["init"]
    ours = set(trees.flatten(parameters(name, arg, SEEN.get(arg or ""))))
    rules = FAMILIES[family].rules(published)
    theirs = {path for rule in rules for path in rule.paths}
    skip, may = init.get("skip", ()), map(trees.compile_pattern, init.get("optional", ()))
    skipped = {path for pattern in skip for path in trees.select(pattern, ours | theirs, "skip")}
    skipped |= {path for pattern in may for path in ours ^ theirs if pattern.match(path)}
    assert ours - skipped == theirs - skipped


TRAINED = (
    ("captioning/kit_prefix.py", None, 1_070_208),
    ("captioning/kit_smallcap.py", None, 8_663_070),
    ("captioning/kit_smallcap.py", "paper", 7_094_016),
    ("captioning/kit_smallcap.py", "paper,factor=1", 28_348_416),
    ("captioning/kit_smallcap.py", "paper,factor=16", 1_780_416),
    ("retrieval/lit_kit.py", None, 491_520),
)


@pytest.mark.parametrize(("name", "arg", "count"), TRAINED)
def test_what_is_not_locked_has_the_promised_size(name, arg, count):
    params = parameters(name, arg)
    locked = trees.match(load(name, arg)["optimizer"]["frozen"], params)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(locked), strict=True)
    assert sum(leaf.size for leaf, cold in pairs if not cold) == count
    assert f"{count:,}" in (FOLDER / name).read_text()


def test_the_merge_captioner_has_the_published_number_of_parameters():
    params = parameters("captioning/vgg16_lstm_merge.py")
    assert trees.count_parameters(params["decoder"]) == 5_527_963
    assert trees.count_parameters(params["vision"]) == 138_357_544 - 4_097_000  # without classes


def test_resnet_bert_has_the_towers_of_the_papers():
    params = parameters("retrieval/resnet_bert.py")
    assert trees.count_parameters(params["vision"]) == 23_508_032
    assert trees.count_parameters(params["text"]) == 109_482_240


def test_resnet_gru_has_two_layers_of_256():
    params = parameters("vqa/resnet_gru.py")
    recurrent = {k: v for k, v in params["text"].items() if k != "embedding"}
    first, second = 3 * (300 * 256 + 256 * 256 + 256) + 256, 3 * 2 * 256 * 256 + 3 * 256 + 256
    assert trees.count_parameters(recurrent) == first + second


def test_arguments_are_typed():
    arg = common.parse_arg("res=64,smoke", res=224, smoke=False, rate=0.5)
    assert (arg.res, arg.smoke, arg.rate) == (64, True, 0.5)
    with pytest.raises(ValueError, match="did you mean 'smoke'"):
        common.parse_arg("smok", smoke=False)
    with pytest.raises(ValueError, match="must be of type int"):
        common.parse_arg("res=big", res=224)
    with pytest.raises(ValueError, match="true or false"):
        common.parse_arg("smoke=maybe", smoke=False)
