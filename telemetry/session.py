"""A `requests.Session` for one collector, without what one POST to it does not need.

`requests` reads the proxy variables, merges settings and prepares cookies, hooks and redirects for every
request: more than half of what an export costs. Where the collector is asked in plain HTTP and directly,
one kept connection does. Whatever needs more (TLS, a proxy, a password) takes the usual way.
"""

import ipaddress
import select
import socket
from http.client import HTTPConnection, HTTPException
from io import BytesIO
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
from requests.utils import get_environ_proxies, get_netrc_auth, select_proxy


class Session(requests.Session):
    """Posts to one address; remembers the last answer, since exporters say only whether it went well.

    Proxies and passwords of the environment are looked up once. A collector on loopback is asked
    directly, whatever the proxy variables say.

    Args:
        url: The address.
    """

    answer: requests.Response | None = None

    def __init__(self, url: str) -> None:
        super().__init__()
        self._parts = urlsplit(url)
        self._direct = _direct(url, self._parts)
        # A list's own operations are atomic: who finds it empty opens a connection of its own.
        self._idle: list[HTTPConnection] = []
        self._closed = False

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request, as `requests.Session.request` does.

        Raises:
            requests.RequestException: No answer came.
        """
        self.answer = None
        self.answer = self._ask(**kwargs) if self._direct and not args else super().request(*args, **kwargs)
        return self.answer

    def close(self) -> None:
        """Let the connection go. Idempotent."""
        self._closed = True
        super().close()
        while self._idle:
            self._idle.pop().close()

    def _ask(
        self, *, method: str, headers: dict[str, str], data: bytes, timeout: float, **_: Any
    ) -> requests.Response:
        connection = self._connection(timeout)
        path = self._parts.path or "/"
        try:
            target = f"{path}?{self._parts.query}" if self._parts.query else path
            connection.request(method, target, data, headers)
            with connection.getresponse() as got:
                content = got.read()
        except TimeoutError as error:
            connection.close()
            raise requests.Timeout(str(error)) from error
        except (OSError, HTTPException) as error:
            connection.close()
            raise requests.ConnectionError(str(error) or repr(error)) from error
        except BaseException:
            connection.close()
            raise
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)
        return _answer(got.status, got.reason, dict(got.headers), content)

    def _connection(self, timeout_s: float) -> HTTPConnection:
        try:
            kept = self._idle.pop()
        except IndexError:
            return HTTPConnection(self._parts.hostname or "", self._parts.port or 80, timeout=timeout_s)
        kept.timeout = timeout_s
        if kept.sock is not None:
            kept.sock.settimeout(timeout_s)
            if _spoken(kept.sock):
                kept.close()  # it opens again by itself
        return kept


def _direct(url: str, parts: SplitResult) -> bool:
    """Tell whether plain HTTP, without a proxy and a password, is what `requests` would do."""
    if parts.scheme != "http" or parts.username or get_netrc_auth(url):
        return False
    return _loopback(parts.hostname or "") or not select_proxy(url, get_environ_proxies(url))


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _spoken(kept: socket.socket) -> bool:
    """Tell whether the other side has spoken unasked: it has closed the connection."""
    poll = select.poll()
    poll.register(kept, select.POLLIN)
    return bool(poll.poll(0))


def _answer(status: int, reason: str, headers: dict[str, str], content: bytes) -> requests.Response:
    found = requests.Response()
    found.status_code = status
    found.reason = reason
    found.headers.update(headers)
    found.raw = BytesIO(content)
    return found
