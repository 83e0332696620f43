"""infra/prefect.yaml: which deployments there are. Keys that Prefect would ignore silently are refused here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, ValidationError

from configs.document import read_value
from tasks.foundation.errors import ConfigError
from tasks.foundation.values import Value

if TYPE_CHECKING:
    from prefect import Flow

FILE: Final = Path(__file__).resolve().parents[1] / "infra" / "prefect.yaml"


class PoolEntry(Value):
    """The work pool whose workers run a deployment."""

    name: str


class LimitEntry(Value):
    """How many runs of a deployment there may be at a time, and what happens to one more."""

    limit: int = Field(gt=0)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class ScheduleEntry(Value):
    """When a deployment runs by itself."""

    slug: str
    """Its name: what finds it again."""
    cron: str
    timezone: str
    active: bool
    parameters: dict[str, Any] = Field(default_factory=dict)


class DeploymentEntry(Value):
    """One deployment, under Prefect's own names."""

    name: str
    entrypoint: str
    """Dotted path of a flow."""
    work_pool: PoolEntry
    parameters: dict[str, Any] = Field(default_factory=dict)
    concurrency_limit: LimitEntry | None = None
    schedules: tuple[ScheduleEntry, ...] = ()

    def flow(self) -> Flow[..., Any]:
        """The flow that it runs.

        Raises:
            ConfigError: there is none.
        """
        from prefect.flows import load_flow_from_entrypoint

        try:
            return load_flow_from_entrypoint(self.entrypoint, use_placeholder_flow=False)
        except (ImportError, AttributeError) as error:
            what = f"{self.entrypoint} cannot be imported: {error}"
            raise ConfigError(what, where=f"deployments.{self.name}.entrypoint", fix="Name a flow") from error


class DeploymentFile(Value):
    """The whole file."""

    deployments: tuple[DeploymentEntry, ...]


def read_declared(path: Path) -> tuple[DeploymentEntry, ...]:
    """The deployments of a file.

    Raises:
        ConfigError: it is missing, or not as it should be.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        fix = "Name it with --file; it lies in infra/ of tuneline's source"
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), fix=fix) from error
    try:
        return DeploymentFile.model_validate(read_value(text, str(path))).deployments
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{place}: {first['msg']}", where=str(path), fix="See docs/orchestration.md") from error
