"""GPT-Image-Edit-1.5M: three gzip streams cut by bytes, and training records in a model repository.

Paths of the records are relative to a folder of their own for each file: with the task's folder for OmniEdit and
UltraEdit, without it for HQ-Edit and ComplexEdit. The streams also hold metadata of the same samples, and outputs
that are not GPT's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prep.publishers.packs import tar_gz, write, write_cut, write_json
from prep.publishers.pictures import Picture, truncate

REPO = "UCSC-VLAA/GPT-Image-Edit-1.5M"
TRAINING = "UCSC-VLAA/gpt-image-edit-training"
PARTS = 3
# Folder -> ids of its pairs; a stream has all inputs first, and ids in no order.
PAIRS = {
    "hqedit/edit": ("00070858", "00060995", "00000404"),
    "hqedit/generate": ("00060995", "00000012"),
    "omniedit/addition": ("obj_2", "obj_1"),
    "omniedit/style": ("style_1",),
    "omniedit/complex-edit": ("obj_1", "swap_7"),
    "ultraedit/add": ("000021", "000003"),
    "ultraedit/turn": ("000003", "000666"),
}
WITHOUT_OUTPUT, BROKEN_INPUT = "hqedit/edit/output/00000404.png", "ultraedit/turn/input/000666.png"
Row = dict[str, Any]


def write_gpt_image_edit(hub: Path, models: Path) -> None:
    """Write the pictures' repository in `hub` and the records' in `models`."""
    for subset in ("hqedit", "omniedit", "ultraedit"):
        write_cut(hub / REPO / f"gpt-edit/{subset}.tar.gz", tar_gz(_members(subset)), PARTS)
    write(hub / REPO / "gpt-edit/download.sh", "# omniedit has parts 1 to 50\n")
    write(hub / REPO / "README.md", "# GPT-Image-Edit-1.5M\n")
    for name, rows in _training().items():
        write_json(models / TRAINING / f"training_json/{name}.json", rows)
    write_json(models / TRAINING / "config.json", {"model_type": "none"})


def _members(subset: str) -> dict[str, bytes]:
    """A stream's members in order: folders, inputs, outputs, metadata as a list or as lines."""
    folders = [folder for folder in PAIRS if folder.startswith(subset)]
    members = {f"{subset}/": b"", **{f"{folder}/": b"" for folder in folders}}
    for side, size in (("input", (80, 60)), ("output", (96, 144))):
        for folder in folders:
            for name in (f"{folder}/{side}/{pair}.png" for pair in PAIRS[folder]):
                data = Picture.named(f"gpt-image-edit {name}", *size).encode("PNG")
                if name != WITHOUT_OUTPUT:
                    members[name] = truncate(data) if name == BROKEN_INPUT else data
    for number, folder in enumerate(folders):
        name = f"{folder}/metadata/{folder.replace('/', '_')}.json"
        rows = _metadata(folder)
        members[name] = (json.dumps(rows) if number % 2 else "".join(f"{json.dumps(r)}\n" for r in rows)).encode()
    if subset == "omniedit":
        original = Picture.named("gpt-image-edit original", 60, 60).encode("PNG")
        members["omniedit/addition/output/obj_1_original.png"] = original
    return members


def _metadata(folder: str) -> list[Row]:
    """What the stream itself says of a folder's pairs."""
    source, _, task = folder.partition("/")
    rewritten = {"instruction_type": "rewrite", "instruction_original": "Van Gogh."} if task == "style" else {}
    return [
        {
            "id": f"{source}_{task}_{pair}",
            "dataset_source": source,
            "task": task,
            "input": f"input/{pair}.png",
            "output": f"output/{pair}.png",
            "instruction": f"Do what {task} does to {pair}.",
            "instruction_type": "complex" if task == "complex-edit" else "original",
            "input_description": "Two shapes.",
            **rewritten,
        }
        for pair in PAIRS[folder]
    ]


def _training() -> dict[str, list[Row]]:
    """The training records, file by file."""
    add = _row("add/", "000021", "Add a tree.")
    return {
        "hqedit_gpt_edit": [
            _row("", "00060995", "Make the sky purple."),
            _row("", "00070858", "Make it look old.\nKeep the frame."),
            _row("", "00000404", "A row without its output."),
        ],
        "hqedit_gpt_generate": [
            _row("", "00060995", "Turn the cat into a dog."),
            _row("", "00000012", ""),
        ],
        "omniedit_gpt": [
            _row("addition/", "obj_1", "Add a red hat."),
            {**_row("addition/", "obj_2", "Three pictures."), "image": _paths("addition/", "obj_2", "obj_1")},
            {**_row("addition/", "obj_2", "One picture."), "image": ["addition/input/obj_2.png"]},
        ],
        "omniedit_gpt_rewrite": [
            _row("style/", "style_1", "Paint it as Van Gogh would."),
            _row("addition/", "obj_1", "Put a hat, a red one, on the head."),
        ],
        "complexedit_gpt": [
            _row("", "obj_1", "Add a hat, and let it rain."),
            _row("", "swap_7", "A turn of the gpt comes first."),
        ],
        "ultraedit_gpt": [
            add,
            _row("turn/", "000003", "Turn it into a painting."),
            add,
            _row("turn/", "000666", "A row whose input breaks off."),
            {"image": _paths("add/", "000003"), "conversations": [{"from": "gpt", "value": "<gen_image>"}]},
            _row("add/", "000021", "Add a tree, a second one."),
        ],
    }


def _paths(folder: str, pair: str, *more: str) -> list[str]:
    inputs = [f"{folder}input/{name}.png" for name in (pair, *more)]
    return [*inputs, f"{folder}output/{pair}.png"]


def _row(folder: str, pair: str, instruction: str) -> Row:
    turns = [{"from": "human", "value": f"<image>\n{instruction}"}, {"from": "gpt", "value": "<gen_image>"}]
    if instruction.startswith("A turn of the gpt"):
        turns.reverse()
    return {"image": _paths(folder, pair), "conversations": turns}
