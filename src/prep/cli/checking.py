"""`prep check`: which check a file is for, and the options that go with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from prep.errors import DataError, UsageError
from prep.stages.check import CheckReport, check_yaml
from prep.stages.check_lists import ListsReport, check_json, check_module
from prep.trainers.convllava_rows import VERSIONS, Version
from prep.trainers.lavida_o_sample import reader_on_path

ImageChoice = Literal["sample", "all", "none"]
_LISTS = (".json", ".jsonl")


def run_check(
    path: Path,
    images: str,
    *,
    steps: int | None = None,
    batch: int | None = None,
    no_files: bool = False,
    s3_reader: Path | None = None,
    image_folder: Path | None = None,
    version: str | None = None,
    dataset: str | None = None,
) -> CheckReport | ListsReport:
    """Check a training YAML for LaViDa-O, or a Python module or JSON list for ConvLLaVA.

    Raises:
        UsageError: options that do not go together, or not with such a file.
        DataError: there is no such file.
    """
    choice = next((choice for choice in get_args(ImageChoice) if choice == images), None)
    if choice is None:
        raise UsageError(
            f"--images {images}: must be sample, all or none", "`prep check --images all` opens every one."
        )
    of_yaml = {"--steps": steps, "--batch": batch, "--no-files": no_files or None, "--s3-reader": s3_reader}
    of_lists = {"--version": version, "--image-folder": image_folder, "--dataset": dataset}
    if path.suffix in (".py", *_LISTS):
        _refuse(of_yaml, path, "a training YAML")
        return _check_lists(path, choice, image_folder, version, dataset)
    _refuse(of_lists, path, "a .py or .json file of ConvLLaVA's")
    if (steps is None) != (batch is None):
        raise UsageError("--steps and --batch go together", "`prep check --steps 10000 --batch 256`.")
    if no_files and (choice != "sample" or steps is not None):
        raise UsageError(
            "--no-files opens nothing, so --images, --steps and --batch go without it", "`prep check FILE --no-files`."
        )
    _need(path)
    with reader_on_path(s3_reader):
        return check_yaml(path, images=choice, steps=steps, batch=batch, files=not no_files)


def _check_lists(
    path: Path, images: ImageChoice, image_folder: Path | None, version: str | None, dataset: str | None
) -> ListsReport:
    known: dict[str, Version] = {name: name for name in VERSIONS}
    if version is not None and version not in known:
        raise UsageError(
            f"--version {version}: must be {' or '.join(VERSIONS)}", "The trainer's published scripts use v1."
        )
    chosen = known[version or "v1"]
    is_list = path.suffix in _LISTS
    _refuse({"--dataset": dataset} if is_list else {"--image-folder": image_folder}, path, "the other sort of file")
    _need(path)
    if is_list:
        return check_json(path, image_folder, version=chosen, images=images)
    return check_module(path, version=chosen, images=images, option=dataset)


def _refuse(options: Mapping[str, object], path: Path, of: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} is for {of}, and {path} is none", f"Leave {' and '.join(given)} out.")


def _need(path: Path) -> None:
    if not path.is_file():
        command = "prep emit" if path.suffix in (".py", *_LISTS) else "prep emit-yaml"
        raise DataError(f"there is no {path}", f"`{command}` writes the workspace's; or name another file.")
