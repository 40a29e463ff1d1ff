"""libcurl's transfers, any number at once, on an asyncio loop."""

from __future__ import annotations

import asyncio
import resource
import selectors
from contextlib import suppress
from typing import NamedTuple

import pycurl

_FOR_ITS_SOCKET = {
    pycurl.POLL_IN: selectors.EVENT_READ,
    pycurl.POLL_OUT: selectors.EVENT_WRITE,
    pycurl.POLL_INOUT: selectors.EVENT_READ | selectors.EVENT_WRITE,
}
_HAPPENED = {
    selectors.EVENT_READ: pycurl.CSELECT_IN,
    selectors.EVENT_WRITE: pycurl.CSELECT_OUT,
    selectors.EVENT_READ | selectors.EVENT_WRITE: pycurl.CSELECT_IN | pycurl.CSELECT_OUT,
}
_FILES_EACH = 3  # a connection in use, one kept for later, and one that is being closed
_OTHER_FILES = 256  # which this process may have open beside its connections


class Ended(NamedTuple):
    """How a transfer ended: libcurl's code, 0 where all went well, and its words."""

    code: int
    words: str


class Transfers:
    """A multi handle of libcurl, with its connections and its TLS sessions, on the running loop.

    libcurl's sockets are watched by a selector of their own, and the loop watches that one: a socket that comes and
    goes costs half of what the loop's own readers and writers would, and what happens at once is handled at once.

    Args:
        connections: to be kept, in use or idle.
    """

    def __init__(self, connections: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._futures: dict[pycurl.Curl, asyncio.Future[Ended]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._deadline: float | None = None  # of libcurl; the timer may fire before, and is then set again
        self._error: BaseException | None = None  # raised in a callback, where libcurl would swallow it
        self._is_retired = False
        self._selector = selectors.DefaultSelector()
        self._loop.add_reader(self._selector.fileno(), self._on_events)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)

    async def run(self, curl: pycurl.Curl) -> Ended:
        """Do the transfer that an easy handle is set up for."""
        future: asyncio.Future[Ended] = self._loop.create_future()
        self._multi.add_handle(curl)
        self._futures[curl] = future
        try:
            return await future
        finally:
            if self._futures.pop(curl, None):  # given up
                self._multi.remove_handle(curl)
            if self._is_retired and not self._futures:
                self._close()

    def retire(self) -> None:
        """Close everything as soon as the transfers under way have ended."""
        self._is_retired = True
        if not self._futures:
            self._close()

    def _close(self) -> None:
        if not self._multi.closed:
            self._multi.close()
            self._loop.remove_reader(self._selector.fileno())
            self._selector.close()
            if self._timer is not None:
                self._timer.cancel()

    # What libcurl calls; it may not be called from here.

    def _on_socket(self, what: int, socket: int, _multi: pycurl.CurlMulti, _data: object) -> None:
        """Watch a socket, or no longer."""
        try:
            with suppress(KeyError):
                self._selector.unregister(socket)
            if what in _FOR_ITS_SOCKET:
                self._selector.register(socket, _FOR_ITS_SOCKET[what])
        except BaseException as error:
            self._error = error

    def _on_timer(self, milliseconds: int) -> None:
        """Call libcurl after this time; -1 to leave it."""
        if milliseconds < 0:
            self._deadline = None
            return
        self._deadline = self._loop.time() + milliseconds / 1000
        if self._timer is None or self._deadline < self._timer_at:
            self._set_timer(self._deadline)

    # What the loop calls.

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(when, self._on_time), when

    def _on_time(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._deadline > self._loop.time():
            self._set_timer(self._deadline)
            return
        self._deadline = None
        self._collect(self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)[1])

    def _on_events(self) -> None:
        act, running = self._multi.socket_action, len(self._futures)
        for key, events in self._selector.select(0):
            running = act(key.fd, _HAPPENED[events])[1]
        self._collect(running)

    def _collect(self, running: int) -> None:
        """Tell those whose transfers have ended."""
        if self._error is not None:
            for future in self._futures.values():
                if not future.done():
                    future.set_exception(self._error)
            return
        if running == len(self._futures):
            return
        queued = 1
        while queued:
            queued, done, failed = self._multi.info_read()
            for curl in done:
                self._end(curl, Ended(0, ""))
            for curl, code, words in failed:
                self._end(curl, Ended(code, words))

    def _end(self, curl: pycurl.Curl, ended: Ended) -> None:
        self._multi.remove_handle(curl)
        future = self._futures.pop(curl, None)
        if future is not None and not future.done():
            future.set_result(ended)


def within_open_files(connections: int) -> int:
    """As many connections as this process may open files for; its limit is raised where that is allowed."""
    wanted = _FILES_EACH * connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(connections, max(1, (soft - _OTHER_FILES) // _FILES_EACH))
