"""The whole small world: every publisher's files in one folder, and the server that serves them."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from prep.publishers.allava import write_allava
from prep.publishers.blip3o import LONG_CAPTION, write_blip3o
from prep.publishers.coyo import write_coyo
from prep.publishers.drive import write_drive
from prep.publishers.echo_4o import write_echo_4o
from prep.publishers.gpt_image_edit import write_gpt_image_edit
from prep.publishers.gqa import write_gqa
from prep.publishers.grand_f import HUMAN_DRIVE_ID, HUMAN_IMAGES, write_grand_f
from prep.publishers.hub import TOKEN
from prep.publishers.image_host import write_odd_images
from prep.publishers.laion import AESTHETIC, RESEARCH_SAFE, write_laion
from prep.publishers.llava import write_llava
from prep.publishers.mammoth import write_mammoth
from prep.publishers.ocr_vqa import write_ocr_vqa
from prep.publishers.recaptions import write_recaptions
from prep.publishers.refcoco import write_refcoco
from prep.publishers.reflect_dit import write_reflect_dit
from prep.publishers.replies import Fault
from prep.publishers.sa_1b import write_sa_1b
from prep.publishers.server import PublisherServer
from prep.publishers.sharegpt4v import write_sharegpt4v
from prep.publishers.sharegpt_4o import write_sharegpt_4o
from prep.publishers.textvqa import write_textvqa
from prep.publishers.vision_flan import write_vision_flan
from prep.publishers.visual_genome import write_visual_genome
from prep.publishers.visual_web_instruct import write_visual_web_instruct
from prep.publishers.webdata import drive_files, drive_sources, write_webdata

GATED = (RESEARCH_SAFE, AESTHETIC)
FOLDERS = ("hub", "files", "img", "flickr30k", "drive", "models")
STAMP = "built"


class World:
    """Publishers on loopback; a context manager that builds their files below `folder` and serves them.

    What an earlier run of the same version built for the same port is used again; addresses in the parts hold it.

    Attributes:
        url: the server's address.
        environment: variables that point huggingface_hub, before its import, at this world and nowhere else.
        sources: dataset -> what prep.yaml's `sources:` says to take its files from here.
        server: for `requests`, `request_headers`, `sent` and `faults`, and the knobs of its `hub` and `drive`.
    """

    url: str
    server: PublisherServer

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder.resolve()
        self._port = port
        self._stack = ExitStack()

    def __enter__(self) -> World:
        hub, files, images, _, drive, models = self._folders()
        with ExitStack() as stack:
            server = PublisherServer(hub, files, images, drive=drive, models=models, gated=GATED, port=self._port)
            self.server = stack.enter_context(server)
            self.server.drive.files = {HUMAN_DRIVE_ID: files / "grand-f" / HUMAN_IMAGES, **drive_files(files)}
            self.url = server.url
            self._build()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def requests(self) -> list[tuple[str, str]]:
        """(method, path) of every request so far."""
        return self.server.requests

    @property
    def faults(self) -> dict[str, Fault]:
        """Path -> how it misbehaves; tests put theirs here."""
        return self.server.faults

    @property
    def drive_folder(self) -> str:
        """The id of the Google Drive folder that has ConvLLaVA's web pictures."""
        return self.server.drive.root

    @property
    def environment(self) -> dict[str, str]:
        """Variables for processes that use this world."""
        home = self.folder / "huggingface"
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """Sources of the datasets that are not on the hub, or whose revision is pinned to one that is not here."""
        coco = f"{self.url}/files/coco"
        return {
            "coco-2014": {"kind": "http", "files": [{"url": f"{coco}/train2014.zip"}]},
            "coco-train2017": {"kind": "http", "files": [{"url": f"{coco}/train2017.zip"}]},
            "coco-2017": {
                "kind": "http",
                "files": [{"url": f"{coco}/train2017.zip"}, {"url": f"{coco}/val2017.zip"}],
            },
            "flickr30k": {"kind": "local", "path": str(self.folder / "flickr30k")},
            "blip3o-long-caption": {"kind": "huggingface", "repo": LONG_CAPTION, "include": ["*.tar"]},
            "grand-f-images": {
                "kind": "google-drive",
                "endpoint": f"{self.url}/drive",
                "files": [{"id": HUMAN_DRIVE_ID, "path": HUMAN_IMAGES}],
            },
            **{
                name: {"kind": "http", "files": [{"url": f"{self.url}/files/refcoco/{archive}.zip"}]}
                for name, archive in (("refcoco", "refcoco"), ("refcoco-plus", "refcoco+"), ("refcocog", "refcocog"))
            },
            **{
                name: {"kind": "http", "files": [{"url": f"{self.url}/files/{file}"} for file in archives]}
                for name, archives in (
                    ("gqa", ("gqa/images.zip",)),
                    ("textvqa", ("textvqa/train_val_images.zip",)),
                    ("visual-genome", ("vg/images.zip", "vg/images2.zip")),
                )
            },
            **drive_sources(f"{self.url}/drive"),
            "sa-1b": {"kind": "local", "path": str(self.folder / "files" / "sa-1b")},
            "laion-2b-2022": {"kind": "local", "path": str(self.folder / "files"), "include": ["laion*/*.parquet"]},
        }

    def _folders(self) -> list[Path]:
        return [self.folder / name for name in FOLDERS]

    def _build(self) -> None:
        stamp = f"{self.url} {_version()}"
        built = self.folder / STAMP
        if built.is_file() and built.read_text(encoding="utf-8") == stamp:
            return
        built.unlink(missing_ok=True)
        for folder in self._folders():
            shutil.rmtree(folder, ignore_errors=True)
        write_world(self.folder, self.url)
        built.write_text(stamp, encoding="utf-8")


def write_world(folder: Path, url: str) -> None:
    """Write every publisher's files below `folder` for a server at `url`; the same url gives the same bytes."""
    hub, files, images, flickr, drive, models = (folder / name for name in FOLDERS)
    images.mkdir(parents=True)
    write_odd_images(images)
    write_laion(hub, files, images, url)
    write_coyo(hub, images, url)
    write_blip3o(hub)
    write_grand_f(hub, files, flickr)
    write_drive(drive)
    write_reflect_dit(hub, models)
    write_recaptions(hub, images, url)
    write_mammoth(hub)
    write_visual_web_instruct(hub)
    write_sharegpt_4o(hub)
    write_echo_4o(hub)
    write_gpt_image_edit(hub, models)
    write_refcoco(hub, files)
    write_gqa(files)
    write_ocr_vqa(hub)
    write_sa_1b(files)
    write_textvqa(files)
    write_visual_genome(files)
    write_webdata(hub, files)
    write_allava(hub)
    write_llava(hub)
    write_sharegpt4v(hub)
    write_vision_flan(hub)
    for repo in [*hub.glob("*/*"), *models.glob("*/*")]:
        (repo / ".gitattributes").write_text("*.parquet filter=lfs\n*.tar filter=lfs\n", encoding="utf-8")


def _version() -> str:
    """A digest of this package's code: what it would build."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
