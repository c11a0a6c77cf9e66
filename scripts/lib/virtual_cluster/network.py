"""The network of the cluster: a bridge with this machine's address, and one link per node.

Invariant: every link made here is named after the state directory (`Layout.tag`), and only links
so named are ever changed or removed.
"""

import json
import subprocess
from ipaddress import IPv4Network
from typing import Any

from .errors import ClusterError
from .machines import Machine
from .plan import Layout, Node, Plan


def taken_networks() -> list[IPv4Network]:
    """Return the networks that this machine has a route to."""
    routes = json.loads(_ip("-json", "-4", "route", "show", "table", "all"))
    destinations = [route["dst"] for route in routes if route["dst"] != "default"]
    return [IPv4Network(destination, strict=False) for destination in destinations]


def create_bridge(plan: Plan) -> None:
    """Create the bridge and give this machine its address on it."""
    _ip_batch(
        f"link add {plan.bridge} type bridge",
        f"address add {plan.login_address}/{plan.subnet.prefixlen} dev {plan.bridge}",
        f"link set {plan.bridge} up",
    )


def attach(plan: Plan, node: Node, machine: Machine) -> None:
    """Connect the `machine` of `node` to the bridge: there its link is called eth0."""
    _ip_batch(
        f"link add {node.link} type veth peer name eth0 address {node.mac} netns {machine.pid}",
        f"link set {node.link} master {plan.bridge} up",
    )
    _ip_batch(
        "link set lo up",
        f"address add {node.address}/{plan.subnet.prefixlen} dev eth0",
        "link set eth0 up",
        f"route add default via {plan.login_address}",
        inside=machine,
    )


def set_link(node: Node, state: str) -> None:
    """Set the link of `node` `up` or `down`."""
    _ip("link", "set", "dev", node.link, state)


def link_is_up(node: Node) -> bool:
    """Tell whether the link of `node` exists and has been set up."""
    return "UP" in _links().get(node.link, {}).get("flags", [])


def remove_link(node: Node) -> None:
    """Remove the link of `node`, if it is there."""
    if node.link in _links():
        _ip("link", "delete", "dev", node.link)


def remove_all(layout: Layout) -> None:
    """Remove every link that belongs to this state directory."""
    for name in sorted(links_of(layout), reverse=True):  # the bridge has the shortest name: last
        _ip("link", "delete", "dev", name)


def links_of(layout: Layout) -> list[str]:
    """Return the names of the links that belong to this state directory."""
    return [name for name in _links() if name == layout.tag or name.startswith(f"{layout.tag}-")]


def _links() -> dict[str, Any]:
    return {link["ifname"]: link for link in json.loads(_ip("-json", "link", "show"))}


def _ip(*arguments: str) -> str:
    return _run(["ip", *arguments], "")


def _ip_batch(*commands: str, inside: Machine | None = None) -> None:
    batch = ["ip", "-batch", "-"]
    _run(inside.inside(batch) if inside else batch, "\n".join(commands) + "\n")


def _run(command: list[str], stdin: str) -> str:
    answer = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise ClusterError(
            f"{' '.join(command)} failed: {answer.stderr.strip()}"
            + (f"\nin this batch:\n{stdin}" if stdin else "")
        )
    return answer.stdout
