"""Workspaces beside the small world of publishers, and commands run in them as a user would run them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from prep.publishers import World

QUICK_PREP = Path(__file__).with_name("quick_prep.py")


def environment(world: World | None = None, **more: str) -> dict[str, str]:
    """This process's environment, pointed at the world (or at nothing), without the user's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "AWS_", "PREP_"))}
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "COLUMNS": "100", "PYTHONUTF8": "1"}
    return kept | nowhere | (world.environment if world else {}) | more


def prep(
    folder: Path, *arguments: str | Path, world: World | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `prep ARGUMENTS` in `folder`."""
    command = [sys.executable, str(QUICK_PREP), *(str(argument) for argument in arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment(world, **more), capture_output=True, text=True, timeout=120
    )


def prep_json(folder: Path, *arguments: str | Path, world: World | None = None) -> Any:
    """What `prep ARGUMENTS --json` prints, when it succeeds."""
    done = prep(folder, *arguments, "--json", world=world)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def make_workspace(root: Path, recipe: Mapping[str, Any], world: World, **config: Any) -> Path:
    """A workspace whose datasets come from the world."""
    root.mkdir(parents=True)
    settings = {"recipe": "recipe.yaml", "workers": 1, "allow_private_hosts": True, "sources": world.sources}
    (root / "prep.yaml").write_text(yaml.safe_dump(settings | config))
    (root / "recipe.yaml").write_text(yaml.safe_dump(dict(recipe)))
    return root


def snapshot(root: Path) -> dict[str, str]:
    """Path -> hash of every file of a workspace, hidden leftovers included, the busy mark left out."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".prep-busy")
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
