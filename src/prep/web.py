"""What every request to the web obeys: which addresses it may reach, how long it waits, who it says it is."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import time
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import prep

USER_AGENT = f"prep/{prep.__version__}"
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 behind a translator, RFC 6052


def may_connect(address: str, *, allow_private_hosts: bool) -> bool:
    """Whether a resolved IP address may be connected to.

    Link-local addresses (where clouds serve a machine's credentials) are refused even where private ones are allowed.
    """
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.split("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    if ip in NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return not ip.is_link_local and not ip.is_multicast and (ip.is_global or allow_private_hosts)


def retry_after(value: str) -> float | None:
    """Seconds that a Retry-After header asks to wait, as a number or as a date; None for anything else."""
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time())


def proxy_addresses() -> set[str]:
    """IP addresses of the proxies that the environment names."""
    found: set[str] = set()
    for url in {url for scheme, url in getproxies().items() if scheme != "no"}:
        with suppress(OSError, ValueError):
            address = urlsplit(url if "://" in url else f"http://{url}")
            found |= {str(info[4][0]) for info in socket.getaddrinfo(address.hostname, address.port)}
    return found


def certificate_authorities() -> str | None:
    """The certificate authorities' file: the user's, this system's, or the one that comes with Python's clients.

    The libcurl inside pycurl's wheels knows no file of its own on most systems.
    """
    paths = ssl.get_default_verify_paths()
    named = (os.environ.get(name) for name in ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))
    places = [*named, paths.cafile, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"]
    for place in places:
        if place and Path(place).is_file():
            return place
    import certifi

    return certifi.where()


class CurlSocket(socket.socket):
    """A socket that pycurl duplicates and then drops; Python would complain that nobody closed it."""

    def __del__(self) -> None:
        self.close()
