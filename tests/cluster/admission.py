"""What an API server says to the chart before anything is installed, and to what it must not take."""

from __future__ import annotations

import base64
import copy
import json
import os
import subprocess
import sys
import time

from tests.chart.rendering import CASES, CHART, NEWEST, ROOT, Release, render
from tests.chart.test_chart import CUSTOM
from tests.cluster.kube import Object, Refused
from tests.cluster.steps import Scene, Step

NAMESPACE = "verbatim-admission"


def chart_is_taken(scene: Scene) -> str:
    """Send all that the chart renders in all promised ways: fields strictly checked, pods by the standard."""
    cluster = scene.cluster
    cluster.namespace(NAMESPACE)
    served = set(cluster.kubectl("api-resources", "--output", "name").split())
    objects = pods = 0
    passed_over: set[str] = set()
    for case, values in CASES.items():
        rendered = Release(case, render(values, kube=NEWEST))
        built_in = [found for found in rendered.objects if found["kind"] not in CUSTOM]
        known = [found for found in rendered.objects if found["kind"] in CUSTOM and _resource(found) in served]
        passed_over |= {found["kind"] for found in rendered.objects} & CUSTOM - {found["kind"] for found in known}
        _dry_run(scene, case, [*built_in, *known])
        # A deployment's pods are judged when they are made, so each template is sent as the pod that it would make.
        made = [_pod(case, number, template) for number, (_, template) in enumerate(rendered.pods())]
        _dry_run(scene, case, made)
        objects, pods = objects + len(built_in) + len(known), pods + len(made)
    left = f"; no definition here for {', '.join(sorted(passed_over))}" if passed_over else ""
    return f"{len(CASES)} value sets: {objects} objects and {pods} pods accepted{left}"


def nonsense_is_refused(scene: Scene) -> str:
    """The control: this API server does refuse."""
    scene.cluster.namespace(NAMESPACE)
    template = Release("default", render({}, kube=NEWEST)).pods()[0][1]
    sound = _pod("control", 0, template)
    container: Object = sound["spec"]["containers"][0]
    refused = {
        "a privileged container": _with(sound, container | {"securityContext": {"privileged": True}}),
        "a container that may be root": _with(sound, container | {"securityContext": {}}, {"securityContext": {}}),
        "a folder of the host": _with(sound, container, {"volumes": [{"name": "h", "hostPath": {"path": "/etc"}}]}),
        "a field that nobody knows": _with(sound, container | {"imagePullPolice": "Always"}),
        "fewer pods at most than at least": {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "control"},
            "spec": {
                "minReplicas": 3, "maxReplicas": 2,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "control"},
            },
        },
        "a policy that excepts what it does not hold": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "control"},
            "spec": {
                "podSelector": {},
                "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"]}}]}],
            },
        },
    }  # fmt: skip
    for what, wrong in refused.items():
        try:
            _dry_run(scene, what, [wrong])
        except Refused:
            continue
        raise AssertionError(f"taken: {what}")
    return f"{len(refused)} of {len(refused)} refused: {', '.join(refused)}"


def secrets_are_made_by_who_may(scene: Scene) -> str:
    """Run the script of the chart's hook against this API server with the rights that its account has, and no other."""
    cluster = scene.cluster
    cluster.namespace(NAMESPACE)
    cluster.kubectl("delete", "secret", "v-verbatim-secrets", "--namespace", NAMESPACE, "--ignore-not-found")
    wanted = {"ServiceAccount", "Role", "RoleBinding"}
    objects = [found for found in render({}, kube=NEWEST) if found["kind"] in wanted]
    for found in objects:
        for subject in found.get("subjects", []):
            subject["namespace"] = NAMESPACE
    cluster.kubectl("apply", "--namespace", NAMESPACE, "-f", "-", given=objects)
    account = next(found["metadata"]["name"] for found in objects if found["kind"] == "ServiceAccount")
    token = cluster.kubectl("create", "token", account, "--namespace", NAMESPACE)
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output", "json"))
    (scene.folder / "token").write_text(token)
    server = config["clusters"][0]["cluster"]
    if authority := server.get("certificate-authority-data"):
        (scene.folder / "ca.crt").write_bytes(base64.b64decode(authority))
    told = [_make_secrets(scene, server["server"]) for _ in range(2)]
    made = cluster.get("secret", "v-verbatim-secrets", namespace=NAMESPACE)["data"]
    assert told == [f"{len(made)} keys made, 0 kept", f"0 keys made, {len(made)} kept"], told
    actor = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
    for question in (
        ["list", "secrets"],
        ["get", "secret/another"],
        ["delete", "secret/v-verbatim-secrets"],
        ["get", "pods"],
    ):
        try:
            answer = cluster.kubectl("auth", "can-i", *question, "--namespace", NAMESPACE, actor)
        except Refused as fault:
            answer = str(fault)
        assert answer.strip().startswith("no"), f"may {' '.join(question)}: {answer}"
    return f"{told[0]}; then {told[1]}; the account may not list, read another, delete, or see pods"


def _make_secrets(scene: Scene, server: str) -> str:
    environment = {
        "KUBERNETES_API": server, "SERVICE_ACCOUNT_FOLDER": str(scene.folder), "NAMESPACE": NAMESPACE,
        "SECRET": "v-verbatim-secrets", "POSTGRES_HOST": "pg", "NATS_HOST": "nats", "REDIS_HOST": "redis",
        "PATH": os.environ.get("PATH", os.defpath),
    }  # fmt: skip
    # The same rights reach the API server a moment after they are written.
    for attempt in range(10):
        done = subprocess.run(
            [sys.executable, str(CHART / "files" / "make_secrets.py")],
            env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return done.stdout.strip()
        time.sleep(attempt / 2)
    raise AssertionError(done.stderr.strip().splitlines()[-1])


def _dry_run(scene: Scene, case: str, objects: list[Object]) -> None:
    try:
        scene.cluster.kubectl(
            *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--namespace", NAMESPACE, "-f", "-"),
            given=[_here(found) for found in objects],
        )
    except Refused as fault:
        raise Refused(f"{case}: {fault}") from None


def _here(found: Object) -> Object:
    """Return the object as it would be in our namespace."""
    moved = copy.deepcopy(found)
    moved["metadata"].pop("namespace", None)
    return moved


def _pod(case: str, number: int, template: Object) -> Object:
    # The account of a hook is not there in a dry run.
    spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
    metadata = {"name": f"{case}-{number}", "labels": template["metadata"].get("labels", {})}
    # Templates of deployments leave it out; claims of a stateful set are volumes of its pods.
    spec.setdefault("restartPolicy", "Always")
    named = {volume["name"] for volume in spec.get("volumes", [])}
    mounted = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])}
    claims = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in sorted(mounted - named)]
    spec["volumes"] = [*spec.get("volumes", []), *claims]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _with(pod: Object, container: Object, spec: Object | None = None) -> Object:
    changed = copy.deepcopy(pod)
    changed["spec"] |= {"containers": [container]} | (spec or {})
    changed["spec"]["volumes"] = [*pod["spec"]["volumes"], *(spec or {}).get("volumes", [])]
    return changed


def _resource(found: Object) -> str:
    """Return the name under which a kind of ours is served."""
    group = found["apiVersion"].rpartition("/")[0]
    return f"{found['kind'].lower()}s.{group}"


STEPS = [
    Step(
        "admission", "Server-side admission of all value sets, fields strict, pods under `restricted`", chart_is_taken
    ),
    Step("refusals", "The control: what must be refused is refused", nonsense_is_refused),
    Step("secrets", "The hook's script with its own account's rights", secrets_are_made_by_who_may),
]
