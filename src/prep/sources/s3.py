"""Objects of an S3 service: boto3 lists and signs, our transfer brings the bytes.

Credentials are found as boto3 finds them everywhere: environment, profile, role of the machine.

What S3 says of the bytes (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html): the ETag of an object that
was put in one piece is its MD5, unless it is encrypted with a key of KMS or of the customer; that of one put in several
is 32 hex digits, a dash and a number. A listing does not tell how an object is encrypted, a HEAD does. So a listed
part has no MD5, and its ETag is its version; `fetch`, which asks for the HEAD anyway to learn that the object is still
the listed one, takes the ETag for an MD5 when nothing speaks against it. Directory buckets (`--x-s3`) give ETags that
are no MD5 at all.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

from prep.config import S3Source
from prep.errors import SourceError
from prep.files import atomic_path
from prep.sources import Listing, Part, matching
from prep.sources.file_list import list_named
from prep.sources.paths import checked
from prep.sources.transfer import Refused, Session

SIGNED_SECONDS = 3600
READ_TIMEOUT = 60  # seconds without a byte
RANGE_TIMEOUT = 20  # the same for some bytes of an object, which no service has to look for
RANGE_ATTEMPTS = 5
_NOT_LOGGED_IN = (ProfileNotFound, PartialCredentialsError, CredentialRetrievalError, SSOError, TokenRetrievalError)
_DENIED = {"403", "AccessDenied", "AllAccessDisabled", "AccessForbidden"}
_NOT_ACCEPTED = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
    *("RequestTimeTooSkewed", "TokenRefreshRequired"),
}
_ELSEWHERE = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


class Gone(SourceError):
    """An object that is not there."""


class Replaced(SourceError):
    """An object that is another by now."""


def list_parts(source: S3Source, folder: Path, revision: str | None) -> Listing:
    """The object at the source's path, or the matching ones below it; the ETag is a part's version.

    Raises:
        SourceError: no credentials or the wrong ones, no such bucket, no right to list it, another region, no answer
            from the service, or keys that no folder can hold; a list of objects that cannot be had.
    """
    listing = find_objects(source)
    return Listing(tuple(_noted(part) for part in listing.parts)) if source.in_place else listing


def find_objects(source: S3Source) -> Listing:
    """The same, with the sizes of the objects, also where they are to be read in place."""
    if source.files_from is not None:  # a HEAD each: what else is in the bucket may be millions
        return list_named(Path(source.files_from), source.path, partial(_named_part, source))
    bucket, key = _place(source.path)
    with _explained(source):
        objects = dict(_objects(_client(source), bucket, key))
    is_one = [entry["Key"] for entry in objects.values()] == [key]
    names = objects if is_one else matching(objects, source.include, source.exclude)
    parts = [
        Part(name, f"s3://{bucket}/{objects[name]['Key']}", objects[name]["Size"], version=_etag(objects[name]))
        for name in names
    ]
    return Listing(checked(parts, SourceError, "Leave it out with `exclude`, or name a path that does not hold it."))


def _named_part(source: S3Source, url: str, name: str) -> Part:
    """An object that a list names."""
    bucket, key = _place(url)
    try:
        with _explained(source, url):
            head = _client(source).head_object(Bucket=bucket, Key=key)
    except Gone as error:
        raise SourceError(f"{url} is not there") from error
    return Part(name, url, head["ContentLength"], version=_etag(head))


def read_range(source: S3Source, part: Part, start: int, length: int) -> bytes:
    """Some bytes of an object as it was listed.

    Raises:
        SourceError: the object is gone, is another by now, or may not be read.
    """
    bucket, key = _place(part.url)
    wanted = f"bytes={start}-{start + length - 1}"
    for attempt in range(RANGE_ATTEMPTS):  # the client itself tries again only before the first byte
        with _explained(source, part.url):
            answer = _client(source, RANGE_TIMEOUT).get_object(Bucket=bucket, Key=key, Range=wanted)
            if _etag(answer) != part.version:
                raise _replaced(part)
            try:
                data = bytes(answer["Body"].read())
            except (HTTPClientError, IncompleteReadError):
                if attempt == RANGE_ATTEMPTS - 1:
                    raise
                time.sleep(2**attempt)
                continue
            if len(data) != length:
                raise ValueError(f"{len(data)} bytes came of the {length} that were asked for")
            return data
    raise AssertionError("the last attempt returns or raises")


def _replaced(part: Part) -> Replaced:
    return Replaced(f"{part.url} was replaced after it was listed", "Run the same command to get the new one.")


def fetch(source: S3Source, part: Part, target: Path, session: Session) -> str:
    """Bring one object over signed addresses, each good for an hour and made anew when one is needed.

    Of one that is read in place only a note comes: its address, size and ETag.

    Raises:
        SourceError: the object is gone, is another by now, or may not be read.
    """
    client = _client(source)
    bucket, key = _place(part.url)
    with _explained(source, part.url):
        head = client.head_object(Bucket=bucket, Key=key)
    if _etag(head) != part.version:
        raise _replaced(part)
    if source.in_place:
        return _write_note(part, head, target, session)

    def address() -> str:
        with _explained(source, part.url):
            return str(client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, SIGNED_SECONDS))

    try:
        return session.bring(replace(part, md5=part.md5 or _md5(bucket, head)), target, address=address)
    except Refused as error:
        raise _denied(source, part.url) from error


def _note(url: str, size_bytes: int | None, etag: str | None) -> bytes:
    """What stands in `raw/` for an object that is read in place."""
    note = {"object": url, "size_bytes": size_bytes, "etag": etag}
    return f"{json.dumps(note, ensure_ascii=False)}\n".encode()


def _noted(part: Part) -> Part:
    """An object as the part that stands for it."""
    note = _note(part.url, part.size_bytes, part.version)
    return replace(part, size_bytes=len(note), sha256=hashlib.sha256(note).hexdigest())


def _write_note(part: Part, head: Mapping[str, Any], target: Path, session: Session) -> str:
    note = _note(part.url, head["ContentLength"], _etag(head))
    with atomic_path(target) as temporary:
        temporary.write_bytes(note)
    session.count(len(note))
    return hashlib.sha256(note).hexdigest()


def _etag(described: Mapping[str, Any]) -> str:
    return str(described.get("ETag", "")).strip('"')


def _md5(bucket: str, head: Mapping[str, Any]) -> str | None:
    """The MD5 that an object's ETag is, or None."""
    etag = _etag(head).lower()
    is_plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
    return etag if is_plain and re.fullmatch("[0-9a-f]{32}", etag) and not bucket.endswith("--x-s3") else None


def _place(path: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`; a key may hold anything, `?` and `#` too."""
    bucket, _, key = path.removeprefix("s3://").partition("/")
    return bucket, key


def _client(source: S3Source, read_timeout: int = READ_TIMEOUT) -> Any:
    return _make_client(source.endpoint, source.region, source.anonymous, read_timeout)


@cache
def _make_client(endpoint: str | None, region: str | None, anonymous: bool, read_timeout: int) -> Any:
    """A client, which takes long to make and may be used by many threads."""
    config = Config(
        signature_version=UNSIGNED if anonymous else "s3v4",
        connect_timeout=15,
        read_timeout=read_timeout,
        retries={"mode": "standard", "max_attempts": 5},
        response_checksum_validation="when_required",  # or every address asks for checksums, which few services know
    )
    return boto3.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)


def _objects(client: Any, bucket: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What lies at `key` or, where nothing does, below it; by its path from there."""
    if key and not key.endswith("/"):
        # S3 lists in order of keys, so an object of just this key is the first one.
        for first in _entries(client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)):
            if first["Key"] == key:
                yield key.rpartition("/")[2], first
                return
        key += "/"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
        for entry in _entries(page):
            if not entry["Key"].endswith("/"):  # a folder, as consoles make them
                yield entry["Key"].removeprefix(key), entry


def _entries(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects on a page of a listing.

    Raises:
        ValueError: it is none: boto3 finds nothing in another service's XML, or in HTML.
    """
    if page.keys().isdisjoint(("Name", "IsTruncated", "Contents")):
        raise ValueError("what it sends is no listing")
    entries: list[dict[str, Any]] = page.get("Contents", [])
    if any("Key" not in entry or "Size" not in entry for entry in entries):
        raise ValueError("its listing has an object without a key or a size")
    return entries


@contextmanager
def _explained(source: S3Source, url: str = "") -> Iterator[None]:
    """Turn what boto3 raises, of the object at `url` or else of the listing, into one message with its next step."""
    what = url or source.path
    try:
        yield
    except ClientError as error:
        raise _explain_answer(source, url, error) from error
    except NoCredentialsError as error:
        raise SourceError(
            f"{what}: there are no S3 credentials",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or run `aws configure`; for a public "
            "bucket write `anonymous: true` in the source (`prep add --anonymous`).",
        ) from error
    except _NOT_LOGGED_IN as error:
        raise SourceError(
            f"{what}: the S3 credentials cannot be had: {error}",
            "Mend AWS_PROFILE and ~/.aws, or log in again (`aws sso login`).",
        ) from error
    except ParamValidationError as error:
        raise SourceError(f"{what} names no bucket or key that can be", "Mend `path` in the source.") from error
    except (NoConnection, HTTPClientError) as error:
        raise SourceError(
            f"{what}: {source.endpoint or 'S3'} cannot be reached: {error}",
            "Check the network and `endpoint`, then run the same command; finished parts are kept.",
        ) from error
    except (BotoCoreError, ResponseParserError, ValueError) as error:
        raise SourceError(
            f"{what}: {source.endpoint or 'S3'} does not answer as S3 does: {error}",
            "Check `endpoint` and `region` in the source.",
        ) from error


def _explain_answer(source: S3Source, url: str, error: ClientError) -> SourceError:
    """What an error that the service answers means, of the object at `url` or else of the listing."""
    answer: Any = error.response
    what = url or source.path
    code, headers = answer["Error"].get("Code", ""), answer["ResponseMetadata"].get("HTTPHeaders", {})
    if code in _DENIED:
        return _denied(source, what)
    if code in _NOT_ACCEPTED:
        return SourceError(
            f"{what}: the service does not accept the credentials ({code})",
            "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile, and this machine's "
            "clock.",
        )
    if code == "NoSuchBucket" or (code == "404" and not url):
        return SourceError(
            f"{what}: there is no such bucket at {source.endpoint or 'AWS'}", "Check `path` and `endpoint`."
        )
    if code in ("404", "NoSuchKey"):
        return Gone(f"{what} is not there any more", "Run the same command to list the bucket anew.")
    if code == "InvalidRange":
        return Replaced(f"{what} is shorter than it was when it was listed", "Run the same command to get the new one.")
    if code in _ELSEWHERE:
        region = headers.get("x-amz-bucket-region") or answer["Error"].get("Region")
        return SourceError(
            f"{what}: the bucket is in another region{f', {region}' if region else ''}",
            f"Write `region: {region or '...'}` in the source (`prep add --region`).",
        )
    return SourceError(
        f"{what}: the service answers {code}: {answer['Error'].get('Message', '')}",
        "Try again later; if it stays so, check `endpoint` and `region`. Finished parts are kept.",
    )


def _denied(source: S3Source, what: str) -> SourceError:
    if source.anonymous:
        return SourceError(
            f"{what}: access denied without credentials",
            "Remove `anonymous: true` to use yours; where a bucket may be read but not listed, name its files one by "
            "one (`files_from`).",
        )
    return SourceError(
        f"{what}: access denied",
        "Ask its owner for s3:ListBucket and s3:GetObject, or use another AWS_PROFILE; for a public bucket write "
        "`anonymous: true` in the source (`prep add --anonymous`).",
    )
