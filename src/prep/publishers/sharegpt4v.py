"""ShareGPT4V: three lists of captions and dialogues about pictures of COCO, LCS, SA-1B and from the web."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prep.publishers.llava import NINE, dialogue, text_row
from prep.publishers.packs import write, write_json

REPO = "Lin-Chen/ShareGPT4V"
PT, CAP100K = "share-captioner_coco_lcs_sam_1246k_1107.json", "sharegpt4v_instruct_gpt4-vision_cap100k.json"
VARIANT = "sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json"
LCS = "llava/llava_pretrain/images"
Row = dict[str, Any]


def write_sharegpt4v(hub: Path) -> None:
    """Write the repository."""
    root = hub / REPO
    write_json(root / PT, _pretraining())
    write_json(root / CAP100K, _captions())
    write_json(root / VARIANT, [_row(NINE, "What is there?", "A circle."), text_row("wgByO4Y_0", "Hello.", "Hi.")])
    write(root / "README.md", "# ShareGPT4V\n")


def _pretraining() -> list[Row]:
    """A row of each prefix, and one for each way in which a picture is not there."""
    ask = "What is this photo about?"
    return [
        _row(NINE, ask, "Two shapes stand before a soft background."),
        _row(f"{LCS}/00453/004539375.jpg", ask, "A mattress in a bright room – sehr weich."),
        _row("sam/images/sa_1.jpg", ask, "A street in the evening."),
        _row("sam/images/sa_5.jpg", ask, "A market."),
        _row(f"{LCS}/00000/000000012.jpg", ask, "Half a picture."),
        _row("sam/images/sa_7.jpg", ask, "A picture that no tar has."),
        _row("coco/train2017/000000000002.jpg", ask, "One thing.", "And what else?", "Another thing."),
        text_row("text", "What is a photo?", "Light that was kept."),
    ]


def _captions() -> list[Row]:
    """A row of each of seven prefixes; of the celebrities one is missing."""
    ask = "Describe this picture in detail."
    names = (
        *("coco/train2017/000000000001.jpg", f"{LCS}/00453/004539376.jpg", "sam/images/sa_9.jpg"),
        *("share_textvqa/images/s1.jpg", "web-celebrity/images/Choi_Min-sik.jpg", "web-celebrity/images/a b.jpg"),
        *("web-landmark/images/l1.jpg", "wikiart/images/w1.jpg"),
    )
    return [_row(name, ask, f"Number {number} of eight.") for number, name in enumerate(names, 1)]


def _row(image: str, *values: str) -> Row:
    return dialogue(image.rpartition("/")[2].rpartition(".")[0], image, f"<image>\n{values[0]}", *values[1:])
