"""LLaVA's two sets: the mix of instructions for LLaVA-1.5, and LCS-558K's captions with their pictures.

The mix names pictures of other publishers; a row of text alone has no `image` and an empty `model`. Among its rows are
those that ConvLLaVA's loader would stop at. The zip of LCS has no folder over all.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from prep.publishers.packs import write, write_json, zipped
from prep.publishers.pictures import Picture, truncate

INSTRUCT, PRETRAIN = "liuhaotian/LLaVA-Instruct-150K", "liuhaotian/LLaVA-Pretrain"
MIX, LCS = "llava_v1_5_mix665k.json", "blip_laion_cc_sbu_558k.json"
# Member -> size.
LCS_PICTURES = {
    "00453/004539375.jpg": (96, 64),
    "00453/004539376.jpg": (64, 96),
    "00000/000000010.jpg": (96, 96),
    "00000/000000012.jpg": (96, 96),
}
LCS_CUT = "00000/000000012.jpg"
NINE = "coco/train2017/000000000009.jpg"
# Source -> rows of the mix for each ten thousand of the published one (LLaVA's issues 657 and 702 count those).
MIX_ROWS = {"coco": 36, "vg": 9, "gqa": 7, "ocr_vqa": 8, "textvqa": 2, "text": 4}
Row = dict[str, Any]


def write_llava(hub: Path) -> None:
    """Write both repositories."""
    rows = [*_mix(), *_odd_images(), *_odd_tokens(), *_odd_turns()]
    write_json(hub / INSTRUCT / MIX, [*rows, *_more(rows)])
    write_json(
        hub / INSTRUCT / "llava_instruct_150k.json", [dialogue("0", "000000000009.jpg", "<image>\nWhat?", "It.")]
    )
    write(hub / INSTRUCT / "README.md", "# LLaVA Visual Instruct 150K\n")
    write_json(hub / PRETRAIN / LCS, _captions())
    write_json(hub / PRETRAIN / LCS.replace(".json", "_meta.json"), [{"id": "004539375", "blip_caption": "a mattress"}])
    write(hub / PRETRAIN / "images.zip", zipped({name: lcs_picture(name) for name in LCS_PICTURES}))
    write(hub / PRETRAIN / "README.md", "# LLaVA Visual Instruct Pretrain\n")


def dialogue(key: str | int, image: Any, *values: str) -> Row:
    """A row whose dialogue a human begins; without an image it lacks the key."""
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
    return {"id": key, **({} if image is None else {"image": image}), "conversations": turns}


def lcs_picture(name: str) -> bytes:
    """The member of that name in LCS's zip."""
    data = Picture.named(f"lcs {name}", *LCS_PICTURES[name]).encode()
    return truncate(data) if name == LCS_CUT else data


def mix_source(row: Row) -> str:
    """Whose picture a row of the mix shows; `text` for none, empty where its `image` is no path into a collection."""
    image = row.get("image", "text")
    image = image[0] if isinstance(image, list) and len(image) == 1 else image
    source = str(image).partition("/")[0]
    return source if source in MIX_ROWS else ""


def text_row(key: str, *values: str) -> Row:
    """Text alone, as the mixes have it."""
    row = dialogue(key, None, *values)
    return {"id": key, "model": "", "conversations": row["conversations"]}


def _captions() -> list[Row]:
    """LCS: `<image>` first or last; one picture is cut off and one in no zip."""
    first, second, third, cut = LCS_PICTURES
    return [
        _caption(first, "Render a clear summary of the photo.\n<image>", "a mattress with a soft topper"),
        _caption(second, "<image>\nWhat is this?", "two shapes – zwei Formen"),
        _caption(third, "<image>\nSay it briefly.", "a circle"),
        _caption(cut, "<image>\nSay it briefly.", "half a picture"),
        _caption("00000/000000011.jpg", "<image>\nSay it briefly.", "nothing"),
    ]


def _caption(name: str, *values: str) -> Row:
    return dialogue(name.rpartition("/")[2].removesuffix(".jpg"), name, *values)


def _mix() -> list[Row]:
    """Rows about pictures of every source, and about none; the last six show what cannot be used or is not there."""
    six = ("<image>\nWhat is there?", "A circle.", "Which colour?", "Red.", "And beside it?", "A square.")
    ocr = ("761183272", "0123456789", "014028329X", "1565928555", "B000234N7K")
    return [
        dialogue("000000000009", NINE, *six),
        dialogue("000000000009", NINE, "What is on the right?\n<image>", "A square."),
        text_row("wgByO4Y_0", "Sag etwas – 说点什么.", "Grüße, 你好."),
        dialogue("2375429", "gqa/images/2375429.jpg", "<image>\nIs it round?\nAnswer with one word.", "No"),
        dialogue("n1234567", "gqa/images/n1234567.jpg", "<image>\nIs it red?", "Yes"),
        *(dialogue(key, f"ocr_vqa/images/{key}.jpg", "<image>\nWho wrote it?", "I. Writer") for key in ocr),
        dialogue("t", "textvqa/train_images/0a1b2c3d4e5f6071.jpg", "<image>\nWhat is written?", "stop"),
        dialogue("2", "vg/VG_100K/2.jpg", "<image>\nWhere is it?", "[0.1, 0.2, 0.3, 0.4]"),
        dialogue("51", "vg/VG_100K_2/51.jpg", "<image>\nWhere is it?", "[0.5, 0.5, 0.9, 0.9]"),
        dialogue("52", "vg/VG_100K_2/52.jpg", "<image>\nWhere is it?", "In no bytes."),
        dialogue("000000000037", "coco/train2017/000000000037.jpg", "<image>\nWhat is there?", "Half of it."),
        dialogue("000000000036", "coco/train2017/000000000036.jpg", "<image>\nWhat is there?", "Nothing."),
        dialogue("000000000021", "coco/train2017/000000000021.jpg", "<image>\nWhat is there?", "It is in val2017."),
        dialogue("1437717772", "ocr_vqa/images/1437717772.jpg", "<image>\nWho wrote it?", "I. Writer"),
        dialogue("1111111111", "ocr_vqa/images/1111111111.jpg", "<image>\nWho wrote it?", "Nobody has it."),
    ]


def _more(rows: list[Row]) -> list[Row]:
    """Rows that are as they should be, until each source has its share."""
    pictures = {
        "coco": NINE,
        "vg": "vg/VG_100K/2.jpg",
        "gqa": "gqa/images/2375429.jpg",
        "ocr_vqa": "ocr_vqa/images/761183272.jpg",
        "textvqa": "textvqa/train_images/0a1b2c3d4e5f6071.jpg",
    }
    there = Counter(map(mix_source, rows))
    more = []
    for source, count in MIX_ROWS.items():
        for number in range(there[source], count):
            turns = (f"Which number is {number}?", str(number))
            image = pictures.get(source)
            more.append(
                text_row(f"more_{number}", *turns)
                if image is None
                else dialogue(f"more_{number}", image, f"<image>\n{turns[0]}", turns[1])
            )
    return more


def _odd_images() -> list[Row]:
    """Rows whose `image` is no path of a picture."""
    ask = ("<image>\nWhat is there?", "A circle.")
    without = ("What is 2 + 2?", "4")
    null = dialogue("null", None, *ask) | {"image": None}
    return [
        null,
        dialogue("null_without", None, *without) | {"image": None},
        dialogue("no_list", [], *ask),
        dialogue("no_list_without", [], *without),
        dialogue("blank", "", *ask),
        dialogue("blank_without", "", *without),
        dialogue("list_of_one", [NINE], *ask),
        dialogue("list_of_two", [NINE, "vg/VG_100K/2.jpg"], "<image>\n<image>\nCompare.", "They differ."),
        dialogue("absolute", f"/data/{NINE}", *ask),
        dialogue("outside", f"gqa/../{NINE}", *ask),
    ]


def _odd_tokens() -> list[Row]:
    """Rows with another number of `<image>` than of pictures, or with a separator of the trainer's in an answer."""
    return [
        dialogue("in_two_turns", NINE, "<image>\nWhat is there?", "A circle.", "<image>\nAnd now?", "A square."),
        dialogue("twice", NINE, "<image>\n<image>\nWhat is there?", "A circle."),
        dialogue("no_token", NINE, "What is there?", "A circle."),
        text_row("text_with_token", "<image>\nWhat is there?", "Nothing."),
        dialogue("separators", NINE, "<image>\nWhat is there?", "USER: A circle? ASSISTANT: Yes.</s>"),
    ]


def _odd_turns() -> list[Row]:
    """Rows whose turns do not go from human to gpt to the end."""
    ask, answer = "<image>\nWhat is there?", "A circle."
    null_value = dialogue("null_value", NINE, ask, answer)
    null_value["conversations"][1]["value"] = None
    other_roles = dialogue("other_roles", NINE, ask, answer)
    for turn, role in zip(other_roles["conversations"], ("user", "assistant"), strict=True):
        turn["from"] = role
    gpt_first = dialogue("gpt_first", NINE, ask, answer)
    gpt_first["conversations"].insert(0, {"from": "gpt", "value": "Ask me something."})
    twice_human = dialogue("twice_human", NINE, ask, answer)
    twice_human["conversations"].insert(0, {"from": "human", "value": "Hello."})
    system = dialogue("system", NINE, ask, answer)
    system["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    return [
        dialogue("no_turns", NINE),
        null_value,
        dialogue("no_words", NINE, "<image>", ""),
        gpt_first,
        twice_human,
        dialogue("dangling", NINE, ask, answer, "And beside it?"),
        other_roles,
        system,
    ]
