"""The import graph and its doors (docs/architecture.md, section 3), read from the sources."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("rlhf", "labeling_ui", "stages")

LAYERS = (
    {"errors", "records"},
    {"config"},
    {"checkpoints", "data", "ops", "options", "progress", "runs", "store", "trackers"},
    {"model", "optimization", "ranks"},
    {"comparison", "evaluate", "export", "figures", "generate", "inference", "ppo", "report"}
    | {"rankings", "reward", "sample", "sft"},
    {"demo"},
    {"__main__", "cli"},
)
"""Rooms of rlhf from the ground up; a room imports its own layer and those below."""

DOORS = {
    "accelerate": ("rlhf/ranks.py", "rlhf/trackers.py"),
    "alembic": ("rlhf/store/",),
    "argon2": ("labeling_ui/passwords.py",),
    "datasets": ("rlhf/data/", "rlhf/sft.py"),
    "gradio": ("labeling_ui/app.py",),
    "latex2mathml": ("labeling_ui/mathml.py",),
    "markdown_it": ("labeling_ui/",),
    "matplotlib": ("rlhf/report/plots.py",),
    "peft": ("rlhf/model/adapters.py", "rlhf/model/llama_weights.py", "rlhf/model/roles.py"),
    "psycopg": ("rlhf/store/",),
    "pyarrow": ("rlhf/data/",),
    "pydantic": ("rlhf/options.py",),
    "rich": ("rlhf/progress.py",),
    "sqlalchemy": ("rlhf/store/",),
    "tensorboard": (),
    "trl": ("rlhf/sft.py",),
}
"""Where each outside package may be imported."""

SCRIPTS = ("rlhf/demo/build_base.py",)
"""Run by hand, so they may print."""

KNOWN_TO_LABELING = ("rlhf.config", "rlhf.data.agreement")
"""What the labeling app may import beside store, records, errors and rankings."""

HEAVY = {"accelerate", "datasets", "peft", "torch", "transformers", "trl"}


def sources(*packages: str) -> list[Path]:
    return sorted(
        path for package in packages or PACKAGES for path in (ROOT / package).rglob("*.py")
    )


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def modules() -> dict[str, Path]:
    return {module_of(path): path for path in sources()}


@cache
def imports_of(path: Path) -> frozenset[str]:
    """The modules that a file imports, wherever in it; imports for types only don't count."""
    found = set()
    for node in walk_running(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found.add(inner if inner in modules() else module)
    return frozenset(found)


def walk_running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for alternative in child.orelse:
                yield from walk_running(alternative)
            continue
        yield child
        yield from walk_running(child)


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "rlhf" and len(parts) > 1 else None


def layer_of(room: str) -> int:
    for number, rooms in enumerate(LAYERS):
        if room in rooms:
            return number
    raise AssertionError(f"rlhf/{room} has no place in LAYERS; give it one")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources("rlhf"), ids=name)
def test_imports_point_downwards(path: Path):
    room = room_of(module_of(path))
    if room is None:  # rlhf/__init__.py gives the public names, lazily
        return
    for module in imports_of(path):
        other = room_of(module)
        if other is not None:
            assert layer_of(other) <= layer_of(room), f"{name(path)} imports {module}, above it"
        assert module.split(".")[0] not in ("stages", "labeling_ui"), f"{name(path)}: {module}"


def test_no_module_imports_itself_in_a_circle():
    graph = {
        module: {other for other in imports_of(path) if other in modules() and other != module}
        for module, path in modules().items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"a circle: {' -> '.join([*trail, module])}"
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("package", sorted(DOORS))
def test_each_outside_package_enters_by_its_door(package: str):
    for path in sources():
        if any(module.split(".")[0] == package for module in imports_of(path)):
            assert name(path).startswith(DOORS[package]), f"{name(path)} imports {package}"


def test_ops_import_torch_and_each_other_and_nothing_else():
    for path in sources("rlhf/ops"):
        for module in imports_of(path):
            top = module.split(".")[0]
            allowed = top == "torch" or module.startswith("rlhf.ops")
            assert allowed or top in sys.stdlib_module_names, f"{name(path)} imports {module}"


def test_the_labeling_app_knows_the_store_and_what_reads_it():
    for path in sources("labeling_ui"):
        for module in imports_of(path):
            room = room_of(module)
            known = room in (None, "store", "records", "errors", "rankings")
            assert known or module in KNOWN_TO_LABELING, f"{name(path)}: {module}"
            assert module != "rlhf", f"{name(path)} imports all of rlhf"


def test_nothing_under_the_labeling_app_needs_torch():
    waiting, seen = [module_of(path) for path in sources("labeling_ui")], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for other in imports_of(modules()[module]):
            assert other.split(".")[0] not in HEAVY, f"{module} imports {other}"
            if other in modules():
                waiting.append(other)
    assert "rlhf.store" in seen


def test_import_rlhf_loads_nothing_heavy_at_the_top():
    for module in ("rlhf", "rlhf.cli", "rlhf.options", "rlhf.config", "rlhf.runs"):
        top = [
            node
            for node in tree_of(modules()[module]).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        for node in top:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {item.split(".")[0] for item in names} & HEAVY, module


@pytest.mark.parametrize("path", sources("rlhf", "labeling_ui"), ids=name)
def test_the_library_never_prints_and_never_unpickles(path: Path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print" or name(path) in SCRIPTS, f"{name(path)}:{node.lineno}"
            assert called not in ("torch.load", "pickle.load", "pickle.loads", "eval", "exec"), (
                f"{name(path)}:{node.lineno}: {called}"
            )


def test_the_wheel_holds_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    present = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in sources("rlhf", "labeling_ui")
        if path.name == "__init__.py" or "versions" in path.parts
    }
    assert set(listed) == present


def test_every_module_says_what_it_is():
    for path in sources():
        assert ast.get_docstring(tree_of(path)), f"{name(path)} has no docstring"
