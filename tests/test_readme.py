"""README.md tells the truth: its tree is the tree, and its commands name what exists."""

import ast
import importlib.util
import inspect
import re
import shlex
import subprocess
import tomllib

import pytest

from tests.style_gates import ROOT

HEADING = "## The tree"


def readme():
    return (ROOT / "README.md").read_text("utf-8")


# --- the tree -----------------------------------------------------------------------------------


def parse_tree(text):
    """{path: description} of the fenced block right below the heading; indentation nests."""
    block = re.search(rf"^{HEADING}\n\s*```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, f"README.md needs a fenced block directly below {HEADING!r}"
    tree, folders = {}, []  # folders: (indentation, path) of the open ones
    for line in block[1].splitlines():
        if not line.strip():
            continue
        indentation = len(line) - len(line.lstrip())
        name, _, description = line.strip().partition(" ")
        while folders and folders[-1][0] >= indentation:
            folders.pop()
        path = (folders[-1][1] if folders else "") + name
        assert indentation == 0 or folders, f"README.md: {path} is indented below no folder"
        assert path not in tree, f"README.md lists {path} twice"
        tree[path] = description.strip()
        if name.endswith("/"):
            folders.append((indentation, path))
    return tree


def required(files):
    """What the tree must list: all top-level entries, and what lies directly in vlm_jax/."""
    for file in files:
        parts = file.split("/")
        yield parts[0] + "/" * (len(parts) > 1)
        if parts[0] == "vlm_jax":
            yield "/".join(parts[:2]) + "/" * (len(parts) > 2)


def tracked():
    """Files that git tracks or would track, by path."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [file for file in done.stdout.splitlines() if (ROOT / file).exists()]


def test_what_the_tree_lists_exists():
    wrong = [
        path
        for path in parse_tree(readme())
        if not ((ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file())
    ]
    assert not wrong, f"README.md lists what does not exist: {wrong}"


def test_the_tree_lists_what_exists():
    missing = sorted(set(required(tracked())) - set(parse_tree(readme())))
    assert not missing, f"README.md's tree lacks {missing}"


def test_every_line_of_the_tree_says_what_the_file_is():
    bare = [path for path, description in parse_tree(readme()).items() if len(description) < 5]
    assert not bare, f"README.md's tree does not describe {bare}"


def test_the_parser_nests_by_indentation():
    text = f"""# T
{HEADING}

```
launch.py        flags to one call
vlm_jax/         the package
  types.py       READ FIRST: letters
  layers/        parts
    masks.py     masks by name
  losses.py      per example
tests/           mirror
```
"""
    tree = parse_tree(text)
    assert list(tree) == [
        "launch.py",
        "vlm_jax/",
        "vlm_jax/types.py",
        "vlm_jax/layers/",
        "vlm_jax/layers/masks.py",
        "vlm_jax/losses.py",
        "tests/",
    ]
    assert tree["vlm_jax/types.py"] == "READ FIRST: letters"
    files = ["vlm_jax/layers/norms.py", "vlm_jax/trees.py", "Makefile"]
    assert set(required(files)) - set(tree) == {"vlm_jax/trees.py", "Makefile"}


# --- the commands -------------------------------------------------------------------------------


def commands(text):
    """Every command line of the ```bash blocks, continuation lines joined, comments dropped."""
    for block in re.findall(r"^```bash\b[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def launch_flags():
    """Names of the flags that launch.py defines."""
    calls = ast.walk(ast.parse((ROOT / "launch.py").read_text("utf-8")))
    return {
        call.args[0].value
        for call in calls
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", "").startswith("DEFINE_")
        and isinstance(call.args[0], ast.Constant)
    }


def config_at(path, argument):
    """The config that --config=path:argument means."""
    spec = importlib.util.spec_from_file_location("readme_config", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    takes_argument = bool(inspect.signature(module.get_config).parameters)
    return module.get_config(argument) if takes_argument and argument else module.get_config()


def complaints(words, flags):
    """What is wrong with one command of README.md, in sentences."""
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        for target in (word for word in words[1:] if "=" not in word):
            if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
                yield f"the Makefile has no target {target!r}"
    elif words[0].startswith("python") and words[1:2] == ["launch.py"]:
        yield from launch_complaints(words[2:], flags)
    elif words[0].startswith("python") and words[1:2] == ["-m"]:
        if words[2].startswith("vlm_jax") and importlib.util.find_spec(words[2]) is None:
            yield f"there is no module {words[2]}"
    elif words[0] == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        for extras in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
            for extra in set(extras.split(",")) - set(project["optional-dependencies"]):
                yield f"pyproject.toml has no extra {extra!r}"


def launch_complaints(arguments, flags):
    """Unknown flags, missing configs, and config keys that the named config does not have."""
    given = dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)
    yield from (
        f"launch.py has no flag --{name}"
        for name in given
        if name.split(".")[0] not in flags and name.removeprefix("no") not in flags
    )
    path, _, argument = given.get("config", "").partition(":")
    if path and not (ROOT / path).is_file():
        yield f"there is no {path}"
    elif path:
        config = config_at(path, argument).to_dict()
        for name in (name for name in given if name.startswith("config.")):
            value = config
            for key in name.split(".")[1:]:
                if not isinstance(value, dict) or key not in value:
                    yield f"{path} has no key {name.removeprefix('config.')!r}"
                    break
                value = value[key]


def test_the_commands_name_what_exists():
    flags = launch_flags()
    wrong = [
        f"{shlex.join(words)}: {complaint}"
        for words in commands(readme())
        for complaint in complaints(words, flags)
    ]
    assert not wrong, "README.md: " + "; ".join(wrong)


def test_the_two_commands_are_there():
    given = list(commands(readme()))
    assert ["make", "quickstart"] in given
    assert ["make", "test"] in given


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("make nonsense", "the Makefile has no target 'nonsense'"),
        ("make test PYTHON=python3.12", None),
        ("python launch.py --speed=3", "launch.py has no flag --speed"),
        ("python launch.py --config=configs/no.py", "there is no configs/no.py"),
        ("python -m vlm_jax.no --list", "there is no module vlm_jax.no"),
        ("pip install -e '.[tpu,abacus]'", "pyproject.toml has no extra 'abacus'"),
        ("pip install -e '.[tpu]'", None),
    ],
)
def test_wrong_commands_are_found(command, complaint):
    found = list(complaints(shlex.split(command), {"config", "workdir"}))
    assert found == ([complaint] if complaint else [])


def test_commands_join_lines_and_drop_comments():
    text = "```bash\nmake test  # all\npython launch.py \\\n  --mode=eval\n```\n```\nmake no\n```\n"
    assert list(commands(text)) == [["make", "test"], ["python", "launch.py", "--mode=eval"]]


def test_the_parameters_of_the_table_are_those_that_the_configs_name():
    """What tests/test_configs.py counts, a config's docstring says."""
    rows = re.findall(r"^\| `(\w+/\w+\.py)` \|(.*)$", readme(), flags=re.MULTILINE)
    assert len(rows) > 30
    for name, cells in rows:
        said = (ROOT / "configs" / name).read_text()
        for number in re.findall(r"\d{1,3}(?:,\d{3})+", cells):
            assert number in said, f"{name}: README.md says {number}"
