"""A registry with versions to serve, and `tuneline serve` as a user starts it."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tasks.methods import Candidate
from tasks.registry.register import register
from tests.flows.worlds import started
from tests.ports import free_port
from tests.registry.worlds import World, make_adapter, make_base, make_request, make_world

MODEL = "served"


class Shop(NamedTuple):
    """`served` has the versions 1 (a prefix, which cannot be merged) and 2 (LoRA); `champion` is on 1."""

    world: World
    candidates: dict[int, Candidate]

    @property
    def folder(self) -> Path:
        """The working directory of `tuneline serve`; its name has a space, as folders may."""
        return self.world.folder

    def move_champion(self, version: int) -> None:
        self.world.client.set_registered_model_alias(MODEL, "champion", str(version))


def make_shop(folder: Path) -> Shop:
    world, base = make_world(folder / "a world"), make_base(folder / "base")
    candidates = {}
    for number, kind in enumerate(("prefix_tuning", "lora"), 1):
        candidates[number] = make_adapter(kind, base, folder / kind)
        register(make_request(world, candidates[number], MODEL), world.tracking, world.root)
    shop = Shop(world, candidates)
    shop.move_champion(1)
    return shop


class Served(NamedTuple):
    """A running `tuneline serve`, and what it has said."""

    process: subprocess.Popen[str]
    url: str
    said: list[str]


@contextmanager
def serving(shop: Shop, model: str, *arguments: str, **variables: str) -> Iterator[Served]:
    """`tuneline serve` until the end of the block."""
    port = str(free_port())
    variables.setdefault("MLFLOW_TRACKING_URI", str(shop.world.tracking.uri))
    with started(shop.folder, "serve", model, "--port", port, *arguments, **variables) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.rstrip("\n"))
            if line.startswith("Ask it"):
                break
        else:
            raise AssertionError((said, process.communicate()))
        yield Served(process, f"http://127.0.0.1:{port}", said)


def ask(url: str, body: dict[str, Any]) -> Any:
    """POST to /invocations."""
    request = urllib.request.Request(  # noqa: S310
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        return json.load(answer)
