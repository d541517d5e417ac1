"""A data set elsewhere: `https://host/x`, `s3://bucket/x`. Manifest and indexes come first, a shard at its first use.

What an address may be follows from what can be checked. Shards have their SHA-256 in the manifest and come through the
cache. Manifest and indexes have no published checksum, so their way must be trusted: https, s3, and plain http from
this machine alone. Each manifest as it was read has a local folder of its own, where its indexes lie as beside shards.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

from nrdata.errors import UserError
from nrdata.fetch import cache, transfer
from nrdata.store.manifest import NAME, Manifest, Shard, parse_manifest
from nrdata.store.shard import index_path

ADDRESS = re.compile(r"(https?|s3)://", re.IGNORECASE)
log = logging.getLogger(__name__)

AT_ONCE = 8  # index files that are asked for at a time


def is_address(name: str | Path) -> bool:
    """Whether `name` is an address of this kind and not the name of a local file."""
    return bool(ADDRESS.match(str(name))) and not Path(name).exists()


@dataclass(frozen=True)
class Remote:
    """A data set's address, and the local folder where its manifest and the indexes of its shards are kept."""

    address: str
    folder: Path
    cache: cache.Cache

    @contextlib.contextmanager
    def opened(self, shard: Shard, again: bool = False) -> Iterator[IO[bytes]]:
        """A shard, open for reading, from the cache; fetched where it is not there or is damaged there.

        `again`: as in `Cache.opened`. Raises `UserError` as `transfer.fetch`, and `wrong_sha256`.
        """
        url = self.url(shard.file)
        with contextlib.ExitStack() as stack:
            try:
                fetch = self._fetch(url, shard.bytes, checked=True)
                file = stack.enter_context(self.cache.opened(shard.sha256, shard.bytes, fetch, again))
            except UserError as e:
                if e.kind != "wrong_sha256":
                    raise
                raise UserError(f"{url}: {e}", kind=e.kind) from None
            yield file

    @contextlib.contextmanager
    def beside(self, shard: Shard) -> Iterator[Path]:
        """The path of a shard whose index lies beside it, for what reads files: links, for as long as they are held."""
        with self.opened(shard) as file, tempfile.TemporaryDirectory() as folder:
            tar = Path(folder) / shard.file
            tar.symlink_to(Path(str(file.name)).resolve())
            index_path(tar).symlink_to(index_path(self.folder / shard.file).resolve())
            yield tar

    def bring_indexes(self, shards: list[Shard]) -> None:
        """Fetch the index files of `shards` that are not here yet, or that something has written to since."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(self._bring_index, shards):
                pass

    def _bring_index(self, shard: Shard) -> None:
        path = index_path(self.folder / shard.file)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime_ns == cache.mark(shard.sha256):
                return
        with _downloaded(self._fetch(self.url(path.name), None), self.folder) as part:
            os.utime(part, ns=(cache.mark(shard.sha256),) * 2)
            part.replace(path)

    def url(self, name: str) -> str:
        return f"{self.address}/{name if self.address.startswith('s3:') else quote(name)}"

    def _fetch(self, url: str, size: int | None, checked: bool = False) -> Callable[[Path], object]:
        if url.startswith("s3:"):
            return lambda path: _fetch_s3(url, path)
        return lambda path: transfer.fetch(url, path, size, checked)


def open_remote(address: str) -> tuple[Remote, Manifest]:
    """Fetch the manifest of the data set at `address`. `UserError` for a scheme that is not allowed, before anything is
    opened, and for what is not there or cannot be read."""
    address = check_address(address)
    shards = cache.default()
    remote = Remote(address, Path(), shards)
    url = remote.url(NAME)
    with _downloaded(remote._fetch(url, None)) as part:
        data = part.read_bytes()
    manifest = parse_manifest(data, url)
    log.info("%s: shards go through the cache %s", address, shards.folder)
    folder = cache.base_folder() / "sets" / hashlib.sha256(address.encode() + b"\n" + data).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    return Remote(address, folder, shards), manifest


def warn_of_size(remotes: list[Remote], manifests: list[Manifest]) -> None:
    """Warn where data sets from elsewhere are larger than the cache that is to hold them."""
    total = sum(shard.bytes for m in manifests for split in m.splits.values() for shard in split.shards)
    if remotes and total > remotes[0].cache.limit_bytes:
        limit = remotes[0].cache.limit_bytes / 1e9
        warnings.warn(
            f"{total / 1e9:.3g} GB of shards do not fit the cache of {limit:.3g} GB, so that some are fetched "
            "again and again; set NR_CACHE_GB, or NR_CACHE to a folder on a larger disk",
            stacklevel=3,
        )


def check_address(address: str) -> str:
    """The address with its scheme in lower case and no slash at its end; `UserError` (scheme, address, extra)."""
    scheme, rest = address.split("://", 1)
    address = f"{scheme.lower()}://{rest.rstrip('/')}"
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.hostname not in transfer.LOOPBACK:
        raise UserError(
            f"{address}: scheme 'http' is not allowed here, since a manifest has no published checksum; give an "
            "https:// or s3:// address, or tunnel the server's port to this machine (ssh -L) and name localhost",
            kind="scheme",
        )
    if not parts.hostname or parts.username or (parts.scheme != "s3" and re.search(r"[?#\s]", rest)):
        raise UserError(
            f"{parts.scheme}://{parts.hostname or ''}...: give host and folder, with neither password nor ?query; "
            "a name with such characters is written with %",
            kind="address",
        )
    if parts.scheme == "s3" and importlib.util.find_spec("s3fs") is None:
        raise UserError(f"{address}: shards on S3 need the extra s3: pip install 'nr[s3]'", kind="extra")
    return address


@contextlib.contextmanager
def _downloaded(fetch: Callable[[Path], object], beside: Path | None = None) -> Iterator[Path]:
    """A file that was fetched into a folder of its own, for as long as it is held."""
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        path = Path(folder) / "file"
        fetch(path)
        yield transfer.part(path)


def _fetch_s3(url: str, path: Path) -> None:
    """Bring an object to `<path>.part`. Keys, region and endpoint are what AWS's own settings say."""
    import fsspec
    from botocore.exceptions import BotoCoreError

    part = transfer.part(path)
    try:
        filesystem = fsspec.filesystem("s3", config_kwargs={"connect_timeout": 10, "read_timeout": 60})
        filesystem.get_file(url, str(part))
        with part.open("rb") as file:
            os.fsync(file.fileno())
    except FileNotFoundError:
        raise UserError(f"{url} is not there", kind="missing") from None
    except PermissionError as e:
        raise UserError(f"{url}: not allowed ({e}); check the credentials", kind="permission") from e
    except BotoCoreError as e:
        raise UserError(f"{url}: {e}; check network, endpoint and credentials", kind="no_answer") from e
