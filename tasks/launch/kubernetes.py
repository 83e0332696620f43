"""Kubernetes objects that run an experiment: a Job of one pod, an indexed Job of several, or a JobSet.

Pure: settings in, plain mappings out. Nothing here talks to a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from tasks.foundation.values import Settings
from tasks.launch.invitations import EXCHANGE, POD_ADDRESS, POD_IP

_LABEL = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
Label = Annotated[str, StringConstraints(pattern=_LABEL, max_length=63)]
"""A name as RFC 1123 allows it for one part of a host name."""
ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
"""A name of a Secret or a claim."""
ResourceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*/[A-Za-z0-9][\w.-]*$", max_length=253)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*(m|[kMGT]|[KMGT]i)?$", max_length=20)]
_PART = r"[a-z0-9]+([._-]+[a-z0-9]+)*"
ImageName = Annotated[
    str,
    StringConstraints(
        pattern=rf"^{_PART}(:[0-9]+)?(/{_PART})*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{{64}})?$",
        max_length=255,
    ),
]
"""`host:port/path:tag@digest`."""

RETRIED: Final = (31, 32, 143)
"""Hung, a rank died, ended from outside: the next attempt goes on from the last checkpoint."""
FINAL: Final = (10, 11, 12, 30, 40, 41)
"""Wrong settings, data or model, divergence, integrity, a closed gate: another attempt ends alike."""

_GRACE_SECONDS: Final = 60
"""From SIGTERM to SIGKILL: a checkpoint is committed within 20 s; the rest is for the journal."""
_ATTEMPTS: Final = 6
_RUNS, _EXPERIMENT = "/runs", "/experiment"
_FIRST_OR_FOLLOWER: Final = (
    'if [ "$JOB_COMPLETION_INDEX" = 0 ]; then exec tuneline "$@"; else exec python -m tasks.launch.follow; fi'
)
"""Constant text: what a user wrote comes as arguments."""


class ManifestSettings(Settings):
    """What `tuneline manifest` is told, beside the experiment."""

    name: Annotated[str, StringConstraints(pattern=_LABEL, max_length=40)]
    """Of all objects; pods add an index and five letters to it."""
    namespace: Label = "default"
    """Where they are made."""
    image: ImageName
    """With tuneline installed; best by digest: `registry/tuneline@sha256:…`."""
    kind: Literal["job", "jobset"] = "job"
    """A Job, or a JobSet (which its own controller must be installed for)."""
    nodes: int = Field(default=1, gt=0)
    """Pods of one gang."""
    accelerators: int = Field(default=0, ge=0)
    """Of each pod; 0 asks for none."""
    accelerator_resource: ResourceName = "nvidia.com/gpu"
    """As the cluster's device plugin calls them."""
    cpu: Quantity = "8"
    """Cores of each pod."""
    memory: Quantity = "64Gi"
    """Of each pod, shared memory included."""
    shared_memory: Quantity = "8Gi"
    """For what ranks of one pod tell each other through memory."""
    claim: ObjectName = "tuneline-runs"
    """The PersistentVolumeClaim for the runs folder; for several pods one with ReadWriteMany."""
    secrets: tuple[ObjectName, ...] = ()
    """Secrets whose keys become environment variables, such as the tracking server's password. Never values."""
    file: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*\.yaml$", max_length=80)] = "experiment.yaml"
    """Name of the experiment file; the experiment has its name from it where it sets none."""
    experiment: str = Field(max_length=256 * 1024)
    """The text of the experiment file."""
    overrides: tuple[str, ...] = ()
    """`key=value`, as on the command line."""

    @model_validator(mode="after")
    def _rules(self) -> ManifestSettings:
        for text in self.overrides:
            if "\x00" in text or len(text) > 4096:
                raise ValueError("overrides: one is too long, or holds a NUL")
        return self


Manifest = dict[str, Any]


def manifests(settings: ManifestSettings) -> list[Manifest]:
    """The objects, in the order in which they are to be made."""
    if settings.kind == "jobset":
        return [_config_map(settings), _job_set(settings)]
    if settings.nodes == 1:
        return [_config_map(settings), _job(settings, _one_pod(settings))]
    return [_config_map(settings), _service(settings), _job(settings, _any_pod(settings))]


def _config_map(settings: ManifestSettings) -> Manifest:
    data = {settings.file: settings.experiment}
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(settings), "immutable": True, "data": data,
    }  # fmt: skip


def _service(settings: ManifestSettings) -> Manifest:
    """Names for the pods of the Job, also before they are ready: they meet while they start."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"batch.kubernetes.io/job-name": settings.name},
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(settings), "spec": spec}


def _job(settings: ManifestSettings, pod: Manifest) -> Manifest:
    spec = _job_spec(settings, pod, settings.nodes)
    if settings.nodes > 1:
        spec |= {"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(settings), "spec": spec}


def _job_spec(settings: ManifestSettings, pod: Manifest, pods: int) -> Manifest:
    return {
        "parallelism": pods,
        "completions": pods,
        "backoffLimit": _ATTEMPTS,
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": {"metadata": {"labels": _labels(settings)}, "spec": pod},
    }


def _failure_rules() -> list[Manifest]:
    """The first rule that fits decides; what fits none counts against `backoffLimit` too."""
    return [
        {"action": "FailJob", "onExitCodes": {"containerName": "tuneline", "operator": "In", "values": [*FINAL]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Count", "onExitCodes": {"containerName": "tuneline", "operator": "In", "values": [*RETRIED]}},
    ]


def _job_set(settings: ManifestSettings) -> Manifest:
    """One replicated Job for the first pod, one for the others; all start anew together when one fails."""
    jobs = [_replicated("first", _one_pod(settings), settings, 1)]
    if settings.nodes > 1:
        jobs.append(_replicated("others", _follower_pod(settings), settings, settings.nodes - 1))
    spec = {
        "network": {"enableDNSHostnames": True, "subdomain": settings.name, "publishNotReadyAddresses": True},
        "successPolicy": {"operator": "All", "targetReplicatedJobs": ["first"]},
        "failurePolicy": {
            "maxRestarts": _ATTEMPTS,
            "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
        },
        "replicatedJobs": jobs,
    }
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": _metadata(settings), "spec": spec}


def _replicated(name: str, pod: Manifest, settings: ManifestSettings, pods: int) -> Manifest:
    spec = _job_spec(settings, pod, pods) | {"backoffLimit": 0, "completionMode": "Indexed"}
    return {"name": name, "replicas": 1, "template": {"spec": spec}}


def _one_pod(settings: ManifestSettings) -> Manifest:
    """The pod in which the pipeline runs, and its ranks."""
    first = f"{settings.name}-first-0-0.{settings.name}"
    variables = _meeting(first) if settings.nodes > 1 else []
    return _pod(settings, ["tuneline"], _arguments(settings), variables)


def _follower_pod(settings: ManifestSettings) -> Manifest:
    return _pod(settings, ["python", "-m", "tasks.launch.follow"], [], _meeting(None))


def _any_pod(settings: ManifestSettings) -> Manifest:
    """The first pod or another one: all pods of an indexed Job have one template."""
    first = f"{settings.name}-0.{settings.name}"
    command = ["/bin/sh", "-c", _FIRST_OR_FOLLOWER, "sh"]
    return _pod(settings, command, _arguments(settings), _meeting(first)) | {"subdomain": settings.name}


def _arguments(settings: ManifestSettings) -> list[str]:
    return ["run", f"{_EXPERIMENT}/{settings.file}", *map(_literal, settings.overrides)]


def _literal(text: str) -> str:
    """Kubernetes replaces $(NAME) in arguments; two dollars stand for one."""
    return text.replace("$", "$$")


def _meeting(first: str | None) -> list[Manifest]:
    variables: list[Manifest] = [
        {"name": EXCHANGE, "value": f"{_RUNS}/pods"},
        {"name": POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    return variables + ([{"name": POD_ADDRESS, "value": first}] if first else [])


def _pod(settings: ManifestSettings, command: list[str], arguments: list[str], variables: list[Manifest]) -> Manifest:
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(settings, command, arguments, variables)],
        "volumes": [
            {"name": "runs", "persistentVolumeClaim": {"claimName": settings.claim}},
            {"name": "experiment", "configMap": {"name": settings.name}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
        ],
    }


def _container(
    settings: ManifestSettings, command: list[str], arguments: list[str], variables: list[Manifest]
) -> Manifest:
    own = [{"name": "TUNELINE_RUNS", "value": _RUNS}, {"name": "HOME", "value": "/tmp"}]  # noqa: S108  (an emptyDir)
    resources = {"cpu": settings.cpu, "memory": settings.memory, **dict(_accelerators(settings))}
    return {
        "name": "tuneline",
        "image": settings.image,
        "command": command,
        "args": arguments,
        "workingDir": _RUNS,
        "env": [*own, *variables],
        "envFrom": [{"secretRef": {"name": name}} for name in settings.secrets],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "runs", "mountPath": _RUNS},
            {"name": "experiment", "mountPath": _EXPERIMENT, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def _accelerators(settings: ManifestSettings) -> Iterator[tuple[str, str]]:
    if settings.accelerators:
        yield settings.accelerator_resource, str(settings.accelerators)


def _metadata(settings: ManifestSettings) -> Manifest:
    return {"name": settings.name, "namespace": settings.namespace, "labels": _labels(settings)}


def _labels(settings: ManifestSettings) -> dict[str, str]:
    return {"app.kubernetes.io/name": "tuneline", "app.kubernetes.io/instance": settings.name}
