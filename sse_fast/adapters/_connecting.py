"""Faults before anything is sent: proxies that refuse to connect, and unusable certificate files.

Each library tells it by an error of its own, mostly by the text of one that it wraps.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from sse_fast._errors import SSEError, TransportError
from sse_fast._source import redact_url
from sse_fast.adapters._clients import iter_exception_chain, wrap_request_error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

__all__ = ["CertificateSettings", "is_about_file", "wrap_connection_error"]

_PROXY_ERRORS = {"ProxyError", "ClientProxyConnectionError"}
# http.client, whose error urllib3 and requests wrap, and httpx.
_TUNNEL_FAILED = re.compile(r"Tunnel connection failed: ([1-9][0-9]{2})\b")
_PROXY_STATUS = re.compile(r"([1-9][0-9]{2})(?: |\Z)")

_FILE_ERRORS = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
# The texts of requests for a path that does not exist, and of urllib3 and OpenSSL for the content.
_BAD_AUTHORITIES = re.compile(
    "TLS CA certificate bundle|cadata|NO_CERTIFICATE_OR_CRL_FOUND|^\\[(?:X509|PEM)[^]]*\\].*PEM lib"
)
_BAD_CERTIFICATE = re.compile(
    "TLS certificate file|TLS key file|private key is encrypted|KEY_(?:VALUES|TYPE)_MISMATCH"
    "|^\\[SSL[^]]*\\].*PEM lib"
)


class CertificateSettings(NamedTuple):
    """The settings of a library that name certificate files."""

    authorities: str
    certificate: str


def wrap_connection_error(
    url: str,
    error: Exception,
    unsent: AbstractSet[str],
    proxy: str = "",
    settings: CertificateSettings | None = None,
) -> SSEError:
    """Make the error to raise for the error that a library raised instead of a response.

    Args:
        url: the URL of the request.
        error: the library's error.
        unsent: names of exception classes which guarantee that no byte of the request was sent.
        proxy: the URL of the proxy that the library uses for the URL, if any and if it tells.
        settings: the settings that name certificate files, if the library reads such files.
    """
    layers = list(iter_exception_chain(error))
    setting = "" if settings is None else _find_bad_setting(url, layers, settings)
    if setting:
        # Another attempt would find the same file.
        return SSEError(
            f"A TLS file of the client cannot be used ({type(layers[-1]).__name__}, see "
            f"__cause__): check {setting}"
        )
    status = _find_proxy_status(layers)
    name = f" {_redact_proxy(proxy)}" if proxy else ""
    if status:
        remedy = "its user and password" if status == 407 else "the proxy settings of the client"
        refusal = TransportError(
            f"The proxy{name} refused to connect to {redact_url(url)} with status {status}: check "
            f"{remedy}",
            phase="connect",
            sent=False,
        )
        refusal.permanent = not _is_temporary(status)
        return refusal
    names = {cls.__name__ for each in layers for cls in type(each).__mro__}
    via = f" through the proxy{name}" if names & _PROXY_ERRORS else ""
    return wrap_request_error(url, error, unsent, via)


def is_about_file(error: Exception) -> bool:
    """Return whether an error of code of the caller, such as a hook, is about a file."""
    is_plain = type(error) is OSError and error.errno is None
    return is_plain or isinstance(error, _FILE_ERRORS)


def _find_bad_setting(url: str, layers: list[BaseException], settings: CertificateSettings) -> str:
    """Return the setting that names a certificate file which cannot be used, or ""."""
    names = {type(each).__name__ for each in layers}
    # Connecting may raise such errors, too: for a Unix socket, or if a firewall forbids it.
    is_tls = url.startswith("https:") and "NewConnectionError" not in names
    for each in layers:
        if is_tls and each is not layers[0] and isinstance(each, _FILE_ERRORS):
            if each.filename is not None and each.filename == os.environ.get("SSLKEYLOGFILE"):
                return "SSLKEYLOGFILE in the environment"
            # urllib3 wraps errors of `load_verify_locations` in one of its own.
            return settings.authorities if "SSLError" in names else settings.certificate
        if type(each) is OSError or "SSLError" in type(each).__name__:
            text = str(each)
            if _BAD_AUTHORITIES.search(text):
                return settings.authorities
            if _BAD_CERTIFICATE.search(text):
                return settings.certificate
    return ""


def _find_proxy_status(layers: Iterable[BaseException]) -> int:
    """Return the status of a proxy that refused to connect, or 0."""
    for each in layers:
        match = None
        if type(each).__name__ == "ClientHttpProxyError":
            return int(getattr(each, "status", 0))
        if type(each) is OSError:
            match = _TUNNEL_FAILED.match(str(each))
        elif type(each).__name__ == "ProxyError":
            match = _PROXY_STATUS.match(str(each))
        if match is not None:
            return int(match[1])
    return 0


def _is_temporary(status: int) -> bool:
    """Return whether a proxy may connect later: as for a status of the server itself."""
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


def _redact_proxy(url: str) -> str:
    """Return scheme, host and port of the URL of a proxy, whose scheme may be missing."""
    scheme, has_scheme, rest = url.rpartition("://")
    host = re.split("[/?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    return f"{scheme.rpartition('@')[2]}{has_scheme}{host}"
