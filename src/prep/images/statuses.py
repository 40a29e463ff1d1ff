"""Every status that an image can have in the index; docs/images.md says what each means and what to do about it."""

from __future__ import annotations

OF_ANY = frozenset({"ok", "empty", "not_an_image", "truncated", "undecodable", "too_large", "too_many_pixels", "gone"})
OF_ADDRESSES = frozenset(
    {
        *("dns", "connect", "tls", "timeout", "redirects", "bad_url", "blocked_address", "opted_out", "too_small"),
        *("http_403", "http_404", "http_410", "http_429", "http_5xx"),  # and http_ with any other number
    }
)
OF_FILES = frozenset({"unsafe_name", "damaged", "lost", "unreadable"})
