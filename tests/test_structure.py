"""The house's own rules: data and imports flow one way, the engine needs little, nothing names a machine."""

import ast
import re
import statistics
import sys
import tomllib
from collections import Counter, defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("service", "tuning", "jobs")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ENGINE = {"torch", "numpy", "pydantic", "largebatch", "filelock", "tenacity"}
"""filelock comes with torch; tenacity is small, needs nothing, and waits for storage that refuses."""
LAZY = {"PIL", "tokenizers", "transformers", "safetensors", "yaml", "mlflow", "torchvision", "timm", "sklearn", "pyarrow", "pytorch_optimizer"}
LAUNCHERS = "largebatch.jobs.launch.on_ray."
"""What only runs inside Ray, and may import it."""


GATES = {
    "jobs/optim/config_base.py": "a spec is read without torch: a config imports what it builds when it builds it",
    "jobs/optim/configs/": "the same",
    "jobs/optim/rmsprop_warm_up/config.py": "the same",
    "jobs/tasks/registry.py": "the same, of tasks",
    "jobs/launch/train.py": "launch: Ray where there are workers, torch where there are none",
    "jobs/launch/on_ray/train.py": "the driver: a run that is refused has not waited for Ray",
    "jobs/launch/on_ray/worker/entry.py": "a worker sets how threads wait before torch is loaded",
    "tuning/sweep/trials/": "trials: Ray's processes, this machine's, or torch once a child of a warm process trains",
    "tuning/branch/trainers/": "branches: Ray's processes where they train side by side, and in each torch after how threads wait is set",
    "tuning/branch/branch.py": "pictures: matplotlib and plotly once there is something to draw",
    "tuning/report/run_figures.py": "the same",
    "tuning/study/study.py": "the same",
    "service/api/analysis.py": "the analysis worker: each question imports what it needs, the first plan neither Ray nor plotly",
    "service/api/dependencies.py": "a service without a cluster does not wait for Ray",
    "service/cli/main.py": "the command line: what words an error imports what runs need",
    "service/cli/usage.py": "the same",
    "service/cli/commands/": "the command line: help and what is refused do not wait for torch",
}
"""The files and folders whose functions may import of ours, and why; CONTRIBUTING names them."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("largebatch", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {name_of(path): path for path in FILES}


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path, *, top_level_only: bool = False) -> frozenset[str]:
    """Full names of what a file imports, names imported from a package resolved to modules where they are some."""
    module = nodes_of(path)[0]
    assert isinstance(module, ast.Module)
    nodes = module.body if top_level_only else nodes_of(path)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(inner & MODULES.keys() or {node.module})
    return frozenset(found)


def test_imports_go_down() -> None:
    def above(path: Path) -> tuple[str, ...]:
        floor = PACKAGES.index(name_of(path).split(".")[1])
        return tuple(f"largebatch.{package}" for package in PACKAGES[:floor])

    assert not [(name_of(path), module) for path in FILES for module in imports(path) if module.startswith(above(path))]


def test_no_import_goes_in_a_circle() -> None:
    """Neither of files nor of packages: what lies beside each other in a package, at any depth, has an order from the bottom up."""
    below: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, path in MODULES.items():
        for module in imports(path) & MODULES.keys():
            one, other = ((*dotted.split("."), "__init__") for dotted in (name, module))
            depth = next(place for place, (part, others) in enumerate(zip(one, other, strict=False)) if part != others)
            below[one[:depth]][one[depth]].add(other[depth])
    for arrows in below.values():
        TopologicalSorter(arrows).prepare()  # raises CycleError, with the circle


def test_jobs_import_little_at_the_top() -> None:
    for path in (path for path in FILES if name_of(path).startswith("largebatch.jobs")):
        outside = {module.split(".")[0] for module in imports(path, top_level_only=True)} - set(sys.stdlib_module_names)
        allowed = ENGINE | {"ray", "psutil"} if name_of(path).startswith(LAUNCHERS) else ENGINE
        assert outside <= allowed, (path, outside)
        everything = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names)
        assert everything <= allowed | LAZY, (path, everything)


def test_the_engine_does_not_know_who_launches_it() -> None:
    engine = [
        path
        for name, path in MODULES.items()
        if name.startswith("largebatch.jobs.") and not name.startswith(("largebatch.jobs.launch", "largebatch.jobs.__main__"))
    ]
    assert not {module for path in engine for module in imports(path) if module.startswith(("largebatch.jobs.launch", "ray"))}


def test_files_and_functions_have_a_human_size() -> None:
    assert not [path for path in FILES if len(path.read_text().splitlines()) > 400]
    functions = [(path, node) for path in FILES for node in nodes_of(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [(path, node.name) for path, node in functions if (node.end_lineno or 0) - node.lineno >= 70]


def test_imports_stand_at_the_top_but_for_named_gates() -> None:
    inside = set()
    for path in FILES:
        functions = [node for node in nodes_of(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        names = {alias.name for each in functions for node in ast.walk(each) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for each in functions for node in ast.walk(each) if isinstance(node, ast.ImportFrom)}
        if any(name.startswith("largebatch") for name in names):
            inside.add(str(path.relative_to(ROOT)))
    assert {path for path in inside if not path.startswith(tuple(GATES))} == set()
    assert [gate for gate in GATES if not any(path.startswith(gate) for path in inside)] == [], "gates that nothing goes through any more"


THEIRS = {"_labelnames", "_split_scope", "_dynamo", "_exit"}
"""Private names of other people's libraries that tests read: prometheus-client's, pytest-xdist's, torch's compiler, and `os._exit`."""
OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields", "_make"}
"""Public, for all their underscore."""


def test_tests_and_benchmarks_go_through_public_seams() -> None:
    private = set()
    for path in (*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        for node in nodes_of(path):
            if isinstance(node, ast.ImportFrom):
                private.update((path.name, alias.name) for alias in node.names if re.match(r"_(?!_)", alias.name))
            if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr) and ast.unparse(node.value) not in {"self", "cls", "super()"}:
                private.add((path.name, node.attr))
    assert {(file, name) for file, name in private if name not in THEIRS | OF_NAMED_TUPLES} == set()


def test_half_of_the_files_have_80_to_150_lines_or_about() -> None:
    sizes = [len(path.read_text().splitlines()) for path in FILES if path.name != "__init__.py"]
    assert 80 <= statistics.median(sizes) <= 150


def test_a_folder_has_at_most_twelve_modules() -> None:
    modules = Counter(path.parent for path in FILES if path.name != "__init__.py")
    assert not {folder: number for folder, number in modules.items() if number > 12}


def test_libraries_are_used_by_their_public_interface() -> None:
    """What stands in a module with an underscore, and what Ray calls by a name with one, may move with any version."""
    paths = [*FILES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
    assert not {path: private for path in paths if (private := private_uses(path))}


def private_uses(path: Path) -> set[str]:
    private = {module for module in imports(path) if re.search(r"(^|\.)_(?!_future)", module) and not module.startswith(("largebatch", "_"))}
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
            private.update(f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_"))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and ast.unparse(node.value).split(".")[0] == "ray":
            private.add(ast.unparse(node))
    return private


def test_a_checkout_offers_one_import_name() -> None:
    """What is installed is `largebatch` alone: `jobs`, `tuning` and `service` may be anybody's."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert found == {"include": ["largebatch*"]}
    for path in (*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        assert not {module for module in imports(path) if module.split(".")[0] in PACKAGES}, path


def test_nothing_names_a_machine() -> None:
    text_files = [*ROOT.glob("*.*"), *(ROOT / "docs").rglob("*.md"), *FILES, *(ROOT / "benchmarks").rglob("*.*"), *(ROOT / "recipes").glob("*")]
    for path in text_files:
        if path.is_file() and path.suffix in {".py", ".md", ".yaml", ".toml", ".sh", ".txt"}:
            assert not re.search(r"/work/|/root/|/home/", path.read_text()), path


def test_a_command_with_json_prints_its_answer_where_standard_output_is_kept_for_it() -> None:
    """There plain `print` goes to standard error: see `largebatch.jobs.streams`."""
    commands = [path for path in FILES if name_of(path).startswith("largebatch.service.cli.")]
    lines = [line.strip() for path in commands for line in path.read_text().splitlines()]
    assert not [line for line in lines if re.match(r"print\(.*(json\.dumps|model_dump_json)", line) and "indent=2" not in line]
