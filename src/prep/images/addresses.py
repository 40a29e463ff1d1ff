"""Addresses as lists of images have them, mended where a browser would mend them, and taken apart."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin

_WHOLE = re.compile(
    r"(https?)://(?:[a-z0-9_.~%:!$&'()*+,;=-]*@)?((?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}|\[[0-9a-f:.]+\])(?::([0-9]*))?"
    r"(?:[/?][a-z0-9_.~%/:?@!$&'()*+,;=\[\]-]*)?",
    re.ASCII | re.IGNORECASE,
)
# What `_WHOLE` takes beside letters, digits and _.-~ before the host and after it.
_USER = "%:!$&'()*+,;="
_PATH = _USER + "/?@[]"
_EDGES = "".join(map(chr, range(33)))
_LINE_BREAKS = str.maketrans("", "", "\t\r\n")
_PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """One http(s) address.

    Attributes:
        url: what to ask for; ASCII, without a fragment.
        scheme: `http` or `https`.
        host: in lower case and ASCII, without brackets and a last dot; an IP address in its usual spelling.
        is_ip: whether `host` is an IP address.
    """

    url: str
    scheme: str
    host: str
    port: int
    is_ip: bool


def parse_address(url: str) -> Address:
    """Take an address apart, mended where browsers mend too: spaces, umlauts, `&amp;`, backslashes, line breaks.

    Raises:
        ValueError: it is no http(s) address; says why.
    """
    whole = _WHOLE.fullmatch(url)
    if whole is None or "&amp;" in url:
        whole = _WHOLE.fullmatch(_mended(url))
    if whole is None:
        raise ValueError(f"not an address that can be asked: {url[:200]}")
    scheme, host, port_text = whole.groups()
    scheme, host = scheme.lower(), host.lower()
    port = _PORTS[scheme]
    if port_text:
        port = int(port_text[-6:]) if len(port_text.lstrip("0")) < 6 else 0
        if not 0 < port < 65536:
            raise ValueError(f"no port: {port_text[:20]}")
    # What ends in a number is an IPv4 address, in one of its many spellings, or nothing (https://url.spec.whatwg.org).
    last = host[host.rfind(".") + 1 :]
    is_ip = host[0] == "[" or last.isdigit() or last.startswith("0x")
    return Address(whole[0], scheme, _ip(host) if is_ip else host, port, is_ip)


def follow(url: str, location: str) -> Address:
    """Where a redirect from `url` leads to.

    Raises:
        ValueError: to no http(s) address.
    """
    return parse_address(urljoin(url, location.strip(_EDGES).replace("\\", "/")))


def _mended(url: str) -> str:
    """The address as a browser would send it.

    Raises:
        ValueError: it is none.
    """
    text = url.strip(_EDGES).translate(_LINE_BREAKS).replace("&amp;", "&").partition("#")[0]
    head, mark, query = text.partition("?")
    scheme, _, rest = head.replace("\\", "/").partition("://")
    if scheme.lower() not in _PORTS:
        raise ValueError(f"not an http(s) address: {url[:200]}")
    authority, _, path = rest.partition("/")
    user, at, place = authority.rpartition("@")
    host, colon, port = place.rpartition(":") if re.search(r":[^\]]*$", place) else (place, "", "")
    path, query = (quote(part, _PATH, errors="surrogateescape") for part in (path, query))
    return (
        f"{scheme}://{quote(user, _USER, errors='surrogateescape')}{at}{_ascii(host)}{colon}{port}/{path}{mark}{query}"
    )


def _ascii(host: str) -> str:
    """A host's name as name servers know it."""
    if host.startswith("["):
        return host
    host = unquote(host).removesuffix(".")
    try:
        return host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f"no host's name: {host[:100]}") from error


def _ip(host: str) -> str:
    """An IP address in its usual spelling."""
    try:
        if host.startswith("["):
            return str(ipaddress.IPv6Address(host[1:-1]))
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError) as error:
        raise ValueError(f"no host's name and no IP address: {host[:100]}") from error
