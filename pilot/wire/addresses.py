"""The address that other machines use for this one, and the address to listen at.

What a site file says may be a host name, an IPv4 address, or the name of a network interface. Only
what faces those who need it is listened at, as far as that can be known from here: the address that
a machine has for its own name is often one that only itself can reach.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from typing import NamedTuple

from pilot.errors import SiteError

#: Listens at all interfaces.
ANY = "*"
_SIOCGIFADDR = 0x8915
#: As the kernel asks for the address of an interface, and answers: its name, the kind, the address.
_REQUEST = struct.Struct("16s2s2x4s232x")


class Address(NamedTuple):
    """The address of a server: as others are told it, and as the server binds it."""

    #: What others are told: a host name or an address.
    told: str
    #: What it listens at: an address, or `ANY`.
    bound: str


def resolve(address: str) -> Address:
    """Find the address to listen at so that others can connect to `address`.

    Parameters
    ----------
    address
        Host name, IPv4 address, name of a network interface, or ``auto``: the host name.

    Raises
    ------
    SiteError
        This machine has no such interface, or cannot resolve the name.
    """
    if address == "auto":
        return Address(socket.gethostname(), ANY)
    interfaces = [name for _, name in socket.if_nameindex()]
    if address in interfaces:
        found = _of_interface(address)
        return Address(found, found)
    try:
        resolved = {entry[4][0] for entry in socket.getaddrinfo(address, None, socket.AF_INET)}
    except (OSError, UnicodeError) as error:
        raise SiteError(
            f"head.address: {address!r} is neither a network interface of {socket.gethostname()} "
            f"({', '.join(interfaces)}), nor an IPv4 address, nor a host name that is known here "
            f"({error}); give the name of this machine as compute nodes know it, the interface "
            "that faces them, or auto"
        ) from error
    if address == "localhost" or _is_number(address):
        return Address(address, str(min(resolved)))
    outward = [found for found in resolved if not ipaddress.ip_address(found).is_loopback]
    return Address(address, str(outward[0]) if len(outward) == 1 else ANY)


def _is_number(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _of_interface(name: str) -> str:
    """Return the IPv4 address of a network interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked, _SIOCGIFADDR, _REQUEST.pack(name.encode(), b"", b""))
        except OSError as error:
            raise SiteError(
                f"head.address: the network interface {name} has no IPv4 address "
                f"({error.strerror}); choose another, or give an address or a host name"
            ) from error
    # Within the address: the port comes first.
    return socket.inet_ntoa(answer[20:24])
