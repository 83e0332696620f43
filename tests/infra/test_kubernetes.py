"""The manifests: valid against the published schemas, hardened in every pod, and complete."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator

import kubernetes_validate
import pytest
import yaml

from tests.infra import files

KUBERNETES = "1.33"
OBJECTS = files.cluster()
PODS = dict(files.pods())
IN_COMPOSE = {"pool": "worker", "run": "worker", "mlflow-users": "users"}
"""Pods whose service has another name there."""
each = pytest.mark.parametrize("name", sorted(PODS))


def of_kind(kind: str) -> list[files.Tree]:
    return [one for one in OBJECTS if one["kind"] == kind]


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_every_object_is_valid_against_the_published_schema(one: files.Tree) -> None:
    kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_names_are_given_once_and_nothing_is_left_out() -> None:
    assert max(Counter((one["kind"], one["metadata"]["name"]) for one in OBJECTS).values()) == 1
    listed = yaml.safe_load((files.TEAM / "kustomization.yaml").read_text(encoding="utf-8"))
    assert sorted(listed["resources"]) == [path.name for path in files.manifest_files()]
    used = {container["image"].partition(":")[0] for pod in PODS.values() for container in files.containers(pod)}
    assert {image["name"] for image in listed["images"]} == used - {"{{ image }}"}


def test_kubectl_renders_all_of_it_into_one_namespace() -> None:
    kubectl = files.tool("kubectl")
    if not kubectl:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", str(files.TEAM)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    assert len(rendered) == len(OBJECTS) + 2, "and two ConfigMaps"
    for one in rendered:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "tuneline"


@each
def test_a_pod_runs_with_no_more_rights_than_it_needs(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["enableServiceLinks"] is False, "PREFECT_PORT and the like would be taken for settings"
    assert pod["automountServiceAccountToken"] is (name == "pool")
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])
    for container in files.containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@each
def test_a_pod_has_limits_and_is_watched(name: str) -> None:
    for container in files.containers(PODS[name]):
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"]) & set(resources["limits"])
        assert resources["requests"]["memory"] == resources["limits"]["memory"], "what is promised is there"
    if "restartPolicy" not in PODS[name]:  # it serves until it is told to end
        for container in PODS[name]["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


@each
def test_secrets_are_files_that_are_referred_to_and_never_contained(name: str) -> None:
    pod = PODS[name]
    for container in files.containers(pod):
        assert "envFrom" not in container
        names = container["env"] if isinstance(container.get("env"), list) else []
        assert not any("secretKeyRef" in json.dumps(one) for one in names)
        assert not any(re.search(r"PASSWORD$|TOKEN|(?<!_SECRET)_KEY$|AUTH_STRING$", one["name"]) for one in names)
    for volume in pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["secretName"] == "tuneline"
            assert volume["secret"]["items"], "only the keys that it needs"
            assert volume["secret"]["defaultMode"] == 0o440
    assert not of_kind("Secret")


def test_a_token_does_not_lie_below_a_read_only_mount() -> None:
    [container] = PODS["pool"]["containers"]
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert not any(path.startswith(("/run/secrets", "/var/run/secrets")) for path in paths)
    assert files.variables(container)["SECRETS"] in paths


@each
def test_images_are_pinned(name: str) -> None:
    for container in files.containers(PODS[name]):
        assert container["image"] == "{{ image }}" or re.search(r":\d+\.\d+\.\d+$", container["image"])


def test_the_namespace_refuses_pods_that_are_not_restricted() -> None:
    [namespace] = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_pool_may_make_jobs_and_look_at_pods_and_nothing_else() -> None:
    assert not of_kind("ClusterRole") and not of_kind("ClusterRoleBinding")
    [role] = of_kind("Role")
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert {resource for resource, _ in granted} == {"jobs", "pods", "pods/log", "events"}
    writes = {"create", "update", "patch", "delete", "deletecollection", "*"}
    assert {resource for resource, verb in granted if verb in writes} == {"jobs"}


def policy_edges() -> Iterator[tuple[str, str, int]]:
    """Caller, called, port: those that an egress rule of the caller and an ingress rule of the called both allow."""
    out, into = set(), set()
    for policy in of_kind("NetworkPolicy"):
        me = policy["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name")
        for direction, peers, found in (("egress", "to", out), ("ingress", "from", into)):
            for rule in policy["spec"].get(direction, []):
                for peer in rule[peers]:
                    other = peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/name")
                    for port in rule.get("ports", [{"port": 0}]):
                        pair = (me, other) if direction == "egress" else (other, me)
                        if other:
                            found.add((*pair, port["port"]))
    assert out == into, "one side alone allows nothing"
    yield from out


def test_nothing_reaches_anything_but_what_is_written_down() -> None:
    [nothing] = [one for one in of_kind("NetworkPolicy") if one["metadata"]["name"] == "nothing"]
    assert nothing["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    rendered = {("tuneline", "mlflow", 5000), ("tuneline", "tuneline", 0)}  # by `tuneline manifest`
    edges = set(policy_edges()) - rendered
    ports = {"postgres": 5432, "object-store": 8333, "mlflow": 5000, "prefect": 4200}
    assert all(port == ports[called] for _, called, port in edges)
    known = {(IN_COMPOSE.get(caller, caller), called) for caller, called, _ in edges}
    assert known <= files.EDGES
    pods = {caller for caller, _, _ in edges} | {called for _, called, _ in edges}
    assert pods == set(PODS)


def test_services_lead_to_pods_and_claims_exist() -> None:
    for service in of_kind("Service"):
        pod = PODS[service["spec"]["selector"]["app.kubernetes.io/name"]]
        names = {port["name"] for container in pod["containers"] for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    claims = {one["metadata"]["name"] for one in of_kind("PersistentVolumeClaim")}
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for name, pod in PODS.items()
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume and name != "run"
    }
    assert used == claims


def test_both_places_store_objects_with_the_same_program() -> None:
    services = files.compose()["services"]
    assert PODS["object-store"]["containers"][0]["args"] == services["object-store"]["command"]
    wanted = services["backup"]["environment"]
    assert files.variables(PODS["backup"]["containers"][0]) == wanted
    [bucket] = [one for one in PODS["mlflow"]["initContainers"] if one["name"] == "bucket"]
    assert bucket["args"] == services["bucket"]["command"]
    assert files.variables(bucket).items() <= wanted.items()
