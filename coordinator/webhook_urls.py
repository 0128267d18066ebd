"""Where webhooks may go: what a URL must be, and which addresses are refused.

No I/O: whoever connects asks about the very address that it connects to.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from coordinator.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARS = 2048
FIRST_FREE_PORT = 1024  # below it live services that don't speak HTTP and could be harmed by what looks like a command: mail, above all
HTTP_PORTS = frozenset((80, 443))

# What `ipaddress` takes for global and isn't for us. An address inside a network that embeds IPv4 is judged by what it embeds, too.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_REFUSED: tuple[Network, ...] = (
    _NAT64_LOCAL,
    _COMPATIBLE,
    ipaddress.IPv4Network("168.63.129.16/32"),  # a cloud's service address, reachable from its virtual machines alone
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv4Network("100.64.0.0/10"),
    ipaddress.IPv6Network("3fff::/20"),  # for documentation: younger than some Pythons
)


@dataclass(frozen=True, slots=True)
class WebhookRules:
    """What the deployment says of webhooks' addresses.

    Attributes:
        allowed: networks that may be reached although they aren't public.
    """

    allowed: tuple[Network, ...] = ()

    def refuses(self, text: str) -> str | None:
        """Why an address must not be connected to, as the end of a sentence; None if it may be. What isn't an address is refused.

        Args:
            text: an IPv4 or IPv6 address as the operating system takes it, with or without a zone.
        """
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return f"{text} is no address"
        for one in _meant(address):
            if not any(one in network for network in self.allowed) and not _is_public(one):
                return f"{one} isn't a public address"
        return None


PUBLIC_ONLY = WebhookRules()


def parse_network(text: str) -> Network:
    """A network in CIDR notation, or one address. Raises ValueError with a sentence."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text} is no network ({error}): give one such as 10.0.0.0/8 or fd00::/8") from None


def _meant(address: Address) -> Iterator[Address]:
    """What an address leads to: itself, and the IPv4 addresses that it embeds, but an IPv4-mapped one is nothing beside what it maps."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    yield address
    embedded = [address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        embedded.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    yield from (one for one in embedded if one is not None)


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return False
    if address.is_reserved and not (isinstance(address, ipaddress.IPv6Address) and address in _NAT64):  # which lies in a reserved block
        return False
    return not any(address.version == network.version and address in network for network in _REFUSED)


def check_url(url: str, rules: WebhookRules, field: str) -> str:
    """A webhook's URL, as far as it can be judged without looking its host up; answers it.

    Raises:
        InvalidRequest: names `field`, says what is wrong, and doesn't repeat the URL, which may hold a secret.
    """
    try:
        problem = _problem(url, rules)
    except ValueError as error:  # urlsplit's, for a port or brackets that make no sense
        problem = f"can't be read as a URL ({error}): give one such as https://example.com/hook"
    if problem:
        raise InvalidRequest(f"{field} {problem}", field=field, reason="INVALID_WEBHOOK")
    return url


def _problem(url: str, rules: WebhookRules) -> str:
    if len(url) > MAX_URL_CHARS:
        return f"has {len(url)} characters: at most {MAX_URL_CHARS} are allowed"
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return "has a character that doesn't belong into a URL: write it as %XX, and a host's name in its xn-- form"
    parts = urlsplit(url)
    if not parts.scheme:
        return "has no scheme: begin it with https:// or http://"
    if parts.scheme not in ("http", "https"):
        return f"has the scheme {parts.scheme[:20]!r}: use https or http"
    if parts.username is not None or parts.password is not None:
        return "holds a user name or a password: leave them out; the signature shows who sends"
    if parts.fragment:
        return "has a fragment (#...), which is never sent: leave it out"
    host = parts.hostname
    if not host:
        return "names no host: give one such as https://example.com/hook"
    port = port_of(parts)
    if port not in HTTP_PORTS and port < FIRST_FREE_PORT:
        return f"names port {port}: use 80, 443, or one from {FIRST_FREE_PORT} on"
    if _looks_like_an_address(host):
        reason = rules.refuses(host)
        if reason:
            return f"can't be used: {reason}; webhooks go to public ones, and to what --webhook-allow names"
    return ""


def _looks_like_an_address(host: str) -> bool:
    """IPv6 in brackets, or a last label of digits: no domain has one, and some resolvers read 127.1 or 0x7f000001 as an address."""
    last = host.rstrip(".").rpartition(".")[2]
    return ":" in host or last.isdigit() or last.startswith("0x")


def port_of(parts: SplitResult) -> int:
    """The port that a URL leads to. Raises ValueError when it is no number up to 65535."""
    return parts.port if parts.port is not None else 443 if parts.scheme == "https" else 80


def origin_of(url: str) -> str:
    """A URL's scheme, host and port: what of it may be shown and logged, for its path may hold a secret."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port_of(parts)}"


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Several networks. Raises ValueError with a sentence."""
    return tuple(map(parse_network, texts))
