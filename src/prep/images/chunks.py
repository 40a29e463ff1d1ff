"""How the image index of an address dataset lies beside its tables: a file for every `CHUNK_ROWS` rows of a shard."""

from __future__ import annotations

from prep.manifest import Manifest, Shard

CHUNK_ROWS = 5_000  # rows of samples whose images are fetched, and committed, together
NOT_FETCHED = "image_not_fetched"  # filter's reason for a row that passes every rule but has no image yet


def chunk_name(table: str, shard: str, chunk: int) -> str:
    """File name of the index of one chunk of a table's shard."""
    return f"{table}-{shard.removesuffix('.parquet')}-{chunk:05d}.parquet"


def index_shards(index: Manifest, table: str, shard: str) -> tuple[Shard, ...]:
    """The index shards that hold the images of one shard of an address dataset's table."""
    prefix = f"{table}-{shard.removesuffix('.parquet')}-"
    return tuple(part for part in index.shards if part.name.startswith(prefix))
