"""A real Slurm cluster of two nodes on this machine: own keys, ports and folders, and nothing is left of it."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.launch.worlds import alive, wait_until
from tests.ports import free_port
from tests.slurm.files import CGROUPS, write_configuration

log = logging.getLogger(__name__)

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

serial = itertools.count()


def why_not() -> str:
    """Why no cluster can be started here; empty when one can."""
    if os.geteuid() != 0:
        return "a Slurm cluster of our own needs root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"not installed: {', '.join(missing)} (infra/install-system-packages.sh)" if missing else ""


class PlainCluster:
    """Controller, authentication and two slurmd side by side at 127.0.0.1, all of them children of this process."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tl", dir="/tmp"))  # short: a socket's path has 108 bytes at most
        self.mark = f"t{os.getpid()}x{next(serial)}"
        self.nodes = (f"{self.mark}n1", f"{self.mark}n2")
        self.ports = {name: free_port() for name in ("controller", "slurmd", *self.nodes)}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}

    # --- how nodes differ -----------------------------------------------------------------------------------------

    @property
    def controller_host(self) -> str:
        """`SlurmctldHost`."""
        return f"{socket.gethostname().partition('.')[0]}(127.0.0.1)"

    def node_line(self, node: str) -> str:
        """Where slurm.conf finds a node."""
        host = socket.gethostname().partition(".")[0]
        return f"NodeHostname={host} NodeAddr=127.0.0.1 Port={self.ports[node]}"

    def node_command(self, node: str) -> list[str]:
        """What runs slurmd for a node."""
        return ["slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"]]

    def controller_command(self, daemon: list[str]) -> list[str]:
        """What runs the controller."""
        return daemon

    def build(self) -> None:
        """What must be there before the daemons start."""

    def dismantle(self) -> None:
        """Take it away again."""

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Return when both nodes are idle."""
        self._write_files()
        self.build()
        run, logs = self.folder / "run", self.folder / "log"
        self._start(
            "munged",
            *("munged", "--foreground", f"--key-file={self.folder}/munge.key", f"--socket={run}/munge.sock"),
            *(f"--pid-file={run}/munged.pid", f"--log-file={logs}/munged.log", f"--seed-file={run}/munged.seed"),
        )
        wait_until((run / "munge.sock").exists)
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        wait_until(lambda: self.node_states() == ["idle", "idle"])

    def start_controller(self, *, clean: bool = True) -> None:
        """`clean`: without the state that an earlier controller left."""
        daemon = ["slurmctld", "-D", *(["-c"] if clean else []), "-f", self.environment["SLURM_CONF"]]
        self._start("slurmctld", *self.controller_command(daemon))

    def start_node(self, node: str) -> None:
        self._start(node, *self.node_command(node))

    def stop_daemon(self, name: str, number: int = signal.SIGTERM) -> None:
        """End the controller, or a node's slurmd; SIGKILL ends a namespaced node with all that runs on it."""
        process = self.daemons.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def cancel_all(self) -> None:
        """No job is left when it returns."""
        self.command("scancel", "--user=root", check=False)
        self.command("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        wait_until(lambda: self.command("squeue", "-h", check=False) == "")

    def rest(self) -> None:
        """Whatever a test has done: all daemons run, no job is left, and both nodes are idle."""
        if "slurmctld" not in self.daemons:
            self.start_controller(clean=False)
        for node in self.nodes:
            if node not in self.daemons:
                self.start_node(node)
        wait_until(lambda: self.node_states() != [])
        self.cancel_all()
        if self.node_states() != ["idle", "idle"]:
            self.command("scontrol", "update", f"NodeName={','.join(self.nodes)}", "State=RESUME", check=False)
        wait_until(lambda: self.node_states() == ["idle", "idle"])

    def kill_node(self, node: str) -> None:
        """The daemon of a plain node; all of a namespaced one, as when it loses its power."""
        self.stop_daemon(node, signal.SIGKILL)

    def stop(self) -> None:
        """Cancel all jobs, end the daemons, take away cgroups and files."""
        if "slurmctld" in self.daemons:
            with suppress(AssertionError, subprocess.TimeoutExpired):
                self.cancel_all()
        for name in self.nodes:
            self.kill_node(name)
        for name in ("slurmctld", "munged"):
            self.stop_daemon(name)
        self.dismantle()
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(AssertionError):
            wait_until(self._cgroups_are_gone)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- looking --------------------------------------------------------------------------------------------------

    def command(self, *arguments: str, check: bool = True) -> str:
        """Ask Slurm something."""
        done = subprocess.run(
            arguments, capture_output=True, text=True, check=False, timeout=60, env=os.environ | self.environment
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def node_states(self) -> list[str]:
        return self.command("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False).split()

    def jobs(self) -> list[str]:
        """Ids of all jobs that wait or run."""
        return self.command("squeue", "-h", "-o", "%i").split()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        words = self.command("scontrol", "show", "job", number, "-o").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def pids(self) -> list[int]:
        """Everything that runs on the nodes or for them, daemons included, found by the file that all are told."""
        found = []
        for process in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if str(self.folder).encode() in (process / "environ").read_bytes() + (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return [pid for pid in alive(found) if pid != os.getpid()]

    def held(self) -> list[int]:
        """Processes in the cgroups of jobs."""
        found = (folder / "cgroup.procs" for folder in self.cgroups() if "job_" in str(folder))
        return [int(pid) for path in found if path.exists() for pid in path.read_text().split()]

    def cgroups(self) -> list[Path]:
        """Folders of our nodes' cgroups, the deepest first."""
        found = [path for path in CGROUPS.glob(f"*/slurm_{self.mark}*") for path in (path, *path.rglob("*/"))]
        return sorted(found, key=lambda path: len(path.parts), reverse=True)

    def _cgroups_are_gone(self) -> bool:
        """A group can go only some time after its last process."""
        for folder in self.cgroups():
            with suppress(OSError):
                folder.rmdir()
        return not self.cgroups()

    # --- files ----------------------------------------------------------------------------------------------------

    def _write_files(self) -> None:
        self.folder.chmod(0o755)
        for name in ("run", "state", "log", "dev", *(f"spool.{node}" for node in self.nodes)):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        for index in range(2):  # as /dev/null: Slurm wants devices, and hands out their numbers
            os.mknod(self.folder / "dev" / f"gpu{index}", 0o666 | 0o020000, os.makedev(1, 3))
        values = {
            "CLUSTER": self.mark,
            "CONTROLLER": self.controller_host,
            "CONTROLLER_PORT": str(self.ports["controller"]),
            "SLURMD_PORT": str(self.ports["slurmd"]),
        }
        lines = {f"NODE{i + 1}": f"{node} {self.node_line(node)}" for i, node in enumerate(self.nodes)}
        write_configuration(self.folder, values | lines)

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *command],  # a killed test leaves no cluster behind
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": _PATH} | self.environment,
                start_new_session=True,
            )


@contextmanager
def running(cluster: PlainCluster) -> Iterator[PlainCluster]:
    """Start it, and leave nothing of it."""
    try:
        cluster.start()
        log.info("cluster %s with %s", cluster.mark, (cluster.folder / "slurm.conf").read_text())
        yield cluster
    finally:
        cluster.stop()
