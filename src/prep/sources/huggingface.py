"""Repositories on the Hugging Face hub: its own client lists and authenticates, our transfer brings the bytes.

`HF_ENDPOINT`, `HF_TOKEN` and the client's stored login work as they do everywhere.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, parse_ratelimit_headers  # type: ignore[attr-defined]

from prep.config import HuggingFaceSource
from prep.errors import PrepError, SourceError
from prep.sources import Listing, Part, is_inside, matching
from prep.sources.paths import checked
from prep.sources.transfer import Refused, Session
from prep.web import USER_AGENT, retry_after

ATTEMPTS = 5
PATIENCE_SECONDS = 300.0
BUSY = (429, 500, 502, 503, 504)
Answer = TypeVar("Answer")


def list_parts(source: HuggingFaceSource, folder: Path, revision: str | None) -> Listing:
    """The repository's files that match, at `revision` or (if None) where the source's revision points now.

    Raises:
        SourceError: no such repository or revision, no access, no network, or paths that no folder can hold.
    """
    check_token()
    api = HfApi()
    try:
        info = partial(api.repo_info, source.repo, revision=source.revision, repo_type=source.repo_type)
        commit = revision or _patiently(info).sha
        tree = api.list_repo_tree(source.repo, repo_type=source.repo_type, revision=commit, recursive=True)
        entries = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    except Exception as error:
        _explain(source, revision, error)
    outside = next((path for path in entries if not is_inside(path)), None)
    if outside is not None:
        raise SourceError(f"{_words(source)} lists {outside!r}, a path outside it", "Report it to the hub.")
    parts = []
    for path in matching(entries, source.include, source.exclude):
        entry = entries[path]
        url = hf_hub_url(source.repo, path, repo_type=source.repo_type, revision=commit)
        parts.append(Part(path, url, entry.size, entry.lfs.sha256 if entry.lfs else None, None, entry.blob_id))
    found = checked(parts, SourceError, "Leave it out with `exclude`.")
    return Listing(found, {"repo": source.repo, "revision": commit})


def fetch(source: HuggingFaceSource, part: Part, target: Path, session: Session) -> str:
    """Bring one file of the repository."""
    check_token()
    try:
        return session.bring(part, target, build_hf_headers(user_agent=USER_AGENT))
    except Refused as error:
        raise _refused(source) from error


def check_token() -> None:
    """Refuse a token that no header can hold before the client does, whose error would show it."""
    if not re.fullmatch("[!-~]*", get_token() or ""):
        raise SourceError(
            "the hub's token has characters that no token has",
            "Copy it anew from the hub into HF_TOKEN, or run `hf auth login`.",
        )


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """What the hub answers, after the pauses it asks for, five minutes in all.

    Its client does this by itself for listings (huggingface_hub 2.4, `http_backoff`), not for a dataset's description.
    """
    patience = PATIENCE_SECONDS
    for attempt in range(ATTEMPTS):
        try:
            return ask()
        except HfHubHTTPError as error:
            response = error.response
            if response is None or response.status_code not in BUSY:
                raise
            limit = parse_ratelimit_headers(response.headers)
            seconds = retry_after(response.headers.get("Retry-After", ""))
            if limit is not None and limit.remaining == 0:
                seconds = limit.reset_in_seconds + 1.0  # it counts in whole seconds
            seconds = 2.0**attempt if seconds is None else seconds
            if seconds > patience:
                raise
            patience -= seconds
            time.sleep(seconds)
    return ask()


def _words(source: HuggingFaceSource) -> str:
    return f"hub {source.repo_type} {source.repo}"


def _refused(source: HuggingFaceSource) -> SourceError:
    page = f"https://huggingface.co/{'datasets/' if source.repo_type == 'dataset' else ''}{source.repo}"
    return SourceError(
        f"{_words(source)} is gated or private, and this account has no access",
        f"Accept its terms at {page}, then set HF_TOKEN or run `hf auth login`.",
    )


def _explain(source: HuggingFaceSource, revision: str | None, error: Exception) -> NoReturn:
    """Raise what the hub's client met as one message with its next step."""
    if isinstance(error, PrepError):
        raise error
    if isinstance(error, GatedRepoError):
        raise _refused(source) from error
    if isinstance(error, RevisionNotFoundError):
        pinned = "prep.lock pins it: `prep download --force` resolves it anew."
        raise SourceError(
            f"{_words(source)} has no revision {revision or source.revision!r}",
            pinned if revision else "Check the dataset's YAML.",
        ) from error
    if isinstance(error, RepositoryNotFoundError):
        raise SourceError(
            f"{_words(source)} is not there, or is private",
            "Check `repo` and `repo_type`; for a private one set HF_TOKEN or run `hf auth login`.",
        ) from error
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else "nothing"
        raise SourceError(
            f"the hub answers {status} for {source.repo}", "Try again later; finished parts are kept."
        ) from error
    if isinstance(error, HFValidationError):
        raise SourceError(
            f"{source.repo!r} names no hub {source.repo_type}", "Check `repo` in the dataset's YAML."
        ) from error
    # As of a login page of the network in the hub's place.
    if isinstance(error, ValueError | KeyError | TypeError | RecursionError):
        raise SourceError(
            f"the hub's answer for {source.repo} is not a hub's: {type(error).__name__}: {error}",
            "Check the network and HF_ENDPOINT, then run the same command; finished parts are kept.",
        ) from error
    if isinstance(error, OSError | OfflineModeIsEnabled) or type(error).__module__.startswith("httpx"):
        raise SourceError(
            f"the hub cannot be reached for {source.repo}: {error}",
            "Check the network and HF_ENDPOINT, then run the same command; finished parts are kept.",
        ) from error
    raise error
