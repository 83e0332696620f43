"""The cluster's nodes as machines of their own, so that a localhost address or a wrong interface fails."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from tests.slurm.cluster import PlainCluster, serial


class NamespacedCluster(PlainCluster):
    """Each node has a network, a host name, mounts and process ids of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._net = f"10.{100 + os.getpid() % 100}.{next(serial) % 250}"
        self._bridge = f"tl{os.getpid() % 1_000_000}b"
        self._addresses = {node: f"{self._net}.{11 + index}" for index, node in enumerate(self.nodes)}

    @property
    def controller_host(self) -> str:
        return f"{socket.gethostname().partition('.')[0]}({self._net}.1)"

    def node_line(self, node: str) -> str:
        return f"NodeHostname={node} NodeAddr={node}"

    def node_command(self, node: str) -> list[str]:
        script = 'hostname "$1" && mount --bind "$2" /etc/hosts && exec slurmd -D -f "$3"'
        return [
            *("nsenter", f"--net=/run/netns/{node}"),
            *("unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", script, "sh", node, str(self._hosts(node)), self.environment["SLURM_CONF"]),
        ]

    def controller_command(self, daemon: list[str]) -> list[str]:
        """With names for the nodes, which only slurmctld has to find."""
        script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", str(self._hosts("controller")), *daemon]

    def build(self) -> None:
        """A bridge, and a pair of virtual cards for each node. Each knows itself as 127.0.1.1, as Debian does."""
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self._net}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        self._write_hosts("controller", "127.0.0.1 localhost", *(f"{a} {n}" for n, a in self._addresses.items()))
        for index, (node, address) in enumerate(self._addresses.items()):
            card, others = f"{self._bridge}{index}", {n: a for n, a in self._addresses.items() if n != node}
            _ip("netns", "add", node)
            _ip("link", "add", card, "type", "veth", "peer", "name", f"fabric{index}", "netns", node)
            _ip("link", "set", card, "master", self._bridge, "up")
            _ip("-n", node, "addr", "add", f"{address}/24", "dev", f"fabric{index}")
            _ip("-n", node, "link", "set", "lo", "up")
            _ip("-n", node, "link", "set", f"fabric{index}", "up")
            self._write_hosts(
                node, "127.0.0.1 localhost", f"127.0.1.1 {node}", *(f"{a} {n}" for n, a in others.items())
            )

    def dismantle(self) -> None:
        for node in self.nodes:
            _ip("netns", "del", node, check=False)
        _ip("link", "del", self._bridge, check=False)

    def _hosts(self, node: str) -> Path:
        return self.folder / f"hosts.{node}"

    def _write_hosts(self, whose: str, *lines: str) -> None:
        self._hosts(whose).write_text("\n".join([*lines, ""]))


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)
