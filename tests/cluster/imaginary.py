"""A node that exists on paper: pods that are put on it are told to run, and jobs to have succeeded. Nothing runs.

`python -m tests.cluster.imaginary KUBECONFIG PAUSED` goes on until it is ended. While the file PAUSED is there, no pod
becomes ready: what then depends on ready pods can be looked at.
"""

from __future__ import annotations

import base64
import itertools
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import yaml

LABEL = "verbatim.example/imaginary"
NAME = "on-paper"
LOOK_EVERY_S = 0.3
WITHIN_S = 30.0

Object = dict[str, Any]


class ImaginaryNode:
    """Plays scheduler and kubelet for all pods."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client
        self._addresses = (f"10.244.{a}.{b}" for a, b in itertools.product(range(256), range(1, 255)))

    def join(self) -> None:
        """Make the node known."""
        room = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "500"}
        labels = {LABEL: "true", "kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME, "labels": labels}}
        answer = self._client.post("/api/v1/nodes", json=node)
        if answer.status_code != 409:
            answer.raise_for_status()
        ready = {"type": "Ready", "status": "True", "reason": "OnPaper", "message": "no container runs here"}
        self._patch(f"/api/v1/nodes/{NAME}/status", {"capacity": room, "allocatable": room, "conditions": [ready]})

    def look(self, *, paused: bool) -> None:
        """Bring every pod one step further."""
        answer = self._client.get("/api/v1/pods")
        answer.raise_for_status()
        for pod in answer.json()["items"]:
            metadata = pod["metadata"]
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            if metadata.get("deletionTimestamp"):
                self._client.request("DELETE", path, json={"gracePeriodSeconds": 0})
            elif not pod["spec"].get("nodeName"):
                target = {"apiVersion": "v1", "kind": "Node", "name": NAME}
                binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": metadata["name"]}}
                self._client.post(f"{path}/binding", json=binding | {"target": target})
            elif pod["status"]["phase"] == "Pending" and not paused:
                self._patch(f"{path}/status", running(pod, next(self._addresses)))
            elif pod["status"]["phase"] == "Running" and pod["spec"]["restartPolicy"] != "Always":
                self._patch(f"{path}/status", succeeded())

    def _patch(self, path: str, status: Object) -> None:
        # Not `raise_for_status`: a pod may be gone by now.
        self._client.patch(
            path, json={"status": status}, headers={"Content-Type": "application/strategic-merge-patch+json"}
        )


def running(pod: Object, address: str) -> Object:
    """Return the status of a pod that runs and is ready."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    return {
        "phase": "Running",
        "startTime": now,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "none",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for container in pod["spec"]["containers"]
        ],
    }


def succeeded() -> Object:
    """Return the status of a pod that has done its work: nobody is to be sent to it."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    over = {"status": "False", "reason": "PodCompleted", "lastTransitionTime": now}
    return {"phase": "Succeeded", "conditions": [{"type": kind} | over for kind in ("ContainersReady", "Ready")]}


def connected(kubeconfig: Path) -> httpx2.Client:
    """Return a client of the cluster that a kubeconfig names first (with a token)."""
    told = yaml.safe_load(kubeconfig.read_text())
    cluster, user = told["clusters"][0]["cluster"], told["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    return httpx2.Client(
        base_url=cluster["server"],
        headers={"Authorization": f"Bearer {user['token']}"},
        verify=ssl.create_default_context(cadata=authority),
        timeout=WITHIN_S,
    )


def main() -> None:
    """Play until ended."""
    kubeconfig, paused = Path(sys.argv[1]), Path(sys.argv[2])
    with connected(kubeconfig) as client:
        node = ImaginaryNode(client)
        node.join()
        while True:
            node.look(paused=paused.exists())
            time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    main()
