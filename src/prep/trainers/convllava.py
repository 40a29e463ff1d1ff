"""The contract of ConvLLaVA: its dataset names, the folder tree that its guide wants, what fits which stage.

Facts are those of the trainer's data page (`docs/Data.md` of alibaba/conv-llava) and of its module of datasets
(`llava/data/data.py`).
"""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from sys import stdlib_module_names
from typing import Any, NamedTuple

from prep.config import nearest
from prep.errors import DataError, UsageError

IMAGE = "image"
TURNS = "conversations"
KIND = "conversation"  # of tables that this trainer can have
PATHS = "PATHS"  # in a module that we write: dataset name -> (JSON list, image folder)
DATASET = "DATASET"  # there: what --dataset has to be
FOLDER_LINE = "Image paths are relative to "  # in a YAML that we write for the LLaVA-NeXT family
DEFAULT_DATASET = "llava150k"  # of the trainer's option --dataset; none of the nine


class Builder(NamedTuple):
    """What the trainer's module of datasets binds to a dataset name.

    Attributes:
        function: the builder's name there.
        json_path: the publisher's list, below `data/`.
        image_folder: what `image` of its rows is joined to, below `data/`; `.` is `data/` itself.
    """

    function: str
    json_path: str
    image_folder: str


class Folder(NamedTuple):
    """A folder of pictures in the guide's tree.

    Attributes:
        dataset: what fills it, in our catalogue.
        files: how many there are when it is whole; None where nobody says.
    """

    dataset: str
    files: int | None = None


# The names and builders are the trainer's. Which list and folder belong to a name follows from how the paths in the
# lists begin; the guide has no place for the list of LCS, which is put beside its pictures.
NAMES = {
    "lcs": Builder("build_lcs", "llava/llava_pretrain/blip_laion_cc_sbu_558k.json", "llava/llava_pretrain/images"),
    "sharegpt4vpretrain": Builder("build_sharegpt4v", "sharegpt4v/share-captioner_coco_lcs_sam_1246k_1107.json", "."),
    "sharegpt4v100k": Builder("build_sharegpt4v100k", "sharegpt4v/sharegpt4v_instruct_gpt4-vision_cap100k.json", "."),
    "llava665k": Builder("build_llava665k", "llava/llava_v1_5_mix665k.json", "."),
    "vflan": Builder("build_vflan", "vflan/annotation_191-task_1k.json", "vflan/images_191task_1k"),
    "allava_laion_caption": Builder(
        "build_allava_laion_caption", "allava/allava_laion/ALLaVA-Caption-LAION-4V.json", "allava"
    ),
    "allava_vflan_caption": Builder(
        "build_allava_vflan_caption", "allava/allava_vflan/ALLaVA-Caption-VFLAN-4V.json", "allava"
    ),
    "allava_laion_instruct": Builder(
        "build_allava_laion_instruct", "allava/allava_laion/ALLaVA-Instruct-LAION-4V.json", "allava"
    ),
    "allava_vflan_instruct": Builder(
        "build_allava_vflan_instruct", "allava/allava_vflan/ALLaVA-Instruct-VFLAN-4V.json", "allava"
    ),
}

# The guide's tree below `data/`. Counts of COCO to Visual Genome are those of LLaVA's issue 702; LCS has a picture a
# row; of SAM the rows of ShareGPT4V-PT that name one (51 tars of 11,186); Vision-Flan's are in its one zip. LAION's
# pictures of ALLaVA and those of WebData have been counted by nobody who says so.
FOLDERS = {
    "allava/allava_laion/images": Folder("allava"),
    "coco/train2017": Folder("coco-train2017", 118_287),
    "llava/llava_pretrain/images": Folder("lcs-558k", 558_128),  # not in the guide's tree: its first hole
    "sam/images": Folder("sa-1b", 570_486),
    "gqa/images": Folder("gqa", 148_854),
    "ocr_vqa/images": Folder("ocr-vqa", 207_572),
    "textvqa/train_images": Folder("textvqa", 25_119),
    "vg/VG_100K": Folder("visual-genome", 64_346),
    "vg/VG_100K_2": Folder("visual-genome", 43_903),
    "vflan/images_191task_1k": Folder("vision-flan", 181_393),
    "share_textvqa/images": Folder("share-textvqa"),
    "web-celebrity/images": Folder("web-celebrity"),
    "web-landmark/images": Folder("web-landmark"),
    "wikiart/images": Folder("wikiart"),
}

# The second hole: ALLaVA's lists look for Vision-Flan's pictures in a folder of their own. Link -> what it leads to.
LINKS = {"allava/allava_vflan/images": "../../vflan"}

_CAPTIONS = ("sharegpt4vpretrain", "sharegpt4v100k", "allava_laion_caption", "allava_vflan_caption")

# Stage -> names that fit what the guide says of it: captions for the projector; those and a part of Vision-Flan for
# pre-training (which part nobody says); LLaVA's instructions at last.
STAGES: dict[int, tuple[str, ...]] = {1: _CAPTIONS, 2: (*_CAPTIONS, "vflan"), 3: ("llava665k",)}


def dataset_option(names: Sequence[str]) -> str:
    """The value of the trainer's option `--dataset`: it splits at commas and trims nothing."""
    return ",".join(dict.fromkeys(names))


def nearest_name(name: str) -> str:
    """A hint at the dataset name that was meant; empty where none is near."""
    return nearest(name.strip(), NAMES)


# -- the module of datasets ----------------------------------------------------------------------------------

_MODULE = """\
\"\"\"Datasets of ConvLLaVA for the recipe {recipe}, as `prep emit` wrote them.

PATHS has for each name of the trainer's --dataset the JSON list and the folder that `image` of its rows is joined to.
Lay this file where the trainer can import it, as on PYTHONPATH. The builders in the trainer's llava/data/data.py have
placeholders for the two paths; put there

    from {module} import PATHS

    json_path, image_folder = PATHS[{example!a}]

and start training with --dataset as DATASET says. Where a builder can be exchanged as a whole, those below have its
name: called with nothing they give the pair; with a class or function first they call it with the two paths and
whatever else they are given.
\"\"\"

PATHS = {{
{pairs}}}

DATASET = {dataset!a}


def _build(name, make=None, *arguments, **keywords):
    return PATHS[name] if make is None else make(*PATHS[name], *arguments, **keywords)
"""
_BUILDER = """

def {function}(make=None, *arguments, **keywords):
    \"\"\"The paths of {name}, or what `make` makes of them.\"\"\"
    return _build({name!a}, make, *arguments, **keywords)
"""


def module_text(recipe: str, module: str, pairs: Mapping[str, tuple[str, str]], left_out: Iterable[str] = ()) -> str:
    """The text of a Python module with the datasets of a recipe; it imports nothing.

    Args:
        recipe, module: their names.
        pairs: dataset name -> absolute paths of its JSON list and its image folder.
        left_out: what is not in it, and why.
    """
    entries = "".join(
        f"    {name!a}: (\n        {json!a},\n        {images!a},\n    ),\n" for name, (json, images) in pairs.items()
    )
    text = _MODULE.format(
        recipe=recipe, module=module, example=next(iter(pairs)), pairs=entries, dataset=dataset_option(list(pairs))
    )
    comments = "".join(f"# Left out: {ascii(reason)[1:-1]}\n" for reason in left_out)
    return comments + text + "".join(_BUILDER.format(function=NAMES[name].function, name=name) for name in pairs)


def is_module_name(name: str) -> bool:
    """Whether a Python file of this name, without its suffix, can be imported and hides no module of Python's own."""
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name) and name not in stdlib_module_names


def read_module(path: Path) -> tuple[dict[str, tuple[str, str]], str | None]:
    """PATHS and DATASET (None where there is none) of a module such as `module_text` gives; nothing in it is run.

    Raises:
        DataError: it is no Python, or has no PATHS of plain texts.
        UsageError: what the two are cannot be known without running it.
    """
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Check the path and its rights.") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{path} is not good Python: {error}", "Write it anew: `prep emit`.") from error
    values: dict[str, Any] = {}
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or _names_in(node, ast.Global):
            for name in _names_in(node, ast.Name):
                values[name] = _literal(path, node, name)
    paths, dataset = values.get(PATHS), values.get(DATASET)
    if not isinstance(paths, dict) or not all(isinstance(name, str) and _is_pair(pair) for name, pair in paths.items()):
        raise DataError(
            f"{path} has no {PATHS} of dataset names, each with a JSON path and an image folder",
            "`prep emit` writes one; of a list of your own say `prep check FILE.json --image-folder DIR`.",
        )
    if not isinstance(dataset, str | None):
        raise DataError(f"{path}: {DATASET} is no text", "Write the names in one text, with commas between them.")
    return {name: (pair[0], pair[1]) for name, pair in paths.items()}, dataset


def _names_in(node: ast.stmt, kind: type[ast.Name | ast.Global]) -> set[str]:
    """Which of the two that count a statement speaks of."""
    found: set[str] = set()
    for each in ast.walk(node):
        if isinstance(each, kind):
            found |= {each.id} if isinstance(each, ast.Name) else set(each.names)
    return found & {PATHS, DATASET}


def _literal(path: Path, node: ast.stmt, name: str) -> Any:
    """What a statement sets `name` to, where it is an assignment of something written out.

    Raises:
        UsageError: it is none.
    """
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    with suppress(ValueError, TypeError, RecursionError, MemoryError):  # it is put together from other things
        if [ast.unparse(target) for target in targets] == [name] and isinstance(node, ast.Assign | ast.AnnAssign):
            return ast.literal_eval(node.value or ast.Constant(None))
    raise UsageError(
        f"{path}:{node.lineno}: what {name} is cannot be known without running this, and a check runs nothing",
        f"Write {name} out as `prep emit` does; or check each list: `prep check FILE.json --image-folder DIR`.",
    )


def _is_pair(value: object) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    return all(isinstance(path, str) and "\0" not in path for path in value)
