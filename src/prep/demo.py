"""The demo: a workspace beside the small world of publishers, both in one folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from prep.config import Catalogue
from prep.errors import WorkspaceError
from prep.files import write_text
from prep.workspace import CONFIG_NAME, Workspace

RECIPE = "lavida-o-start"
_MARK = ".prep-demo"  # in a folder that the demo made, and may therefore remove


@contextmanager
def demo_workspace(folder: Path) -> Iterator[Workspace]:
    """A fresh workspace in `folder/workspace`, its publishers served from `folder/publishers` while in use.

    The hub's client is pointed at them by environment variables, so this must come before its first import.

    Raises:
        WorkspaceError: `folder` holds something that the demo did not make.
    """
    from prep.publishers import World

    if folder.exists():
        if not (folder / _MARK).is_file() and any(folder.iterdir()):
            raise WorkspaceError(
                f"{folder.absolute()} is there already, and not from an earlier demo",
                "Name another folder: prep demo FOLDER.",
            )
        shutil.rmtree(folder)
    root = folder / "workspace"
    root.mkdir(parents=True)
    (folder / _MARK).touch()
    with World(folder.absolute() / "publishers") as world:
        os.environ.update(world.environment)
        recipe = Catalogue().recipe_path(RECIPE).read_text(encoding="utf-8")
        workspace = Workspace.create(root, recipe)
        local = {"allow_private_hosts": True, "sources": world.sources}
        config = root / CONFIG_NAME
        text = config.read_text(encoding="utf-8") + "\n" + yaml.safe_dump(local)
        write_text(config, text, follow_links=True)
        yield Workspace(workspace.root)
