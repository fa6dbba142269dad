"""Open URLs of sets, with HTTP whose responses are bounded.

By default, fsspec chains file systems for one URL (`reference://`, `zip::http://...`), follows every redirect,
decompresses responses and reads until the server closes. A URL may come from an untrusted configuration and lead to an
untrusted server.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp
import yarl
from fsspec import get_filesystem_class
from fsspec.implementations.http import HTTPFileSystem

from shards.paths import without_password
from shards.records import DataError


def connect(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it. Raises DataError if the package for it is not installed."""
    protocol = url.partition("://")[0]
    try:
        # fsspec.core.url_to_fs would resolve chains of URLs.
        kind = Http if protocol in ("http", "https") else get_filesystem_class(protocol)
        options = {"get_client": _client} if kind is Http else kind._get_kwargs_from_urls(url)
        return kind(**options), kind._strip_protocol(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{without_password(url)}: {error}") from error


class Http(HTTPFileSystem):  # type: ignore[misc]
    """HTTP file system that reads files uncompressed, and no further than requested."""

    async def _cat_file(self, url: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the bytes from `start` to `end`; one byte more if the server sends more."""
        assert end is not None
        headers = {"Accept-Encoding": "identity"}
        if start is not None:
            headers["Range"] = f"bytes={start}-{end - 1}"
        most = end - (start or 0)
        session = await self.set_session()
        async with session.get(self.encode_url(url), headers=headers) as response:
            self._raise_not_found_for_status(response, url)
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding.lower() != "identity":
                raise DataError(
                    f"{without_password(url)}: compressed (Content-Encoding: {encoding}); have the server send it "
                    "uncompressed"
                )
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > most:
                    break
        return bytes(data[: most + 1])


async def _client(**options: Any) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_refuse_other_server)
    return aiohttp.ClientSession(auto_decompress=False, trace_configs=[trace], **options)


async def _refuse_other_server(
    session: aiohttp.ClientSession, context: SimpleNamespace, redirect: aiohttp.TraceRequestRedirectParams
) -> None:
    """Raise DataError on a redirect to another server; aiohttp calls this before it follows a redirect."""
    requested = redirect.response.url
    target = requested.join(yarl.URL(redirect.response.headers.get("Location", "")))
    if target.host != requested.host or (target.scheme, target.port) not in (
        (requested.scheme, requested.port),
        ("https", 443),
    ):
        raise DataError(
            f"{without_password(str(requested))}: redirects to another server, {target.origin()}, which is not "
            "followed; if you trust that server, give its address"
        )
