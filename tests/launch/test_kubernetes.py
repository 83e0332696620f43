"""What `tuneline manifest` renders: valid against the published schemas, safe, and a user's text stays text."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.foundation.errors import CancelledRunError, HangError, RankError
from tasks.foundation.errors import TunelineError as Root
from tasks.launch.kubernetes import FINAL, RETRIED, Manifest, ManifestSettings, manifests

KUBERNETES = "1.33"
"""The oldest release in which all fields are stable (`successPolicy` of a Job)."""
EXAMPLES = Path(__file__).resolve().parents[2] / "infra" / "kubernetes"
GRACE_OF_A_CHECKPOINT = 20
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

HOSTILE = [
    "",
    "Upper",
    "-a",
    "a-",
    "a b",
    'a"b',
    "a'b",
    "a\nb",
    "a\n",
    "../a",
    "a/../../b",
    "a: b",
    "{{x}}",
    "$(A)",
    "ä",
    "a" * 300,
]


def asked(**changes: Any) -> ManifestSettings:
    known = {"name": "demo", "image": "registry.example/tuneline:1", "experiment": "name: demo\n", "accelerators": 8}
    return ManifestSettings.model_validate(known | changes)


def only(wanted: str, **changes: Any) -> Manifest:
    return next(one for one in manifests(asked(**changes)) if one["kind"] == wanted)


def pods_of(manifest: Manifest) -> list[Manifest]:
    """Pod templates of a Job or a JobSet."""
    if manifest["kind"] == "Job":
        return [manifest["spec"]["template"]["spec"]]
    jobs = [job["template"]["spec"] for job in manifest["spec"]["replicatedJobs"]]
    return [job["template"]["spec"] for job in jobs]


SHAPES = [
    {"kind": kind, "nodes": nodes, "accelerators": accelerators, "secrets": secrets}
    for kind in ("job", "jobset")
    for nodes, accelerators, secrets in ((1, 0, ()), (1, 8, ("mlflow-auth",)), (4, 8, ("a", "b.c")))
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_object_is_valid_against_the_published_schema(shape: dict[str, Any]) -> None:
    for manifest in manifests(asked(**shape)):
        read = yaml.safe_load(yaml.safe_dump(manifest))
        if read["kind"] == "JobSet":
            for job in read["spec"]["replicatedJobs"]:
                body = {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "metadata": {"name": "x"},
                    "spec": job["template"]["spec"],
                }
                kubernetes_validate.validate(body, KUBERNETES, strict=True)
        else:
            kubernetes_validate.validate(read, KUBERNETES, strict=True)


def test_the_schema_would_notice_a_misspelt_field() -> None:
    job = only("Job")
    job["spec"]["backofLimit"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_a_jobset_holds_its_fields_in_the_shape_of_its_definition() -> None:
    spec = only("JobSet", kind="jobset", nodes=4)["spec"]
    assert set(spec) == {"network", "successPolicy", "failurePolicy", "replicatedJobs"}
    assert spec["network"] == {"enableDNSHostnames": True, "subdomain": "demo", "publishNotReadyAddresses": True}
    assert spec["successPolicy"] == {"operator": "All", "targetReplicatedJobs": ["first"]}
    assert spec["failurePolicy"]["rules"] == [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    assert [(job["name"], job["replicas"]) for job in spec["replicatedJobs"]] == [("first", 1), ("others", 1)]
    assert [job["template"]["spec"]["parallelism"] for job in spec["replicatedJobs"]] == [1, 3]
    assert {job["template"]["spec"]["backoffLimit"] for job in spec["replicatedJobs"]} == {0}, "all start anew together"


@pytest.mark.parametrize(
    ("kind", "address"), [("job", "demo-0.demo"), ("jobset", "demo-first-0-0.demo")], ids=["job", "jobset"]
)
def test_all_pods_share_a_folder_and_the_first_one_has_a_name_that_stays(kind: str, address: str) -> None:
    workload = manifests(asked(kind=kind, nodes=2))[-1]
    for number, pod in enumerate(pods_of(workload)):
        variables = {variable["name"]: variable for variable in pod["containers"][0]["env"]}
        assert variables["TUNELINE_PODS"]["value"] == "/runs/pods"
        assert variables["TUNELINE_POD_IP"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
        if number == 0:
            assert variables["TUNELINE_POD_ADDRESS"]["value"] == address


def test_several_pods_of_a_job_find_the_first_by_a_service_that_needs_no_readiness() -> None:
    service, job = only("Service", nodes=2), only("Job", nodes=2)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert pods_of(job)[0]["subdomain"] == service["metadata"]["name"]
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    assert job["spec"]["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}, "followers never end by themselves"


def test_one_pod_needs_no_service_and_runs_the_pipeline_itself() -> None:
    made = manifests(asked())
    assert [one["kind"] for one in made] == ["ConfigMap", "Job"]
    container = pods_of(made[-1])[0]["containers"][0]
    assert (container["command"], container["args"]) == (["tuneline"], ["run", "/experiment/experiment.yaml"])
    assert made[0]["data"] == {"experiment.yaml": "name: demo\n"}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_pod_has_more_rights_than_it_needs(shape: dict[str, Any]) -> None:
    for pod in pods_of(manifests(asked(**shape))[-1]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_cancelled_pod_has_time_for_its_checkpoint_and_its_ranks_have_shared_memory(shape: dict[str, Any]) -> None:
    for pod in pods_of(manifests(asked(**shape))[-1]):
        assert pod["terminationGracePeriodSeconds"] > GRACE_OF_A_CHECKPOINT
        assert pod["restartPolicy"] == "Never", "podFailurePolicy needs it"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == set(volumes)


def test_exit_codes_decide_whether_another_attempt_is_worth_it() -> None:
    rules = only("Job")["spec"]["podFailurePolicy"]["rules"]
    by_action = {rule["action"]: rule for rule in rules if "onExitCodes" in rule}
    assert by_action["FailJob"]["onExitCodes"]["values"] == [10, 11, 12, 30, 40, 41]
    assert {RankError.exit_code, HangError.exit_code, CancelledRunError.exit_code} == set(RETRIED)
    assert by_action["Count"]["onExitCodes"]["values"] == list(RETRIED)
    known = {cause.exit_code for cause in Root.__subclasses__()}
    assert set(FINAL) <= known and not set(FINAL) & set(RETRIED)


def test_secrets_are_named_and_never_held() -> None:
    container = pods_of(only("Job", secrets=("mlflow-auth",)))[0]["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": "mlflow-auth"}}]
    assert not [variable for variable in container["env"] if "PASS" in variable["name"] or "TOKEN" in variable["name"]]


def test_accelerators_are_asked_for_where_there_are_any() -> None:
    resources = pods_of(only("Job", accelerators=8, accelerator_resource="amd.com/gpu"))[0]["containers"][0][
        "resources"
    ]
    assert resources["limits"]["amd.com/gpu"] == "8"
    assert resources["limits"] == resources["requests"]
    assert set(pods_of(only("Job", accelerators=0))[0]["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize(
    "field", ["name", "namespace", "image", "claim", "cpu", "memory", "accelerator_resource", "file"]
)
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_name_that_is_none_is_refused(field: str, text: str) -> None:
    with pytest.raises(ValidationError):
        asked(**{field: text})


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_secret_that_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        asked(secrets=(text,))


@FEW
@given(st.text(max_size=300))
def test_any_text_is_refused_as_a_name_or_can_be_one(text: str) -> None:
    try:
        made = manifests(asked(name=text, namespace=text))
    except ValidationError:
        return
    assert set(text) <= set(string.ascii_lowercase + string.digits + "-")
    assert len(text) <= 40
    for manifest in made:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@FEW
@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=300), st.integers(1, 2))
def test_an_override_stays_one_argument_with_the_same_text(text: str, nodes: int) -> None:
    job = only("Job", overrides=(f"name={text}",), nodes=nodes)
    container = pods_of(yaml.safe_load(yaml.safe_dump(job)))[0]["containers"][0]
    assert expanded(container["args"][-1]) == f"name={text}"
    assert len(container["args"]) == 3
    assert text not in container["command"] or not text.strip()


def expanded(argument: str) -> str:
    """What Kubernetes makes of an argument: `$$` is a dollar, `$(NAME)` a variable."""
    pieces = argument.split("$$")
    assert not any("$" in piece for piece in pieces), "it would be expanded"
    return "$".join(pieces)


@FEW
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=500))
def test_the_experiment_is_carried_as_it_is(text: str) -> None:
    assert only("ConfigMap", experiment=text)["data"]["experiment.yaml"] == text


def test_an_override_that_no_command_line_can_hold_is_refused() -> None:
    for text in ("a=\x00", "a=" + "x" * 5000):
        with pytest.raises(ValidationError, match="overrides: one is too long, or holds a NUL"):
            asked(overrides=(text,))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_beside_the_documentation_are_valid_and_have_the_names_of_the_defaults(path: Path) -> None:
    example = yaml.safe_load(path.read_text(encoding="utf-8"))
    kubernetes_validate.validate(example, KUBERNETES, strict=True)
    if example["kind"] == "PersistentVolumeClaim":
        assert example["metadata"]["name"] == asked().claim
