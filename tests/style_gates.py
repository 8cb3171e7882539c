"""The house rules that a program can check: each gate yields "path:line: the rule" for a file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

FILE_LINES, FUNCTION_LINES = 400, 50
LONG_FUNCTIONS = {"vlm_jax/train.py:train"}  # the loop: straight-line on purpose

FLAX_AT = ("layers", "encoders", "connectors", "fusion", "decoders", "models")
ONLY_AT = {
    "flax": tuple(f"vlm_jax/{folder}/" for folder in FLAX_AT),
    "orbax": ("vlm_jax/checkpoint.py",),
}
NOWHERE = {"tensorflow", "torch", "transformers", "keras", "pickle", "cloudpickle", "dill", "abc"}
ARRAYS_ONLY_NUMPY = ("vlm_jax/data/", "vlm_jax/metrics/", "vlm_jax/tokenizers/")
MESH_MAKERS = {"make_mesh", "Mesh", "AbstractMesh", "create_device_mesh"}

# Files without a test file of their own: no more than a docstring, imports and one literal dict.
UNTESTED = {
    "vlm_jax/__init__.py",
    "vlm_jax/data/__init__.py",
    "vlm_jax/connectors/__init__.py",
    "vlm_jax/decode/__init__.py",
    "vlm_jax/decoders/__init__.py",
    "vlm_jax/encoders/__init__.py",
    "vlm_jax/fusion/__init__.py",
    "vlm_jax/insight/__init__.py",
    "vlm_jax/layers/__init__.py",
    "vlm_jax/losses/__init__.py",
    "vlm_jax/memory/__init__.py",
    "vlm_jax/metrics/__init__.py",
    "vlm_jax/plan/__init__.py",
    "vlm_jax/tasks/__init__.py",
    "vlm_jax/tokenizers/__init__.py",
    "vlm_jax/weights/__init__.py",
}

# Files that one test file covers together, because they keep one contract or are steps of one run.
TESTED_TOGETHER = {
    "vlm_jax/api.py": "tests/test_launch.py",
    "vlm_jax/loaded.py": "tests/test_launch.py",
    "vlm_jax/modes.py": "tests/test_launch.py",
    "vlm_jax/predict.py": "tests/test_launch.py",
    "vlm_jax/ranking.py": "tests/weights/test_ranking.py",
    "vlm_jax/evaluate.py": "tests/test_launch.py",
    "vlm_jax/step.py": "tests/test_train.py",
    "vlm_jax/program.py": "tests/test_train.py",
    "vlm_jax/plan/compiling.py": "tests/plan/test_planner.py",
    "vlm_jax/plan/devices.py": "tests/plan/test_planner.py",
    "vlm_jax/plan/evaluation.py": "tests/plan/test_planner.py",
    "vlm_jax/plan/show.py": "tests/plan/test_planner.py",
    "vlm_jax/data/features.py": "tests/test_features.py",
    "vlm_jax/encoders/image_features.py": "tests/encoders/test_vgg.py",
    "vlm_jax/fusion/attention.py": "tests/fusion/test_contract.py",
    "vlm_jax/fusion/coattention.py": "tests/fusion/test_contract.py",
    "vlm_jax/fusion/concat.py": "tests/fusion/test_contract.py",
    "vlm_jax/fusion/cross_modal.py": "tests/fusion/test_contract.py",
    "vlm_jax/insight/page.py": "tests/insight/test_explain.py",
    "vlm_jax/insight/subject.py": "tests/insight/test_explain.py",
    "vlm_jax/layers/cache.py": "tests/decoders/test_contract.py",
    "vlm_jax/layers/low_rank.py": "tests/test_lora.py",
    "vlm_jax/losses/ring.py": "tests/losses/test_contrastive.py",
    "vlm_jax/memory/commands.py": "tests/memory/test_build.py",
    "vlm_jax/memory/neighbours.py": "tests/memory/test_build.py",
    "vlm_jax/memory/similarity.py": "tests/memory/test_exact.py",
    "vlm_jax/metrics/bleu.py": "tests/metrics/test_caption_scores.py",
    "vlm_jax/metrics/captions.py": "tests/metrics/test_caption_scores.py",
    "vlm_jax/metrics/cider.py": "tests/metrics/test_caption_scores.py",
    "vlm_jax/metrics/corpus.py": "tests/metrics/test_caption_scores.py",
    "vlm_jax/metrics/rouge.py": "tests/metrics/test_caption_scores.py",
    "vlm_jax/models/heads.py": "tests/models/test_vision_language.py",
    "vlm_jax/tasks/captioning.py": "tests/tasks/test_evaluate.py",
    "vlm_jax/tasks/classification.py": "tests/tasks/test_evaluate.py",
    "vlm_jax/tasks/masked_pretraining.py": "tests/tasks/test_evaluate.py",
    "vlm_jax/tasks/retrieval.py": "tests/tasks/test_evaluate.py",
    "vlm_jax/tasks/vqa.py": "tests/tasks/test_evaluate.py",
    "vlm_jax/metrics/__main__.py": "tests/metrics/test_scoring.py",
    "vlm_jax/metrics/ptb_characters.py": "tests/metrics/test_ptb_tokenizer.py",
    "vlm_jax/weights/convert.py": "tests/weights/test_pretrained.py",
    "vlm_jax/layers/mlp.py": "tests/layers/test_transformer.py",
    "vlm_jax/weights/families/blip2_retrieval.py": "tests/weights/families/test_blip2.py",
    "vlm_jax/weights/families/qformer.py": "tests/weights/families/test_blip2.py",
    "vlm_jax/weights/family.py": "tests/weights/test_pretrained.py",
    "vlm_jax/weights/folder.py": "tests/weights/test_pretrained.py",
    "vlm_jax/weights/rules.py": "tests/weights/test_pretrained.py",
    "vlm_jax/weights/families/__init__.py": "tests/weights/test_pretrained.py",
    "vlm_jax/weights/families/llama.py": "tests/weights/families/test_llava.py",
}


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, full module name) of every absolute import, wherever it stands in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _name(node: ast.expr) -> str:
    """The last part of a dotted name: `Mesh` for jax.sharding.Mesh; "" for other expressions."""
    return getattr(node, "attr", getattr(node, "id", ""))


def module_docstring(path: str, tree: ast.Module, text: str) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield f"{path}:1: every file says in a module docstring what it is for"


def file_size(path: str, tree: ast.Module, text: str) -> Iterator[str]:
    if (lines := len(text.splitlines())) > FILE_LINES:
        yield f"{path}:{lines}: a file has at most {FILE_LINES} lines; split it by concept"


def function_size(path: str, tree: ast.Module, text: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES and f"{path}:{node.name}" not in LONG_FUNCTIONS:
                yield (
                    f"{path}:{node.lineno}: {node.name} has {lines} lines; "
                    f"a function has at most {FUNCTION_LINES}"
                )


def import_walls(path: str, tree: ast.Module, text: str) -> Iterator[str]:
    for line, module in imports(tree):
        top = module.split(".")[0]
        if top in ONLY_AT and not path.startswith(ONLY_AT[top]):
            yield f"{path}:{line}: {top} is imported only in {', '.join(ONLY_AT[top])}"
        if top in NOWHERE:
            yield f"{path}:{line}: {top} is imported nowhere"
        if top in {"jax", "jaxlib"} and path.startswith(ARRAYS_ONLY_NUMPY):
            yield f"{path}:{line}: data, metrics and tokenizers are NumPy and strings, without JAX"
        if top in {"configs", "launch", "tests"} and path.startswith("vlm_jax/"):
            yield f"{path}:{line}: the package never imports {top}; a config is an argument"


def meshes(path: str, tree: ast.Module, text: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and _name(node.func) in MESH_MAKERS
            and ast.unparse(node.func) != "sharding.make_mesh"  # our own
            and path != "vlm_jax/sharding.py"
        ):
            yield f"{path}:{node.lineno}: only vlm_jax/sharding.py makes meshes"


def pickles(path: str, tree: ast.Module, text: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield f"{path}:{node.value.lineno}: allow_pickle is False, always"


def decorator_registries(path: str, tree: ast.Module, text: str) -> Iterator[str]:
    """A decorator named after registering, or a function that files its argument and returns it."""
    rule = "lookups are literal dicts, not decorator registries"
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            name = _name(decorator.func if isinstance(decorator, ast.Call) else decorator)
            if re.match(r"(?i)register|.*registry", name) and "jax" not in ast.unparse(decorator):
                yield f"{path}:{decorator.lineno}: {rule}"
        if isinstance(node, ast.FunctionDef):
            parameters = {argument.arg for argument in node.args.args}
            filed = {
                _name(statement.value)
                for statement in node.body
                if isinstance(statement, ast.Assign)
                and isinstance(statement.targets[0], ast.Subscript)
            }
            returned = {_name(s.value) for s in node.body if isinstance(s, ast.Return) and s.value}
            if parameters & filed & returned and len(node.args.args) == 1:
                yield f"{path}:{node.lineno}: {rule}"


def stubs(path: str, tree: ast.Module, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if re.search(r"\b(TODO|FIXME|XXX)\b", line):
            yield f"{path}:{number}: finish it, or file it as an issue; no notes to oneself"
    for node in ast.walk(tree):
        raised = node.exc if isinstance(node, ast.Raise) else None
        if raised and "NotImplementedError" in ast.unparse(raised):
            yield f"{path}:{node.lineno}: no stubs: what is not implemented does not exist"


def swallowed_errors(path: str, tree: ast.Module, text: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or _name(node.type) in {"Exception", "BaseException"}
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            if node.type is None or (broad and silent):
                yield f"{path}:{node.lineno}: name the exception, and do something about it"


GATES = (
    module_docstring,
    file_size,
    function_size,
    import_walls,
    meshes,
    pickles,
    decorator_registries,
    stubs,
    swallowed_errors,
)


def parse(path: str, text: str) -> ast.Module:
    """The file as the oldest Python that we support reads it; SyntaxError names the file."""
    return ast.parse(text, filename=path, feature_version=(3, 11))


def violations(path: str, text: str) -> list[str]:
    """What every gate says about one file; path is relative to the repository, with slashes."""
    tree = parse(path, text)
    return [message for gate in GATES for message in gate(path, tree, text)]


def sources() -> dict[str, str]:
    """Text of every Python file that the house rules cover, by path."""
    files = [ROOT / "launch.py", *sorted((ROOT / "configs").rglob("*.py"))]
    files += sorted((ROOT / "vlm_jax").rglob("*.py"))
    return {
        file.relative_to(ROOT).as_posix(): file.read_text("utf-8")
        for file in files
        if file.exists()
    }


def mirror(path: str) -> str:
    """Where a file of the package has its tests: tests/x/test_y.py, test_x.py for __init__.py."""
    if path in TESTED_TOGETHER:
        return TESTED_TOGETHER[path]
    *folders, name = path.removeprefix("vlm_jax/").removesuffix(".py").split("/")
    stem = folders[-1] if name == "__init__" and folders else name
    return "/".join(["tests", *folders, f"test_{stem}.py"])


def module_name(path: str) -> str:
    """The name by which a file is imported."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def import_graph(files: dict[str, str]) -> dict[str, set[str]]:
    """Per module of ours, all that importing it imports; imports inside functions come later."""
    graph = {}
    for path, text in files.items():
        tree = parse(path, text)
        tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
        found = graph.setdefault(module_name(path), set())
        for _, name in imports(tree):
            parts = name.split(".")
            found |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return graph


def jax_behind(start: str, graph: dict[str, set[str]]) -> list[str]:
    """The chain of our own modules by which importing `start` imports JAX; [] if it does not."""
    chains, seen = [[start]], {start}
    while chains:
        chain = chains.pop(0)
        if graph[chain[-1]] & {"jax", "flax"}:
            return chain
        unseen = sorted(graph[chain[-1]] & graph.keys() - seen)
        seen.update(unseen)
        chains += [[*chain, module] for module in unseen]
    return []
