"""One file over HTTP: into `X.part`, resumed where that is safe, never under its final name.

Resumed only where the server answers 206 with the very range asked for, of the ETag that the part belongs to; else the
file is begun anew. Whether what arrived is right is for the caller to check: this module knows lengths only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nrdata.errors import UserError
from nrdata.progress import Progress

CHUNK_BYTES = 1 << 18
MB = 1 << 20
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may be another one soon
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for, in seconds."""

    connect: float = 10.0
    read: float = 60.0
    tries: int = 5  # in a row that bring nothing new
    backoff: float = 2.0  # before the second try, doubled before each further one
    total: float = 24 * 3600.0


class Again(Exception):
    """This try failed; another may not."""


def part(final: Path) -> Path:
    return final.with_name(f"{final.name}.part")


def forget(path: Path) -> None:
    """Let the next try begin anew: a part whose bytes were wrong, or that has become a file, is not resumed."""
    _note(path).unlink(missing_ok=True)


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def fetch(url: str, final: Path, size: int | None, checked: bool, patience: Patience = Patience()) -> Path:
    """Fetch `url` into `<final>.part` and return it, complete as far as lengths tell. `size`: bytes, where published;
    `checked`: a published checksum will decide, so that plain HTTP will do.

    Raises `UserError` (kinds `scheme`, `http`, `wrong_size`, `encoded`, `web_page`, `no_answer`, `too_slow`); the part
    stays.
    """
    _allow(url, checked)
    path = part(final)
    deadline = time.monotonic() + patience.total
    failures, best = 0, 0
    while True:
        try:
            _attempt(url, path, size, checked, patience, deadline)
            return path
        except Again as e:
            reason = str(e)
        there = path.stat().st_size if path.exists() else 0
        failures = 1 if there > best else failures + 1
        best = max(best, there)
        if failures >= patience.tries:
            raise UserError(
                f"{url}: {reason}, {failures} tries in vain; {there} bytes stay in {path}, the same command goes on",
                kind="no_answer",
            )
        time.sleep(min(patience.backoff * 2 ** (failures - 1), max(0.0, deadline - time.monotonic())))


def _attempt(url: str, path: Path, size: int | None, checked: bool, patience: Patience, deadline: float) -> None:
    """One request. Returns when the part is complete; raises `Again` where another request may help."""
    etag = _etag_of(path)
    have = path.stat().st_size if etag else 0
    if have and have == size:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "nr"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    try:
        request = urllib.request.Request(url, headers=headers)
        response = _opener(checked, patience).open(request, timeout=patience.connect)
    except urllib.error.HTTPError as e:
        with e:
            if e.code == 416 and have:
                if e.headers.get("Content-Range") == f"bytes */{have}":
                    return
                forget(path)
                raise Again("HTTP 416, the part is longer than the file") from None
            if e.code in TRANSIENT:
                raise Again(f"HTTP {e.code} {e.reason}") from None
            raise UserError(f"{url}: HTTP {e.code} {e.reason}", kind="http") from None
    except (OSError, http.client.HTTPException) as e:
        raise Again(f"no answer ({getattr(e, 'reason', None) or e or type(e).__name__})") from e
    with response:
        have, total = _begin(url, response, path, have, etag, size)
        done = _receive(url, response, path, have, total, deadline)
        if total is not None and done < total:
            raise Again(f"cut off after {done} of {total} bytes")


def _begin(
    url: str, response: http.client.HTTPResponse, path: Path, have: int, etag: str, size: int | None
) -> tuple[int, int | None]:
    """(bytes kept, bytes of the whole file or None): what the answer's head promises. Raises where it will not do."""
    head = response.headers
    if head.get("Content-Encoding", "identity") != "identity":
        raise UserError(f"{url}: sent with encoding {head['Content-Encoding']}, which was not asked for", "encoded")
    if head.get_content_type() == "text/html":
        raise UserError(f"{url}: a web page came, not the archive: log in or accept the licence there", "web_page")
    length = response.length
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", head.get("Content-Range", ""))
        if not have or not span or int(span[1]) != have or head.get("ETag") != etag:
            forget(path)
            raise Again("another range was sent than asked for")
        total = int(span[3]) if span[3] != "*" else None if length is None else have + length
    elif response.status == 200:
        have, total = 0, length
    else:
        raise UserError(f"{url}: HTTP {response.status} {response.reason}", kind="http")
    if size is not None and total not in (None, size):
        raise UserError(f"{url}: {total} bytes are offered, {size} were published", kind="wrong_size")
    if not have:
        _remember(path, head.get("ETag", ""))
    return have, size if size is not None else total


def _receive(
    url: str, response: http.client.HTTPResponse, path: Path, have: int, total: int | None, deadline: float
) -> int:
    """Append what comes to the part, or write it anew (`have` 0); returns the bytes there."""
    shown = max(total or 0, have) // MB
    with path.open("ab" if have else "wb") as file, Progress(shown, f"MB of {path.stem}") as progress:
        progress.advance(have // MB)
        try:
            while data := _read(response, have):
                if total is not None and have + len(data) > total:
                    forget(path)
                    raise UserError(f"{url}: more than the {total} bytes published came", kind="wrong_size")
                file.write(data)
                if total is None:
                    progress.total = (have + len(data)) // MB
                progress.advance((have + len(data)) // MB - have // MB)
                have += len(data)
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{url}: too slow, {have} bytes in the time allowed stay in {path}; the same command goes on",
                        kind="too_slow",
                    )
        finally:
            file.flush()
            os.fsync(file.fileno())
    return have


def _read(response: http.client.HTTPResponse, have: int) -> bytes:
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as e:
        raise Again(f"cut off after {have} bytes ({e or type(e).__name__})") from e


def _etag_of(path: Path) -> str:
    """The strong ETag of a part, "" where there is none: such a part is not resumed."""
    if not path.exists():
        return ""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        etag = json.loads(_note(path).read_text(encoding="utf-8"))["etag"]
        return etag if isinstance(etag, str) else ""
    return ""


def _remember(path: Path, etag: str) -> None:
    """Note the ETag before the first byte of the new part is written over the old one."""
    forget(path)
    path.write_bytes(b"")
    if etag.startswith('"'):  # a weak one (W/) does not stand for the very bytes
        _note(path).write_text(json.dumps({"etag": etag}), encoding="utf-8")


def _allow(url: str, checked: bool) -> None:
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    if scheme != "https" and not (scheme == "http" and (checked or host in LOOPBACK)):
        raise UserError(
            f"{url}: scheme '{scheme}' is not allowed; https is, and http where a checksum was published", kind="scheme"
        )


def _opener(checked: bool, patience: Patience) -> urllib.request.OpenerDirector:
    """HTTP and HTTPS only, redirects too, with one time limit to connect and another to read."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(patience.read)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(patience.read)

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Plain, request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Secure, request)

    class Redirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, request: Any, file: Any, code: Any, message: Any, headers: Any, url: str) -> Any:
            try:
                _allow(url, checked)
            except UserError:
                file.close()
                raise
            return super().redirect_request(request, file, code, message, headers, url)

    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        Http(),
        Https(),
        Redirect(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        director.add_handler(handler)
    return director
