"""A small stand-in for the trainer's loader, written from shared facts about its behaviour and never importing `prep`.

Tests hold what `prep` writes, and what `prep check` says, against it. It does what the loader does with an entry of
the training YAML: read the whole table with pandas, filter, sample, and build a row's sample with its images opened.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import pandas as pd
import yaml
from PIL import Image

SCORE, HEIGHT, WIDTH = "fltLaionAesthScore", "intHeight", "intWidth"

# preprocess_fn -> (image columns, text columns, argument that prefixes the images)
FUNCTIONS: dict[str, tuple[list[str], list[str], str]] = {
    "preproces_text_to_image_generation_s3": (["s3_path"], ["caption"], ""),
    "preproces_text_to_image_generation_piat_hash": (["strImagehash"], ["longLLA_captions"], ""),
    "preproces_text_to_image_generation_s3_loc": (["s3_path"], ["caption", "grounding_text"], ""),
    "preproces_text_to_image_generation_layout_sam": (["s3_path"], ["caption", "cap_short", "cap_detail"], "s3_prefix"),
    "preproces_und_mammoth_si_10M": (["image"], ["conversations"], "s3_prefix"),
    "preproces_vw_instruct": (["image"], ["conversations"], "s3_prefix"),
    "preproces_grandf": (["s3_path"], ["loc_caption"], ""),
    "preproces_refcoco_rec": (["s3_path"], ["label", "loc_string"], ""),
    "process_sharegpt_4o_edit": (["input_image", "output_image"], ["input_prompt"], "s3_prefix"),
    "preprocess_reflection_und": (["image"], ["prompts", "results"], "s3_prefix"),
    "process_gpt_edit": (["input_paths", "output_paths"], ["instruction"], "s3_prefix"),
    "process_gpt_edit_loc_gnd": (["input_paths", "output_paths"], ["instruction", "grounding_text"], "s3_prefix"),
    "process_pica_banana": (["local_input_image", "local_output_image"], ["text"], "s3_prefix"),
    "process_metaquery": (["source_images_paths", "tgt_path"], ["prompt"], "s3_prefix"),
    "process_uniworld": (["image", "image_gen", "image_gen_enc"], ["conversations"], ""),
}


def load_yaml(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The entries of a training YAML, as PyYAML gives them."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        entries: list[dict[str, Any]] = yaml.safe_load(file)["datasets"]
    return entries


def load_entry(entry: Mapping[str, Any]) -> pd.DataFrame:
    """The rows training draws from, in the loader's order; fails where the loader fails."""
    path = entry["json_path"]
    if path.endswith(".parquet"):
        frame = pd.read_parquet(path, columns=entry.get("columns"))
        return _sample(_cut(frame, entry), entry.get("sampling_strategy", "all"), is_table=True)
    if path.endswith(".jsonl"):
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            rows = [json.loads(line) for line in file]
    elif path.endswith(".json"):
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            rows = json.load(file)
    else:
        raise ValueError(f"unsupported file {path}")
    return _sample(pd.DataFrame({"row": rows}), entry.get("sampling_strategy", "all"), is_table=False)


def build_sample(entry: Mapping[str, Any], row: int) -> dict[str, Any]:
    """The sample of a row (counted after sampling), with its images opened; fails where the row fails."""
    values: dict[str, Any] = {str(name): value for name, value in load_entry(entry).iloc[row].to_dict().items()}
    images, texts, prefix_argument = FUNCTIONS[entry["preprocess_fn"]]
    arguments = entry.get("process_fn_kwargs", {})
    prefix = arguments.get(prefix_argument, "") if prefix_argument else ""
    if images == ["strImagehash"]:
        prefix = "piat://"
    if "caption_key" in arguments:
        texts = [arguments["caption_key"]]
    opened = []
    for column in images:
        value = values[column]
        if value is not None:
            paths: list[Any] = [value] if isinstance(value, str | float) else list(value)
            opened += [_open(os.path.join(prefix, *_folders(values), path)) for path in paths]  # noqa: PTH118
    text = [_text(column, values[column], entry["preprocess_fn"]) for column in texts]
    return {"images": opened, "text": text, "scores": _scores(values, entry["preprocess_fn"])}


def _folders(values: Mapping[str, Any]) -> list[str]:
    return [values[column] for column in ("dir_name", "folder") if column in values]


def _open(path: str) -> Image.Image:
    if path.startswith(("s3://", "piat://")):
        import piat  # type: ignore[import-not-found]  # outside the authors' company, whatever has that name

        if path.startswith("s3://"):
            return Image.fromarray(piat.s3_image(path)).convert("RGB")
        key = path.removeprefix("piat://")
        try:
            return Image.fromarray(piat.get_image({"strSource": "1024-pil-antialias"}, key)).convert("RGB")
        except Exception:
            return Image.fromarray(piat.get_image({"strSource": "raw"}, key)).convert("RGB")
    with Image.open(path) as image:
        return image.convert("RGB")


def _cut(frame: pd.DataFrame, entry: Mapping[str, Any]) -> pd.DataFrame:
    if SCORE in frame.columns:
        frame = frame[frame[SCORE] > entry.get("aes_cutoff", 5)]
    if "min_size" in entry:
        frame = frame[(frame[HEIGHT] >= entry["min_size"]) & (frame[WIDTH] >= entry["min_size"])]
    if "max_enc_images" in entry:
        limit = entry["max_enc_images"]
        frame = frame[frame[limit["column"]].apply(len) <= limit["value"]]
    return frame


def _sample(frame: pd.DataFrame, strategy: str, *, is_table: bool) -> pd.DataFrame:
    if ":" not in strategy:
        return frame
    word, amount = strategy.split(":")
    percent = amount.endswith("%")
    number = math.ceil(int(amount[:-1]) * len(frame) / 100) if percent else int(amount)
    if word == "first":
        return frame.iloc[:number]
    if word == "end":
        return frame.iloc[-number:]
    if word in ("random", "dup") and not is_table:
        raise TypeError(f"{word} is for tables")
    if word == "random":
        return frame.sample(n=number, random_state=42)
    if word == "dup":
        return frame.loc[frame.index.repeat(number)]
    return frame


def _text(column: str, value: Any, function: str) -> str:
    if column == "conversations":
        turns = json.loads(value) if function == "preproces_und_mammoth_si_10M" else list(value)
        human = turns[0]["from"] != "human"
        assert turns[human]["from"] == "human" and turns[human + 1]["from"] == "gpt"
        return "\n".join(f"{turn['from']}: {turn['value']}" for turn in turns[:2])
    cut: str = value[:800] if "cap" in column and column != "loc_caption" else value + ""
    return cut


def _scores(values: Mapping[str, Any], function: str) -> str:
    if "text_to_image" not in function:
        return ""
    parts = [f"SCORE : {values[SCORE]:.3f}"] if SCORE in values else []
    parts += [f"HPS : {10 * values['hpsv2']:.3f}"] if "hpsv2" in values else []
    return " ".join(parts)
