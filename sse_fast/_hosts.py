"""The host of a URL as browsers understand it (URL standard, 3.5), by the library idna."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote_to_bytes

__all__ = ["normalize_address", "normalize_host"]

_HOST = re.compile(r"[0-9A-Za-z._~-]+")
_ZONE = re.compile(r"[0-9A-Za-z._~-]+")
_NUMBER = re.compile(r"0[xX]([0-9A-Fa-f]*)|0([0-7]+)|([0-9]+)")
_JOINERS = {"\u200c", "\u200d"}


def normalize_host(host: str) -> str:
    """Return the domain or IPv4 address to which a host leads, in ASCII.

    Domains are mapped by UTS 46 and encoded as IDNA 2008 has it: a sharp s stays one. ASCII domains
    are only put into lower case, and their labels that begin with "xn--" are checked.

    Args:
        host: the host, possibly percent-encoded, but not in brackets.

    Raises:
        ValueError: it is no valid host, or idna is missing for a domain that needs it.
    """
    if "%" in host:
        host = unquote_to_bytes(host).decode("utf-8", "replace")
    name = host.lower() if host.isascii() else _encode_domain(host)
    if not _HOST.fullmatch(name):
        raise ValueError
    labels = name.removesuffix(".").split(".")
    if _parse_number(labels[-1]) is not None or labels[-1].isdigit():
        return _parse_ipv4(labels)
    # RFC 1035, 2.3.4: the DNS knows no longer names.
    if len(name) > 254 or not all(0 < len(label) < 64 for label in labels):
        raise ValueError
    for label in labels:
        if label.startswith("xn--"):
            _check_encoded(label)
    return name


def normalize_address(text: str) -> tuple[str, str]:
    """Return the IPv6 address in brackets of a URL, and its zone or "".

    Args:
        text: the address, possibly with a zone after a percent sign, which may be encoded.

    Raises:
        ValueError: it is no valid address.
    """
    # Imported late: few programs need it.
    from ipaddress import IPv6Address

    # RFC 6874: the zone has a meaning on this machine only.
    address, has_zone, zone = text.replace("%25", "%").partition("%")
    if has_zone and not _ZONE.fullmatch(zone):
        raise ValueError
    packed = IPv6Address(address).packed
    pieces = [f"{packed[at] << 8 | packed[at + 1]:x}" for at in range(0, 16, 2)]
    # The first of the longest runs of zeros, if it is longer than one, becomes "::".
    runs = re.findall(r"(?:(?<=:)|^)0(?::0)+(?=:|$)", ":".join(pieces))
    if not runs:
        return ":".join(pieces), zone
    before, _, after = f":{':'.join(pieces)}:".partition(f":{max(runs, key=len)}:")
    return f"{before.removeprefix(':')}::{after.removesuffix(':')}", zone


def _parse_number(text: str) -> int | None:
    """Return a number of an IPv4 address: decimal, octal or hexadecimal. None: it is not one."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    hexadecimal, octal, decimal = match.groups()
    if hexadecimal is not None:
        return int(hexadecimal or "0", 16)
    return int(octal, 8) if octal is not None else int(decimal)


def _parse_ipv4(parts: list[str]) -> str:
    """Return an IPv4 address in four decimal numbers; the last given one may span several."""
    if len(parts) > 4:
        raise ValueError
    numbers = []
    for part in parts:
        number = _parse_number(part)
        # int() would take a number with a leading zero and the digit 8 as decimal.
        if number is None or (part[:1] == "0" and part.isdigit() and re.search("[89]", part)):
            raise ValueError
        numbers.append(number)
    last = numbers.pop()
    if any(number > 255 for number in numbers) or last >= 256 ** (4 - len(numbers)):
        raise ValueError
    address = last + sum(number << 8 * (3 - at) for at, number in enumerate(numbers))
    return ".".join(str(byte) for byte in address.to_bytes(4, "big"))


def _load_idna() -> Any:
    try:
        import idna
    except ImportError:
        return None
    return idna


def _encode_domain(domain: str) -> str:
    """Return a domain in ASCII (UTS 46, "ToASCII", not transitional)."""
    idna = _load_idna()
    if idna is None:
        raise ValueError(
            "The URL has a host with non-ASCII characters, which needs idna, which is not "
            "installed: pip install 'sse-fast[client]', or encode the host as xn--..."
        )
    labels = idna.uts46_remap(domain, std3_rules=False).split(".")
    for label in labels:
        if not label.isascii():
            _check_label(idna, label)
    return ".".join(
        label if label.isascii() else "xn--" + label.encode("punycode").decode() for label in labels
    )


def _check_encoded(label: str) -> None:
    """Check a label that is encoded already: it has to be what encoding would yield."""
    idna = _load_idna()
    if idna is None:
        # The DNS decides.
        return
    decoded = label[4:].encode().decode("punycode")
    if decoded.isascii() or idna.uts46_remap(decoded, std3_rules=False) != decoded:
        raise ValueError
    if decoded.encode("punycode").decode() != label[4:]:
        raise ValueError
    _check_label(idna, decoded)


def _check_label(idna: Any, label: str) -> None:
    """Check what UTS 46 asks of a label, which is less than IDNA 2008: symbols pass."""
    idna.check_initial_combiner(label)
    for at, character in enumerate(label):
        if character in _JOINERS and not idna.valid_contextj(label, at):
            raise ValueError
    idna.check_bidi(label)
