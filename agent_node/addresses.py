"""Addresses of coordinators, as people type them. gRPC takes any text for one, and tries for ever."""

GRPC_SCHEMES = ("dns", "unix", "unix-abstract", "vsock", "ipv4", "ipv6", "xds")


def check_addresses(text: str) -> tuple[str, ...]:
    """The addresses in a text, comma separated, each of which can be one.

    Raises:
        ValueError: one can't be, or there is none; the message is a sentence for whoever typed it.
    """
    return tuple(check_address(address) for address in split_addresses(text)) or (check_address(text),)


def split_addresses(text: str) -> tuple[str, ...]:
    """The addresses in a text, comma separated. One of gRPC's targets may hold commas of its own: it is one."""
    if text.partition(":")[0] in GRPC_SCHEMES:
        return (text,)
    return tuple(address for part in text.split(",") if (address := part.strip()))


def check_address(address: str) -> str:
    """The address, if it can be one: `host:port`, or a gRPC target with its scheme.

    Raises:
        ValueError: it can't be one; the message is a sentence for whoever typed it.
    """
    if address.partition(":")[0] in GRPC_SCHEMES:
        return address
    host, _, port = address.rpartition(":")
    if "/" in address:
        advice = f"leave out {address[: address.rindex('/') + 1]!r}"
    elif not host or any(character.isspace() for character in address):
        advice = "give HOST:PORT, such as 127.0.0.1:7450"
    elif ":" in host and not (host.startswith("[") and host.endswith("]")):
        advice = "put an IPv6 address into brackets, such as [::1]:7450"
    elif not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        advice = "the port must be a number from 1 to 65535"
    else:
        return address
    raise ValueError(f"{address!r} isn't an address of a coordinator: {advice}")
