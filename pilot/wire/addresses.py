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
#: Names of interfaces begin so that lead to containers and virtual machines of this one alone.
_INWARD = ("docker", "virbr", "veth", "lxc", "lxd", "podman", "cni")
#: No more addresses than these are told where nobody has said which.
_MOST_OUTWARD = 4
_SIOCGIFADDR = 0x8915
#: The kernel's question for the address of an interface, and its answer: name, kind, address.
_REQUEST = struct.Struct("16s2s2x4s232x")


class Address(NamedTuple):
    """The address of a server: as others are told it, and as the server binds it."""

    #: The host names and addresses that others are told, each to be tried in turn.
    told: tuple[str, ...]
    #: The address that the server listens at, or `ANY`.
    bound: str


def resolve(address: str, key: str = "head.address") -> Address:
    """Find the address to listen at so that others can connect to `address`.

    A name may be unknown to others, or mean something else to them: so they are also told the
    addresses that it stands for.

    Parameters
    ----------
    address
        Host name, IPv4 address, name of a network interface, or ``auto``: the host name. In a name
        ``{node}`` stands for the host name without its domain.
    key
        The key of the site file that has it, for messages.

    Raises
    ------
    SiteError
        This machine has no such interface, or cannot resolve the name.
    """
    address = address.replace("{node}", socket.gethostname().partition(".")[0])
    if address == "auto":
        return Address(_once(socket.gethostname(), *outward_addresses()), ANY)
    interfaces = [name for _, name in socket.if_nameindex()]
    if address in interfaces:
        found = _of_interface(address, key)
        return Address((found,), found)
    try:
        resolved = {entry[4][0] for entry in socket.getaddrinfo(address, None, socket.AF_INET)}
    except (OSError, UnicodeError) as error:
        raise SiteError(
            f"{key}: {address!r} is neither a network interface of {socket.gethostname()} "
            f"({', '.join(interfaces)}), nor an IPv4 address, nor a host name that is known here "
            f"({error}); give the name of this machine as compute nodes know it, the interface "
            "that faces them, or auto"
        ) from error
    if address == "localhost" or _is_number(address):
        return Address((address,), str(min(resolved)))
    outward = sorted(
        str(found) for found in resolved if not ipaddress.ip_address(found).is_loopback
    )
    bound = outward[0] if len(outward) == 1 else ANY
    return Address(_once(address, *(outward or outward_addresses())), bound)


def outward_addresses() -> list[str]:
    """Return the addresses of this machine's network interfaces that others may reach."""
    found = []
    for _, name in socket.if_nameindex():
        if name.startswith(_INWARD):
            continue
        try:
            address = _of_interface(name, name)
        except SiteError:
            continue  # it has none
        its = ipaddress.ip_address(address)
        if not (its.is_loopback or its.is_link_local):
            found.append(address)
    return found[:_MOST_OUTWARD]


def _once(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _is_number(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _of_interface(name: str, key: str) -> str:
    """Return the IPv4 address of a network interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked, _SIOCGIFADDR, _REQUEST.pack(name.encode(), b"", b""))
        except OSError as error:
            raise SiteError(
                f"{key}: the network interface {name} has no IPv4 address "
                f"({error.strerror}); choose another, or give an address or a host name"
            ) from error
    # Within the address: the port comes first.
    return socket.inet_ntoa(answer[20:24])
