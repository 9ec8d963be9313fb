"""A cluster through kubectl and Helm, with a deadline for every call."""

from __future__ import annotations

import enum
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.imaginary import LABEL

Object = dict[str, Any]
CALL_WITHIN_S = 120.0
LOOK_EVERY_S = 0.5

# What every namespace has, and what the cluster writes about what happened.
_NOT_OURS = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}
_TRACES = {"Event", "PodMetrics"}


class Refused(Exception):
    """kubectl or Helm ended with an error; the message is theirs."""


class Nodes(enum.Enum):
    """What a cluster can do with pods."""

    NONE = "a control plane alone"
    IMAGINARY = "a control plane with a node on paper"
    REAL = "nodes that run containers"


@dataclass(frozen=True)
class Cluster:
    """One cluster, as a kubeconfig names it (None: the current one)."""

    kubectl_path: str
    helm_path: str
    kubeconfig: Path | None = None

    def kubectl(self, *arguments: str, given: Object | list[Object] | str | None = None, within_s: float = 0) -> str:
        """Return what kubectl prints; `given` are objects, or text, on its standard input. Raises Refused."""
        documents = given if isinstance(given, str) else None
        if given is not None and documents is None:
            documents = yaml.safe_dump_all(given if isinstance(given, list) else [given])
        return self._run(self.kubectl_path, *arguments, given=documents, within_s=within_s or CALL_WITHIN_S)

    def helm(self, *arguments: str, values: Object | None = None, within_s: float = 900.0) -> str:
        """Return what Helm prints. Raises Refused."""
        more = ["--values", "-"] if values else []
        given = yaml.safe_dump(values) if values else None
        return self._run(self.helm_path, *arguments, *more, given=given, within_s=within_s)

    def get(self, kind: str, name: str = "", *, namespace: str, selector: str = "") -> Object:
        """Return an object, or a list of them. Raises Refused."""
        asked = ["get", kind, *([name] if name else []), "--namespace", namespace, "--output", "json"]
        told: Object = json.loads(self.kubectl(*asked, *(["--selector", selector] if selector else [])))
        return told

    def items(self, kind: str, *, namespace: str, selector: str = "") -> list[Object]:
        """Return the objects of a kind."""
        found: list[Object] = self.get(kind, namespace=namespace, selector=selector)["items"]
        return found

    def version(self) -> str:
        """Return the API server's version."""
        return str(json.loads(self.kubectl("version", "--output", "json"))["serverVersion"]["gitVersion"])

    def nodes(self) -> Nodes:
        """Tell what the cluster can do with pods."""
        found = json.loads(self.kubectl("get", "nodes", "--output", "json"))["items"]
        if not found:
            return Nodes.NONE
        imaginary = all(
            LABEL in node["metadata"].get("labels", {})
            or "kwok.x-k8s.io/node" in node["metadata"].get("annotations", {})
            for node in found
        )
        return Nodes.IMAGINARY if imaginary else Nodes.REAL

    def namespace(self, name: str) -> None:
        """Make a namespace that takes only pods of the `restricted` standard."""
        labels = {
            "pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/enforce-version": "latest",
        }
        self.kubectl("apply", "-f", "-", given=_object("v1", "Namespace", name, labels))
        # Pods are refused until the controllers have made it.
        until(lambda: bool(self.items("serviceaccounts", namespace=name)), 60, "a service account in the namespace")

    def forget(self, namespace: str) -> None:
        """Remove a namespace and all in it."""
        self.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--timeout=300s", within_s=320)

    def inventory(self, namespace: str) -> dict[tuple[str, str], str]:
        """Return (kind, name) and uid of all that is in a namespace, but for what every namespace has."""
        kinds = self.kubectl("api-resources", "--verbs=list", "--namespaced", "--output", "name").split()
        asked = ",".join(kind for kind in kinds if not kind.startswith(("events", "pods.metrics")))
        told = json.loads(self.kubectl("get", asked, "--namespace", namespace, "--output", "json"))["items"]
        return {
            key: found["metadata"]["uid"]
            for found in told
            for key in [(found["kind"], found["metadata"]["name"])]
            if key not in _NOT_OURS and found["kind"] not in _TRACES
        }

    def _run(self, *command: str, given: str | None, within_s: float) -> str:
        environment = os.environ | ({"KUBECONFIG": str(self.kubeconfig)} if self.kubeconfig else {})
        done = subprocess.run(
            command, input=given, env=environment, capture_output=True, text=True, timeout=within_s, check=False
        )
        if done.returncode:
            raise Refused((done.stderr or done.stdout).strip())
        return done.stdout


def until(holds: Callable[[], bool], within_s: float, what: str) -> None:
    """Wait until something holds. Raises AssertionError with what was waited for."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(LOOK_EVERY_S)


def _object(version: str, kind: str, name: str, labels: dict[str, str]) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}}
