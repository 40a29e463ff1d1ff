"""Objects of an S3 service: listed, checked and brought; every refusal with what to do."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.exceptions import ReadTimeoutError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prep.config import S3Source
from prep.errors import SourceError
from prep.publishers import Fault, World
from prep.sources import Listing, Part, s3
from prep.sources.transfer import Session
from s3_server import S3Server

ODD = "b c+d%25é?x=1#雪&.txt"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def new_clients() -> Iterator[None]:
    """Clients that see the credentials of this test; others are kept, for they take long to make."""
    s3._make_client.cache_clear()
    yield
    s3._make_client.cache_clear()


@pytest.fixture
def bucket(s3: S3Server) -> S3Server:
    for key in ("data/a.txt", f"data/{ODD}", "data/sub/c.bin", "database/no.txt", "data/a.txt.bak", "data/.hidden"):
        s3.put(key, f"of {key}".encode())
    return s3


@pytest.fixture
def public(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The plain file server as a service whose bucket `files` anyone may read; listings are put in as faults."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    return world


def source(server: S3Server, path: str, **more: Any) -> S3Source:
    return S3Source.model_validate({"kind": "s3", "path": path, "endpoint": server.endpoint, **more})


def listing(given: S3Source) -> Listing:
    return s3.list_parts(given, Path(), None)


def paths(given: S3Source) -> list[str]:
    return [part.path for part in listing(given).parts]


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def error_of(given: S3Source) -> SourceError:
    with pytest.raises(SourceError) as caught:
        listing(given)
    return caught.value


# -- listing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["s3://pictures/data", "s3://pictures/data/"])
def test_a_prefix_is_a_folder(path: str, bucket: S3Server) -> None:
    found = listing(source(bucket, path))
    assert [part.path for part in found.parts] == ["a.txt", "a.txt.bak", ODD, "sub/c.bin"]
    assert found.parts[2] == Part(ODD, f"s3://pictures/data/{ODD}", 31, version=md5(f"of data/{ODD}".encode()))
    assert found.resolved == {}


def test_a_key_is_a_file_and_not_the_beginning_of_others(bucket: S3Server) -> None:
    assert paths(source(bucket, "s3://pictures/data/a.txt")) == ["a.txt"]
    assert paths(source(bucket, "s3://pictures/data/.hidden", include=["*.bin"])) == [".hidden"]
    assert paths(source(bucket, "s3://pictures/data/a.tx")) == []
    assert paths(source(bucket, "s3://pictures/data/sub/")) == ["c.bin"]


def test_a_whole_bucket_and_globs(bucket: S3Server) -> None:
    everything = paths(source(bucket, "s3://pictures"))
    here = [path for path in everything if path.startswith("data")]  # other tests leave their objects in the bucket
    assert here == ["data/a.txt", "data/a.txt.bak", f"data/{ODD}", "data/sub/c.bin", "database/no.txt"]
    assert paths(source(bucket, "s3://pictures", include=["data/*"], exclude=["*.bak", "*/sub/*"])) == [
        "data/a.txt",
        f"data/{ODD}",
    ]


def contents(*keys: str, next_token: str = "", sizes: int = 3) -> Fault:
    """A page of a listing."""
    entries = "".join(f'<Contents><Key>{key}</Key><Size>{sizes}</Size><ETag>"e"</ETag></Contents>' for key in keys)
    more = f"<IsTruncated>{str(bool(next_token)).lower()}</IsTruncated>"
    more += f"<NextContinuationToken>{next_token}</NextContinuationToken>" if next_token else ""
    return Fault(body=f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode())


def at(world: World, path: str = "s3://files/", **more: Any) -> S3Source:
    return S3Source.model_validate({"kind": "s3", "path": path, "endpoint": world.url, "anonymous": True, **more})


def test_folders_as_consoles_make_them_are_no_parts(public: World) -> None:
    public.faults["/files"] = contents("a/", "a/b.txt", "c/")
    assert paths(at(public)) == ["a/b.txt"]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (["/etc/passwd"], "s3://files//etc/passwd: '/etc/passwd' is not a path inside the dataset's folder"),
        (["a//b"], "s3://files/a//b: 'a//b' is not a path inside the dataset's folder"),
        (["a", "a/b"], "s3://files/a/b: 'a/b' needs a folder where s3://files/a is a file"),
    ],
)
def test_keys_that_no_folder_can_hold(keys: list[str], problem: str, public: World) -> None:
    public.faults["/files"] = contents(*keys)
    error = error_of(at(public))
    assert (error.message, error.next_step) == (
        problem,
        "Leave it out with `exclude`, or name a path that does not hold it.",
    )
    assert paths(at(public, exclude=["*a*b", "*etc*"])) == [key for key in keys if key == "a"]


@pytest.mark.parametrize("key", ["data/_manifest.json", "data/_parts.jsonl", "data/.a.txt.part", "n" * 240])
def test_a_single_object_of_a_name_that_is_ours_or_too_long(key: str, public: World) -> None:
    public.faults["/files"] = contents(key)
    error = error_of(at(public, f"s3://files/{key}"))
    assert error.message.startswith(f"s3://files/{key}: {key.rpartition('/')[2]!r} ")


def test_a_step_up_is_hidden_as_every_name_with_a_dot_in_front(public: World) -> None:
    public.faults["/files"] = contents("a/../../b", "../b", "c")
    assert paths(at(public)) == ["c"]


# -- bringing ------------------------------------------------------------------------------------------------


def test_a_file_of_an_odd_name_comes_whole(bucket: S3Server, tmp_path: Path) -> None:
    given, told = source(bucket, "s3://pictures/data/"), list[int]()
    part = next(part for part in listing(given).parts if part.path == ODD)
    target = tmp_path / "raw" / ODD
    with Session(told.append) as session:
        sha256 = s3.fetch(given, part, target, session)
    assert target.read_bytes() == f"of data/{ODD}".encode()
    assert sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert sum(told) == part.size_bytes


def test_an_object_without_bytes_comes(bucket: S3Server, tmp_path: Path) -> None:
    bucket.path("data/a.txt").write_bytes(b"")
    given = source(bucket, "s3://pictures/data/a.txt")
    (part,) = listing(given).parts
    with Session() as session:
        assert s3.fetch(given, part, tmp_path / "a.txt", session) == hashlib.sha256(b"").hexdigest()
    assert (part.size_bytes, (tmp_path / "a.txt").read_bytes()) == (0, b"")


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/", exclude_categories=["Cc"]), min_size=1, max_size=50
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(NAMES.filter(lambda name: name[0] != "."))
def test_any_name_of_a_file_system_works(bucket: S3Server, tmp_path: Path, name: str) -> None:
    given = source(bucket, f"s3://pictures/any/{name}")
    client = s3._client(given)
    client.put_object(Bucket="pictures", Key=f"any/{name}", Body=name.encode())
    (part,) = listing(given).parts
    with Session() as session:
        s3.fetch(given, part, tmp_path / "file", session)
    assert (part.path, (tmp_path / "file").read_bytes()) == (name, name.encode())


def test_addresses_are_signed_anew_and_go_out_after_an_hour(bucket: S3Server, tmp_path: Path) -> None:
    given = source(bucket, "s3://pictures/data/a.txt")
    (part,) = listing(given).parts
    seen: list[Any] = []

    class Watched(Session):
        def bring(self, part: Part, target: Path, *others: Any, **more: Any) -> str:
            seen.extend([part, more["address"]()])
            return super().bring(part, target, *others, **more)

    with Watched() as session:
        s3.fetch(given, part, tmp_path / "a.txt", session)
    address = urlsplit(seen[1])
    query = parse_qs(address.query)
    assert address.path == "/pictures/data/a.txt"
    assert (query["X-Amz-Algorithm"], query["X-Amz-Expires"]) == (["AWS4-HMAC-SHA256"], ["3600"])
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert seen[0].md5 == md5(b"of data/a.txt")
    assert "Signature" not in seen[0].url + part.url


@pytest.mark.parametrize(
    ("bucket_name", "head", "is_md5"),
    [
        ("b", {"ETag": f'"{"ab" * 16}"'}, True),
        ("b", {"ETag": f'"{"AB" * 16}"', "ServerSideEncryption": "AES256"}, True),
        ("b", {"ETag": f'"{"ab" * 16}-3"'}, False),
        ("b", {"ETag": f'"{"ab" * 16}"', "ServerSideEncryption": "aws:kms"}, False),
        ("b", {"ETag": f'"{"ab" * 16}"', "ServerSideEncryption": "aws:kms:dsse"}, False),
        ("b", {"ETag": f'"{"ab" * 16}"', "SSECustomerAlgorithm": "AES256"}, False),
        ("b--use1-az4--x-s3", {"ETag": f'"{"ab" * 16}"'}, False),
        ("b", {}, False),
    ],
)
def test_an_etag_is_an_md5_only_where_s3_says_so(bucket_name: str, head: dict[str, str], is_md5: bool) -> None:
    assert s3._md5(bucket_name, head) == ("ab" * 16 if is_md5 else None)


def test_an_object_replaced_after_the_listing_is_not_taken_for_the_listed_one(bucket: S3Server, tmp_path: Path) -> None:
    given, target = source(bucket, "s3://pictures/data/a.txt"), tmp_path / "a.txt"
    (part,) = listing(given).parts
    bucket.path("data/a.txt").write_bytes(b"OF DATA/A.TXT")
    with pytest.raises(SourceError) as caught, Session() as session:
        s3.fetch(given, part, target, session)
    assert str(caught.value) == (
        "s3://pictures/data/a.txt was replaced after it was listed\n  Run the same command to get the new one."
    )
    gone = Part("gone", "s3://pictures/data/gone", 3, version="e")
    with pytest.raises(SourceError) as caught, Session() as session:
        s3.fetch(given, gone, target, session)
    assert caught.value.message == "s3://pictures/data/gone is not there any more"
    assert not target.exists()


def test_a_body_that_stalls_is_asked_for_again_after_growing_pauses(
    bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = source(bucket, "s3://pictures/data/a.txt")
    (part,) = listing(given).parts
    pauses: list[float] = []
    bodies = iter([b"", b"", b"", b"data"] + [b""] * s3.RANGE_ATTEMPTS)
    monkeypatch.setattr(time, "sleep", pauses.append)

    class Stalling:
        def get_object(self, **asked: Any) -> dict[str, Any]:
            return {"ETag": part.version, "Body": self}

        def read(self) -> bytes:
            body = next(bodies)
            if not body:
                raise ReadTimeoutError(endpoint_url=bucket.endpoint)
            return body

    timeouts: list[int] = []

    def make_client(endpoint: str, region: str | None, anonymous: bool, read_timeout: int) -> Stalling:
        timeouts.append(read_timeout)
        return Stalling()

    monkeypatch.setattr(s3, "_make_client", make_client)
    assert s3.read_range(given, part, 3, 4) == b"data"
    assert pauses == [1, 2, 4]
    with pytest.raises(SourceError, match=r"data/a\.txt: http.* cannot be reached: Read timeout on endpoint URL"):
        s3.read_range(given, part, 3, 4)
    assert pauses == [1, 2, 4, 1, 2, 4, 8]
    assert set(timeouts) == {s3.RANGE_TIMEOUT}


def test_a_public_bucket_is_read_without_credentials(public: World, tmp_path: Path) -> None:
    key = "coco/train2014.zip"
    published = (public.folder / "files" / key).read_bytes()
    public.faults["/files"] = contents(key, sizes=len(published))
    (part,) = listing(at(public)).parts
    etag = parse_etag(public, key)
    with Session() as session:
        s3.fetch(at(public), Part(part.path, part.url, part.size_bytes, version=etag), tmp_path / "x.zip", session)
    assert (tmp_path / "x.zip").read_bytes() == published
    assert [method for method, _ in public.requests] == ["GET", "HEAD", "HEAD", "GET"]
    assert not any("authorization" in name.lower() for sent in public.server.request_headers for name in sent)


def parse_etag(world: World, key: str) -> str:
    client = s3._make_client(world.url, None, True, s3.READ_TIMEOUT)
    return str(client.head_object(Bucket="files", Key=key)["ETag"]).strip('"')


# -- refusals ------------------------------------------------------------------------------------------------


def refusal(status: int, code: str, **headers: str) -> Fault:
    body = f"<Error><Code>{code}</Code><Message>Because.</Message></Error>".encode()
    return Fault(status=status, body=body, headers=headers)


def test_no_credentials(public: World, new_clients: None) -> None:
    assert str(error_of(at(public, anonymous=False))) == (
        "s3://files/: there are no S3 credentials\n"
        "  Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or run `aws configure`; for a public bucket "
        "write `anonymous: true` in the source (`prep add --anonymous`)."
    )


def test_a_profile_that_is_not_there(public: World, new_clients: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    error = error_of(at(public, anonymous=False))
    assert error.message.startswith("s3://files/: the S3 credentials cannot be had: The config profile (nobody)")


def test_no_such_bucket(bucket: S3Server) -> None:
    assert str(error_of(source(bucket, "s3://nothing/here/"))) == (
        f"s3://nothing/here/: there is no such bucket at {bucket.endpoint}\n  Check `path` and `endpoint`."
    )


def test_wrong_credentials_are_not_shown(bucket: S3Server, new_clients: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    error = error_of(source(bucket, "s3://pictures/"))
    assert error.message == "s3://pictures/: the service does not accept the credentials (InvalidAccessKeyId)"
    assert "very-secret" not in str(error)


@pytest.mark.parametrize("status", [403, 401])
def test_access_denied(status: int, public: World, new_clients: None, monkeypatch: pytest.MonkeyPatch) -> None:
    public.faults["/files"] = refusal(status, "AccessDenied")
    assert str(error_of(at(public))) == (
        "s3://files/: access denied without credentials\n"
        "  Remove `anonymous: true` to use yours; where a bucket may be read but not listed, name its files one by one "
        "(`files_from`)."
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert "for a public bucket write `anonymous: true`" in error_of(at(public, anonymous=False)).next_step


def test_a_part_that_may_be_listed_and_not_read(public: World, tmp_path: Path) -> None:
    public.faults["/files/coco/train2014.zip"] = Fault(status=403)
    part = Part("train2014.zip", "s3://files/coco/train2014.zip", 3, version="e")
    with pytest.raises(SourceError) as caught, Session() as session:
        s3.fetch(at(public), part, tmp_path / "x.zip", session)
    assert caught.value.message == "s3://files/coco/train2014.zip: access denied without credentials"

    public.faults["/files/coco/train2014.zip"] = Fault(status=403, after=1)  # HEAD may, GET may not
    part = Part(part.path, part.url, 3, version=parse_etag(public, "coco/train2014.zip"))
    public.faults["/files/coco/train2014.zip"] = Fault(status=403, after=1)
    with pytest.raises(SourceError) as caught, Session() as session:
        s3.fetch(at(public), part, tmp_path / "x.zip", session)
    assert caught.value.message == "s3://files/coco/train2014.zip: access denied without credentials"


@pytest.mark.parametrize(
    ("fault", "message", "next_step"),
    [
        (
            refusal(301, "PermanentRedirect", **{"x-amz-bucket-region": "eu-west-3"}),
            "the bucket is in another region, eu-west-3",
            "Write `region: eu-west-3` in the source (`prep add --region`).",
        ),
        (
            refusal(400, "IllegalLocationConstraintException"),
            "the bucket is in another region",
            "Write `region: ...` in the source (`prep add --region`).",
        ),
        (
            refusal(503, "SlowDown"),
            "the service answers SlowDown: Because.",
            "Try again later; if it stays so, check `endpoint` and `region`. Finished parts are kept.",
        ),
    ],
    ids=["region told", "region not told", "busy"],
)
def test_other_refusals(fault: Fault, message: str, next_step: str, public: World) -> None:
    public.faults["/files"] = fault
    error = error_of(at(public, region="us-east-1"))
    assert (error.message, error.next_step) == (f"s3://files/: {message}", next_step)


def test_what_is_no_s3_service(public: World) -> None:
    given = at(public, "s3://no-such-folder/")
    assert error_of(given).message == f"s3://no-such-folder/: there is no such bucket at {public.url}"
    public.faults["/files"] = Fault(body=b"<html><p>Log in to the network</html>")
    error = error_of(at(public))
    assert error.message == "s3://files/: the service answers 500: Internal Server Error"  # boto3's word for it
    assert "check `endpoint`" in error.next_step


@pytest.mark.parametrize("path", ["s3://files/", "s3://files/a"])
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"<html><head><title>Log in</title></head><body>to the network</body></html>", "what it sends is no listing"),
        (b"", "what it sends is no listing"),
        (
            b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
            "its listing has an object without a key or a size",
        ),
        (
            b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
            "its listing has an object without a key or a size",
        ),
    ],
    ids=["HTML", "nothing", "no size", "no key"],
)
def test_a_listing_that_is_none(body: bytes, problem: str, path: str, public: World) -> None:
    public.faults["/files"] = Fault(body=body)
    assert str(error_of(at(public, path))) == (
        f"{path}: {public.url} does not answer as S3 does: {problem}\n  Check `endpoint` and `region` in the source."
    )


def test_a_service_that_cannot_be_reached() -> None:
    given = S3Source(kind="s3", path="s3://b/", endpoint="http://127.0.0.1:9", anonymous=True)
    error = error_of(given)
    assert error.message.startswith("s3://b/: http://127.0.0.1:9 cannot be reached: Could not connect")
    assert "`endpoint`" in error.next_step


def test_a_bucket_name_that_cannot_be(public: World) -> None:
    name = "b" * 300
    assert error_of(at(public, f"s3://{name}/")).message == f"s3://{name}/ names no bucket or key that can be"


def test_one_client_serves_all_sources_of_a_service(bucket: S3Server, new_clients: None) -> None:
    listing(source(bucket, "s3://pictures/data/"))
    listing(source(bucket, "s3://pictures/database/"))
    assert s3._make_client.cache_info().misses == 1
