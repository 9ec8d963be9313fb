"""People in the cluster who speak while things happen to a release, and the speech API that hears them exactly."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chart.rendering import ROOT
from tests.cluster.kube import Cluster, Object, Refused, until
from tests.cluster.steps import Scene

SESSIONS = 4
PORT = 8080
# What pods of ours run that the image does not have.
SUITE = (
    "tests/chaos/numbered.py",
    "tests/chaos/workload.py",
    "tests/chaos/judge.py",
    "tests/chaos/oracle.py",
    "tests/cluster/speaker.py",
)
FLOWS_WITHIN_S = 300.0
JUDGED_WITHIN_S = 900.0
_PATH = "/app:/app/contracts:/app/sdk:/suite"


def values(image: str) -> Object:
    """Return the values of installs on real nodes: small requests, and the speech API of ours."""
    repository, _, tag = image.rpartition(":")
    small = {"resources": {"requests": {"cpu": "20m"}}}
    return {
        "image": {"repository": repository, "tag": tag},
        "defaults": small | {"drainSeconds": 20},
        "services": {
            "transcriber": small | {"env": {"EMBEDDED_WORKERS": "1", "SPEECH_CONCURRENCY": "32"}},
            "gateway": {"env": {"RATE_LIMITS_ROUTES": ""}},
        },
        "bundled": dict.fromkeys(("postgres", "nats", "redis"), small),
        "openai": {"existingSecret": "speech", "baseUrl": f"http://speech:{PORT}/v1"},
        "networkPolicy": {"egressPort": PORT},
    }


def load_image(cluster: Cluster, image: str) -> str:
    """Bring the image onto the nodes, where the kind of cluster is known; else say that it has to be pulled."""
    context = cluster.kubectl("config", "current-context").strip()
    loaders = {
        "kind-": ["kind", "load", "docker-image", image, "--name"],
        "k3d-": ["k3d", "image", "import", image, "--cluster"],
    }
    for prefix, command in loaders.items():
        if context.startswith(prefix) and shutil.which(command[0]):
            subprocess.run([*command, context.removeprefix(prefix)], check=True, timeout=600)
            return f"loaded into {context}"
    return f"{context} is neither kind's nor k3d's: its nodes have to find {image} themselves"


def bring(scene: Scene, namespace: str) -> None:
    """Put the speech API into a namespace, and what it and the speakers run."""
    cluster = scene.cluster
    files = {path.replace("/", "."): (ROOT / path).read_text() for path in SUITE}
    labels = {"app": "speech"}
    container = _container(scene, ["tests.chaos.oracle", str(PORT), "0.0.0.0"], name="speech")  # noqa: S104 - inside a pod
    container["readinessProbe"] = {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 2}
    template = {"metadata": {"labels": labels}, "spec": _spec(container)}
    cluster.kubectl(
        *("apply", "--namespace", namespace, "-f", "-"),
        given=[
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "suite"}, "data": files},
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "speech"},
                "stringData": {"OPENAI_API_KEY": "none"},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "speech"},
                "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "speech"},
                "spec": {"selector": labels, "ports": [{"port": PORT}]},
            },
        ],
    )
    cluster.kubectl("rollout", "status", "deployment/speech", "--namespace", namespace, "--timeout=300s", within_s=320)


def take_away(cluster: Cluster, namespace: str) -> None:
    """Remove what `bring` has put there."""
    for kind, name in (("deployment", "speech"), ("service", "speech"), ("secret", "speech"), ("configmap", "suite")):
        cluster.kubectl("delete", kind, name, "--namespace", namespace, "--ignore-not-found", "--timeout=120s")


class Spoken:
    """Sessions under way in a pod of theirs."""

    def __init__(self, cluster: Cluster, namespace: str, pod: str) -> None:
        self._cluster, self._namespace, self._pod = cluster, namespace, pod
        self._judged: Object = {}

    def flows(self) -> None:
        """Wait until each session has been acknowledged something new."""
        before = self._state()

        def all_further() -> bool:
            now = self._state()
            return len(now) >= SESSIONS and all(offset > before.get(number, 0) for number, offset in now.items())

        until(all_further, FLOWS_WITHIN_S, "acknowledgements to every session")

    def end(self) -> None:
        """Let everybody finish; raise AssertionError if anything acknowledged is lost or comes twice."""
        self._exec("touch", "/scratch/enough")
        until(lambda: bool(self._read("verdict.json")), JUDGED_WITHIN_S, "a verdict")
        self._judged = self._read("verdict.json")
        assert self._judged["clean"] and not self._judged["drafted"], self.verdict()

    def verdict(self) -> str:
        """Return the accounts as text."""
        told = self._judged
        return (
            f"{told['sessions']} sessions, {told['acknowledged']} chunks acknowledged, {told['lost']} lost, "
            f"{told['duplicated']} repeated, {told['reconnects']} reconnects, "
            f"longest pause {told['longest_pause_s']:.1f} s" + (f", {told['failures']}" if told["failures"] else "")
        )

    def _state(self) -> Object:
        return self._read("state.json")

    def _read(self, name: str) -> Object:
        try:
            told: Object = json.loads(self._exec("cat", f"/scratch/{name}"))
        except (Refused, json.JSONDecodeError):
            return {}
        return told

    def _exec(self, *command: str) -> str:
        return self._cluster.kubectl("exec", self._pod, "--namespace", self._namespace, "--", *command)


class Silent(Spoken):
    """Nobody: on paper no audio flows."""

    def __init__(self) -> None:
        """Nobody is anywhere."""

    def flows(self) -> None:
        """Nothing does."""

    def verdict(self) -> str:
        """Say so."""
        return "nobody spoke (no container runs)"


@contextmanager
def speaking(scene: Scene, namespace: str) -> Iterator[Spoken]:
    """Let people speak to the release's gateway; judge at the end."""
    if not scene.real:
        yield Silent()
        return
    cluster = scene.cluster
    container = _container(
        scene, ["tests.cluster.speaker", "http://verbatim-gateway", str(SESSIONS), "/scratch"], name="speaker"
    )
    spec = _spec(container) | {"restartPolicy": "Never"}
    pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "speaker"}, "spec": spec}
    cluster.kubectl("apply", "--namespace", namespace, "-f", "-", given=pod)
    spoken = Spoken(cluster, namespace, "speaker")
    try:
        spoken.flows()
        yield spoken
        spoken.end()
    finally:
        cluster.kubectl("delete", "pod", "speaker", "--namespace", namespace, "--ignore-not-found", "--grace-period=1")


def _container(scene: Scene, arguments: list[str], *, name: str) -> Object:
    image = scene.values["image"]
    return {
        "name": name,
        "image": f"{image['repository']}:{image['tag']}",
        "args": arguments,
        "env": [{"name": "PYTHONPATH", "value": _PATH}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "suite", "mountPath": "/suite"}, {"name": "scratch", "mountPath": "/scratch"}],
    }


def _spec(container: Object) -> Object:
    items = [{"key": path.replace("/", "."), "path": path} for path in SUITE]
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "suite", "configMap": {"name": "suite", "items": items}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    }
