"""Imports go one way, from the command line down to the errors; nothing below knows what is above it."""

from __future__ import annotations

import ast
from pathlib import Path

import prep

ROOT = Path(prep.__file__).parent

# From top to bottom; a module may import its own layer and those below.
LAYERS = [
    {"cli", "__main__"},
    {"line", "demo", "add", "own_files", "mixture", "preview", "report", "heal", "layout", "lock"},
    {"stages"},
    {"sources", "images", "readers", "datasets", "scorers", "trainers", "publishers"},
    {"workspace", "yaml_edit"},
    {"config", "sql", "schema", "manifest", "lock_file"},
    {"engine", "engine_ray", "yaml_file", "files", "progress", "web"},
    {"errors"},
]


def layer(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module in names)


def imports(path: Path) -> set[str]:
    """First names below `prep` of everything a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("prep.")}
    return found - {"__version__"}


def test_imports_go_down() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        module = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if module != "__init__":
            wrong += [
                f"{path.relative_to(ROOT)} imports {name}" for name in imports(path) if layer(name) < layer(module)
            ]
    assert wrong == []


def test_no_stage_calls_another_and_publishers_stand_alone() -> None:
    # What stages share: how shards are made, and what filter applies (emit-yaml writes the same numbers); the
    # plan of a download, the work of images and what it frees, what scores there are, which are no stages.
    shared = {"prep.stages.shards", "prep.stages.filter.effective_rules", "prep.stages.plan", "prep.stages.emission"}
    shared |= {"prep.stages.image_tasks", "prep.stages.image_urls", "prep.stages.image_guard", "prep.stages.freeing"}
    shared |= {"prep.stages.lists", "prep.stages.scored", "prep.stages.score_tasks", "prep.stages.sampling"}
    shared |= {"prep.stages.filter.TEXT_ONLY", "prep.stages.predicate"}
    shared |= {f"prep.stages.dedup_{part}" for part in ("facts", "keys", "groups", "near", "phash", "sources")}
    wrong = []
    for path in (ROOT / "stages").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prep.stages."):
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                if not names & shared:
                    wrong.append(f"{path.name} imports {node.module}")
    assert wrong == []
    for path in (ROOT / "publishers").glob("*.py"):
        assert imports(path) <= {"publishers"}, path.name


def test_click_is_never_imported() -> None:
    assert [path for path in ROOT.rglob("*.py") if "import click" in path.read_text()] == []
