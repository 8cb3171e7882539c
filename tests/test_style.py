"""The house rules hold in every file, and the gates that say so catch what they are made for."""

import importlib.metadata
import re
import subprocess
import sys
import time
import tomllib

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from tests import style_gates
from tests.style_gates import ARRAYS_ONLY_NUMPY, ROOT, UNTESTED, mirror, sources, violations
from vlm_jax.losses import masked_cross_entropy

# Imported where a user asked for them, in an extra.
OPTIONAL = {"av", "easy-vqa", "emoji", "faiss-cpu", "fsspec", "libtpu", "pyarrow", "resvg-py"}


def _fail_with(messages):
    if messages:
        pytest.fail("\n".join(["the house rules are broken:", *messages]), pytrace=False)


def test_every_file_keeps_the_house_rules():
    _fail_with([message for path, text in sources().items() for message in violations(path, text)])


def test_every_file_of_the_package_has_its_tests():
    package = [path for path in sources() if path.startswith("vlm_jax/") and path not in UNTESTED]
    _fail_with(
        [f"{path}:1: its tests belong in {mirror(path)}" for path in package if not _has(path)]
    )


def _has(path):
    return (ROOT / mirror(path)).exists()


def test_files_allowed_without_tests_exist_and_are_trivial():
    for path in UNTESTED:
        lines = len((ROOT / path).read_text("utf-8").splitlines())
        assert lines <= 50, f"{path}:1: {lines} lines are not trivial; test it in {mirror(path)}"


def test_data_metrics_and_tokenizers_reach_no_jax_through_our_own_modules():
    files = sources()
    graph = style_gates.import_graph(files)
    messages = []
    for path in files:
        chain = style_gates.jax_behind(style_gates.module_name(path), graph)
        if chain and path.startswith(ARRAYS_ONLY_NUMPY):
            messages.append(f"{path}:1: imports JAX by way of {' -> '.join(chain)}")
    _fail_with(messages)


def test_every_imported_package_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    normal = lambda name: re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()
    declared = {normal(requirement) for requirement in project["dependencies"]} | OPTIONAL
    providers = importlib.metadata.packages_distributions()
    known = {*sys.stdlib_module_names, "vlm_jax", "configs", "easy_vqa", "faiss", "gguf"}
    known |= {"resvg_py"}
    messages = []
    for path, text in sources().items():
        for line, module in style_gates.imports(style_gates.parse(path, text)):
            top = module.split(".")[0]
            if top not in known and not declared & {normal(n) for n in providers.get(top, [])}:
                messages.append(f"{path}:{line}: {top} is not among pyproject's dependencies")
    _fail_with(messages)


def test_importing_the_package_is_quick_and_touches_no_accelerator():
    code = "import sys, vlm_jax; print(*({'jax', 'jaxlib', 'tensorflow'} & set(sys.modules)))"
    seconds = []
    for _ in range(2):  # the better of two: the first may have to compile bytecode
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - start)
        assert done.stdout.split() == []
    assert min(seconds) < 2.0


def test_tests_run_on_eight_devices_with_strict_ranks():
    assert jax.device_count() == 8
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_shapes_are_checked_in_tests():
    logits, targets, mask = jnp.ones((2, 3, 4)), jnp.ones((2, 3), int), jnp.ones((2, 3), bool)
    assert masked_cross_entropy(logits, targets, mask).shape == (2,)
    with pytest.raises(TypeCheckError):  # NumPy's rules alone would broadcast this
        masked_cross_entropy(logits, targets[:, :1], mask)


BAD = {
    "module_docstring": ("vlm_jax/trees.py", "import math\n", 1),
    "file_size": ("vlm_jax/trees.py", '"""Long."""\n' + "x = 1\n" * 400, 401),
    "function_size": ("vlm_jax/trees.py", '"""D."""\ndef f():\n' + "    x = 1\n" * 50, 2),
    "flax": ("vlm_jax/train.py", '"""D."""\nimport flax.linen as nn\n', 2),
    "flax in a function": ("vlm_jax/tasks/vqa.py", '"""D."""\ndef f():\n    import flax\n', 3),
    "orbax": ("vlm_jax/train.py", '"""D."""\nfrom orbax import checkpoint\n', 2),
    "tensorflow": ("vlm_jax/train.py", '"""D."""\nfrom tensorflow.io import gfile\n', 2),
    "torch": ("launch.py", '"""D."""\nimport torch\n', 2),
    "pickle": ("configs/quickstart.py", '"""D."""\nimport os, pickle\n', 2),
    "jax in data": ("vlm_jax/data/x.py", '"""D."""\nfrom jax import numpy\n', 2),
    "configs": ("vlm_jax/train.py", '"""D."""\nfrom configs.common import parse_arg\n', 2),
    "Mesh": ("vlm_jax/train.py", '"""D."""\nm = jax.sharding.Mesh(devices, ())\n', 2),
    "make_mesh": ("launch.py", '"""D."""\nm = make_mesh((1,), ("data",))\n', 2),
    "allow_pickle": ("vlm_jax/trees.py", '"""D."""\nnp.load(f, allow_pickle=True)\n', 2),
    "named registry": ("vlm_jax/trees.py", '"""D."""\n@register("vit")\nclass A: pass\n', 2),
    "registry": (
        "vlm_jax/trees.py",
        '"""D."""\ndef f(g):\n    ALL[g.__name__] = g\n    return g\n',
        2,
    ),
    "note": ("vlm_jax/trees.py", '"""D."""\nx = 1  # TO' + "DO later\n", 2),
    "stub": ("vlm_jax/trees.py", '"""D."""\ndef f():\n    raise NotImplementedError\n', 3),
    "bare except": ("vlm_jax/trees.py", '"""D."""\ntry: f()\nexcept: g()\n', 3),
    "swallowed": ("vlm_jax/trees.py", '"""D."""\ntry: f()\nexcept Exception: pass\n', 3),
}


@pytest.mark.parametrize("name", BAD)
def test_gates_catch_a_bad_snippet_once_and_name_its_line(name):
    path, text, line = BAD[name]
    found = violations(path, text)
    assert len(found) == 1
    assert found[0].startswith(f"{path}:{line}: ")


GOOD = {
    "flax at home": ("vlm_jax/layers/norms.py", '"""D."""\nimport flax.linen as nn\n'),
    "orbax at home": ("vlm_jax/checkpoint.py", '"""D."""\nimport orbax.checkpoint as ocp\n'),
    "meshes at home": ("vlm_jax/sharding.py", '"""D."""\nm = jax.make_mesh((1,), ("data",))\n'),
    "the loop": ("vlm_jax/train.py", '"""D."""\ndef train():\n' + "    x = 1\n" * 80),
    "tfds": ("vlm_jax/data/tfds_source.py", '"""D."""\nimport tensorflow_datasets as tfds\n'),
    "no pickle": ("vlm_jax/trees.py", '"""D."""\nnp.load(f, allow_pickle=False)\n'),
    "handled": ("vlm_jax/trees.py", '"""D."""\ntry: f()\nexcept KeyError: pass\n'),
    "longest": ("vlm_jax/trees.py", '"""D."""\ndef f():\n' + "    x = 1\n" * 49),
}


@pytest.mark.parametrize("name", GOOD)
def test_gates_leave_good_code_alone(name):
    assert violations(*GOOD[name]) == []


def test_jax_is_found_behind_our_own_modules():
    files = {
        "vlm_jax/a.py": "from vlm_jax import b\n",
        "vlm_jax/b/__init__.py": "from vlm_jax.b.c import x\n",
        "vlm_jax/b/c.py": "import jax.numpy as jnp\n",
        "vlm_jax/d.py": "import json\ndef late():\n    import jax\n",
    }
    graph = style_gates.import_graph(files)
    assert style_gates.jax_behind("vlm_jax.a", graph) == ["vlm_jax.a", "vlm_jax.b", "vlm_jax.b.c"]
    assert style_gates.jax_behind("vlm_jax.d", graph) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("vlm_jax/trees.py", "tests/test_trees.py"),
        ("vlm_jax/data/scenes.py", "tests/data/test_scenes.py"),
        ("vlm_jax/models/__init__.py", "tests/models/test_models.py"),
    ],
)
def test_tests_mirror_the_package(path, expected):
    assert mirror(path) == expected
