"""Addresses as lists have them: mended like a browser would, or refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.images.addresses import Address, follow, parse_address

MENDED = {
    "http://a.b/c": ("http://a.b/c", "a.b", 80),
    "https://a.b": ("https://a.b", "a.b", 443),
    "http://a.b?c": ("http://a.b?c", "a.b", 80),
    "HTTP://A.B:8080/C": ("HTTP://A.B:8080/C", "a.b", 8080),
    " \n http://a.b/c d\t e\r\n": ("http://a.b/c%20d%20e", "a.b", 80),
    "http://a.b/x\ty\nz": ("http://a.b/xyz", "a.b", 80),
    "http://a.b/c#part?no=1": ("http://a.b/c", "a.b", 80),
    "http://a.b#part": ("http://a.b/", "a.b", 80),
    "http://a.b/c?x=1&amp;y=2&copy=3": ("http://a.b/c?x=1&y=2&copy=3", "a.b", 80),
    "http://bücher.de/ä?ö=ü": ("http://xn--bcher-kva.de/%C3%A4?%C3%B6=%C3%BC", "xn--bcher-kva.de", 80),
    "http://例え.テスト/画像.jpg": (
        "http://xn--r8jz45g.xn--zckzah/%E7%94%BB%E5%83%8F.jpg",
        "xn--r8jz45g.xn--zckzah",
        80,
    ),
    "http:\\\\a.b\\c\\d?e\\f": ("http://a.b/c/d?e%5Cf", "a.b", 80),
    "http://a.b\\@evil.example/": ("http://a.b/@evil.example/", "a.b", 80),
    "http://user:pass@a.b/": ("http://user:pass@a.b/", "a.b", 80),
    "http://us%er:p@ss@a.b/": ("http://us%er:p%40ss@a.b/", "a.b", 80),
    "http://a.b./c": ("http://a.b/c", "a.b", 80),
    "http://a%2Eb/c": ("http://a.b/c", "a.b", 80),
    "http://a_b.c-/d": ("http://a_b.c-/d", "a_b.c-", 80),
    "http://a.b:/c": ("http://a.b:/c", "a.b", 80),
    "http://a.b:00080/c": ("http://a.b:00080/c", "a.b", 80),
    "http://a.b/%zz%|<>\"'`{}^": ("http://a.b/%zz%%7C%3C%3E%22'%60%7B%7D%5E", "a.b", 80),
    "http://a.b/\udce9": ("http://a.b/%E9", "a.b", 80),
    "http://a.b/\0c": ("http://a.b/%00c", "a.b", 80),
    "http://[::1]:81/c": ("http://[::1]:81/c", "::1", 81),
    "http://[2001:DB8::0:1]/c": ("http://[2001:DB8::0:1]/c", "2001:db8::1", 80),
    "http://127.1/c": ("http://127.1/c", "127.0.0.1", 80),
    "http://0x7F.0.0.1/c": ("http://0x7F.0.0.1/c", "127.0.0.1", 80),
    "http://2130706433/c": ("http://2130706433/c", "127.0.0.1", 80),
    "http://１２７.0.0.1/c": ("http://127.0.0.1/c", "127.0.0.1", 80),
    "http://a.b/" + "x" * 8000: ("http://a.b/" + "x" * 8000, "a.b", 80),
}


@pytest.mark.parametrize("url", MENDED, ids=lambda url: ascii(url)[:40])
def test_what_a_browser_mends_is_mended(url: str) -> None:
    mended, host, port = MENDED[url]
    address = parse_address(url)
    assert (address.url, address.host, address.port) == (mended, host, port)
    assert address.scheme == mended.partition(":")[0].lower()
    assert address.is_ip == (host in ("::1", "2001:db8::1", "127.0.0.1"))


REFUSED = [
    *("", " ", "a.jpg", "/a.jpg", "//a.b/c", "ftp://a.b/c", "http:a.b/c", "http:/a.b/c", "http://", "http:///c"),
    *("http://a.b:0/c", "http://a.b:65536/c", "http://a.b:999999999999/c", "http://a.b:-1/c", "http://a.b:x/c"),
    *("http://a..b/c", "http://.a/c", f"http://{'a' * 64}.b/c", "http://a b/c", "http://a\0b/c", "http://%00/c"),
    *("http://[::1", "http://[::1]x/c", "http://[::g]/c", "http://[fe80::1%25eth0]/c", "http://[1.2.3.4]/c"),
    *("http://1.2.3.4.5/c", "http://256.1.1.1/c", "http://08.1.1.1/c", "http://a.0x/c", "http://a.b/\ud800"),
    *("http://@/c", "http://:80/c", "http://a.b@/c", "http://user@name:p/ss@a.b/", "httpſ://a.b/c"),
]


@pytest.mark.parametrize("url", REFUSED, ids=ascii)
def test_what_is_no_address_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_address(url)
    assert str(caught.value)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/c", "http://a.b/c"),
        ("c", "http://a.b/x/c"),
        ("../c", "http://a.b/c"),
        ("?c", "http://a.b/x/y?c"),
        ("//c.d/e", "http://c.d/e"),
        ("\\\\c.d\\e", "http://c.d/e"),
        (" https://c.d/e f#g ", "https://c.d/e%20f"),
        ("", "http://a.b/x/y"),
    ],
)
def test_redirects_are_relative_to_where_they_came_from(location: str, url: str) -> None:
    assert follow("http://a.b/x/y", location).url == url


@given(st.text() | st.text("htps:/\\@[]#?%.&;0123456789abxü \t\n").map("http://".__add__))
def test_every_text_is_an_address_or_refused(url: str) -> None:
    try:
        address = parse_address(url)
    except ValueError:
        return
    assert address.url.isascii() and address.host.isascii() and 0 < address.port < 65536
    assert not set(address.url) & set(" \t\n#\\") and address.host == address.host.lower()
    again = parse_address(address.url)
    assert again == address
    assert isinstance(follow(address.url, ""), Address)
