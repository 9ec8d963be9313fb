"""A release through its life: installed, scaled, drained, upgraded, rolled back, uninstalled."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.chart.rendering import CHART
from tests.cluster import people
from tests.cluster.kube import Cluster, Object, Refused, until
from tests.cluster.steps import Scene, Step

RELEASE = "verbatim"
SECRET = f"{RELEASE}-secrets"
FRESH, MOVED = "verbatim-fresh", "verbatim-moved"
WAIT = ("--wait", "--wait-for-jobs", "--timeout", "10m")
INSTANCE = f"app.kubernetes.io/instance={RELEASE}"
STAYS = {
    ("Secret", SECRET),
    *(("PersistentVolumeClaim", f"data-{RELEASE}-{store}-0") for store in ("postgres", "nats")),
}


def installs(scene: Scene) -> str:
    """Install into an empty namespace that enforces `restricted`; everything that was promised is there and ready."""
    cluster = scene.cluster
    _ready_namespace(scene, FRESH)
    cluster.helm("install", RELEASE, str(CHART), "--namespace", FRESH, *WAIT, values=scene.values)
    inventory = cluster.inventory(FRESH)
    missing = {key for key in _of_manifest(cluster, FRESH) if key not in inventory}
    assert not missing, f"not there: {sorted(missing)}"
    pods = cluster.items("pods", namespace=FRESH)
    ready = [pod for pod in pods if _is_ready(pod)]
    done = [pod for pod in pods if pod["status"]["phase"] == "Succeeded"]
    assert len(ready) + len(done) == len(pods), [pod["metadata"]["name"] for pod in pods if not _is_ready(pod)]
    hooks = [
        name for _, name in inventory if "make-secrets" in name and not name.startswith(f"{RELEASE}-make-secrets-")
    ]
    assert hooks in ([], [f"{RELEASE}-make-secrets"]), hooks
    return f"{len(inventory)} objects, {len(ready)} pods ready, {len(done)} done"


def doctor_passes(scene: Scene) -> str:
    """`helm test`: in at the front door, down to a real transcription."""
    told = scene.cluster.helm("test", RELEASE, "--namespace", FRESH, "--timeout", "6m")
    assert "Phase:          Succeeded" in told, told
    return "a real transcription through the gateway"


def second_eviction_waits(scene: Scene) -> str:
    """Nodes are drained by evictions: the budget lets one gateway go, and the next only when there are two again."""
    cluster = scene.cluster
    selector = f"{INSTANCE},app.kubernetes.io/component=gateway"
    pods = [pod["metadata"]["name"] for pod in cluster.items("pods", namespace=FRESH, selector=selector)]
    assert len(pods) >= 2, pods
    until(lambda: _may_go(cluster) >= 1, 120, "a budget that has seen its pods")
    if scene.pause:
        scene.pause.touch()
    try:
        _evict(cluster, pods[0])
        try:
            _evict(cluster, pods[1])
        except Refused as fault:
            assert "disruption budget" in str(fault), fault
        else:
            raise AssertionError("both gateways were evicted at once")
    finally:
        if scene.pause:
            scene.pause.unlink(missing_ok=True)
    until(lambda: _ready_count(cluster, FRESH, selector) >= 2, 300, "two gateways again")
    return "the first is let go, the second refused until there are two again"


def scaling_is_left_alone(scene: Scene) -> str:
    """Who scales decides on replicas: an upgrade does not take them back. The budgets and scalers find their pods."""
    cluster = scene.cluster
    values = scene.values | {"defaults": scene.values.get("defaults", {}) | {"autoscaling": {"enabled": True}}}
    cluster.helm("upgrade", RELEASE, str(CHART), "--namespace", FRESH, *WAIT, values=values)
    scalers = cluster.items("hpa", namespace=FRESH)
    assert len(scalers) == 5, len(scalers)
    cluster.kubectl("scale", f"deployment/{RELEASE}-gateway", "--replicas", "4", "--namespace", FRESH)
    cluster.helm(
        "upgrade", RELEASE, str(CHART), "--namespace", FRESH, *WAIT, values=values | {"env": {"LOG_LEVEL": "DEBUG"}}
    )
    replicas = cluster.get("deployment", f"{RELEASE}-gateway", namespace=FRESH)["spec"]["replicas"]
    assert replicas == 4, f"the upgrade set {replicas} replicas"
    return f"{len(scalers)} scalers; 4 replicas before and after an upgrade"


def restarts_lose_nothing(scene: Scene) -> str:
    """People speak while each service is rolled out again and each pod is deleted."""
    cluster = scene.cluster
    with people.speaking(scene, FRESH) as spoken:
        for service in ("gateway", "transcriber", "meetings", "insights", "janitor"):
            cluster.kubectl("rollout", "restart", f"deployment/{RELEASE}-{service}", "--namespace", FRESH)
            cluster.kubectl(
                *("rollout", "status", f"deployment/{RELEASE}-{service}", "--namespace", FRESH, "--timeout=600s"),
                within_s=620,
            )
            spoken.flows()
        pods = cluster.items("pods", namespace=FRESH, selector=f"{INSTANCE}")
        names = [pod["metadata"]["name"] for pod in pods if _is_ready(pod)]
        for name in names:
            cluster.kubectl("delete", "pod", name, "--namespace", FRESH, "--timeout=300s", within_s=320)
            until(lambda: _all_ready(cluster, FRESH), 600, f"all ready after {name} was deleted")
            spoken.flows()
    return f"5 services rolled out, {len(names)} pods deleted; {spoken.verdict()}"


def uninstall_leaves_what_it_says(scene: Scene) -> str:
    """The secret and the volumes stay, which the documents say; with their two commands nothing is left."""
    return _uninstall(scene, FRESH)


def upgrade_keeps_data(scene: Scene) -> str:
    """From the previous chart: nothing that holds data is made anew, the secret is the same, people go on speaking."""
    cluster = scene.cluster
    _ready_namespace(scene, MOVED)
    cluster.helm("install", RELEASE, str(scene.previous), "--namespace", MOVED, *WAIT, values=_known(scene))
    before, secret = cluster.inventory(MOVED), cluster.get("secret", SECRET, namespace=MOVED)["data"]
    before_manifest = _of_manifest(cluster, MOVED)
    with people.speaking(scene, MOVED) as spoken:
        cluster.helm("upgrade", RELEASE, str(CHART), "--namespace", MOVED, *WAIT, values=scene.values)
        spoken.flows()
    wanted = _of_manifest(cluster, MOVED)
    # Helm has asked for it; what goes takes a moment.
    until(
        lambda: not ((before_manifest - wanted) & cluster.inventory(MOVED).keys()),
        120,
        f"nothing left of the previous chart's {sorted(before_manifest - wanted)}",
    )
    after = cluster.inventory(MOVED)
    kinds = {"StatefulSet", "PersistentVolumeClaim", "Secret", "Service", "Deployment"}
    lasting = {key for key in before if key[0] in kinds and key in after}
    anew = {key for key in lasting if after[key] != before[key]}
    assert not anew, f"made anew: {sorted(anew)}"
    gone = {key for key in before if key[0] in {"PersistentVolumeClaim", "Secret"}} - after.keys()
    assert not gone, f"gone: {sorted(gone)}"
    now = cluster.get("secret", SECRET, namespace=MOVED)["data"]
    assert {key: now.get(key) for key in secret} == secret, "the secret has changed"
    assert not (missing := wanted - after.keys()), f"not there: {sorted(missing)}"
    added = len(now) - len(secret)
    return f"from {scene.previous_name}: {len(lasting)} lasting objects kept, {added} keys added; {spoken.verdict()}"


def rollback_brings_the_former_back(scene: Scene) -> str:
    """What runs after a rollback is what ran before the upgrade."""
    cluster = scene.cluster
    with people.speaking(scene, MOVED) as spoken:
        cluster.helm("rollback", RELEASE, "1", "--namespace", MOVED, *WAIT)
        spoken.flows()
    former = list(yaml.safe_load_all(cluster.helm("get", "manifest", RELEASE, "--namespace", MOVED, "--revision", "1")))
    compared = 0
    for found in filter(None, former):
        if found["kind"] in {"Deployment", "StatefulSet"}:
            there = cluster.get(found["kind"], found["metadata"]["name"], namespace=MOVED)
            for was, now in zip(_containers(found), _containers(there), strict=True):
                for key in ("image", "args", "command"):
                    assert was.get(key) == now.get(key), f"{found['metadata']['name']}: {key}"
                names = [[variable["name"] for variable in one.get("env", [])] for one in (was, now)]
                assert names[0] == names[1], f"{found['metadata']['name']}: {set(names[0]) ^ set(names[1])}"
                compared += 1
    return f"{compared} containers as before; {spoken.verdict()}"


def moved_uninstall_leaves_what_it_says(scene: Scene) -> str:
    """The same after an upgrade and a rollback."""
    return _uninstall(scene, MOVED)


def _uninstall(scene: Scene, namespace: str) -> str:
    cluster = scene.cluster
    if scene.real:
        people.take_away(cluster, namespace)
    cluster.helm("uninstall", RELEASE, "--namespace", namespace, "--wait", "--timeout", "10m")
    until(lambda: not (cluster.inventory(namespace).keys() - STAYS), 300, f"nothing but {sorted(STAYS)}")
    left = cluster.inventory(namespace)
    cluster.kubectl("delete", "secret", SECRET, "--namespace", namespace)
    cluster.kubectl("delete", "pvc", "--selector", INSTANCE, "--namespace", namespace, "--timeout=120s")
    until(lambda: not cluster.inventory(namespace), 120, "an empty namespace")
    return f"left: {', '.join(name for _, name in sorted(left))}; after the two commands nothing"


def _ready_namespace(scene: Scene, name: str) -> None:
    scene.cluster.forget(name)
    scene.cluster.namespace(name)
    if scene.real:
        people.bring(scene, name)
    else:
        # On paper no hook runs: what it would have made.
        scene.cluster.kubectl(
            "create", "secret", "generic", SECRET, "--namespace", name, "--from-literal=ON_PAPER=true"
        )


def _known(scene: Scene) -> Object:
    """Return the values of ours that the previous chart knows too."""
    known = yaml.safe_load((scene.previous / "values.yaml").read_text())
    return {key: value for key, value in scene.values.items() if key in known}


def _of_manifest(cluster: Cluster, namespace: str) -> set[tuple[str, str]]:
    told = cluster.helm("get", "manifest", RELEASE, "--namespace", namespace)
    return {(found["kind"], found["metadata"]["name"]) for found in yaml.safe_load_all(told) if found}


def _evict(cluster: Cluster, pod: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": FRESH}}
    cluster.kubectl(
        "create", "--raw", f"/api/v1/namespaces/{FRESH}/pods/{pod}/eviction", "-f", "-", given=json.dumps(eviction)
    )


def _may_go(cluster: Cluster) -> int:
    budget = cluster.get("pdb", f"{RELEASE}-gateway", namespace=FRESH)
    return int(budget.get("status", {}).get("disruptionsAllowed", 0))


def _containers(owner: Object) -> list[Object]:
    found: list[Any] = owner["spec"]["template"]["spec"]["containers"]
    return found


def _is_ready(pod: Object) -> bool:
    going = bool(pod["metadata"].get("deletionTimestamp"))
    return not going and any(
        c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", [])
    )


def _ready_count(cluster: Cluster, namespace: str, selector: str) -> int:
    return sum(_is_ready(pod) for pod in cluster.items("pods", namespace=namespace, selector=selector))


def _all_ready(cluster: Cluster, namespace: str) -> bool:
    owners = [*cluster.items("deployments", namespace=namespace), *cluster.items("statefulsets", namespace=namespace)]
    return all(owner["status"].get("readyReplicas", 0) >= owner["spec"]["replicas"] for owner in owners)


STEPS = [
    Step("install", "`helm install --wait` into a namespace that enforces `restricted`", installs, pods=True),
    Step("test", "`helm test`", doctor_passes, pods=True, containers=True),
    Step(
        "restarts",
        "Live sessions across a rollout of each service and the deletion of each pod",
        restarts_lose_nothing,
        pods=True,
        containers=True,
    ),
    Step("eviction", "A node's drain takes one replica at a time", second_eviction_waits, pods=True),
    Step("scaling", "Replicas belong to whoever scales", scaling_is_left_alone, pods=True),
    Step("uninstall", "`helm uninstall`, and what is left", uninstall_leaves_what_it_says, pods=True),
    Step("upgrade", "`helm upgrade` from the previous chart", upgrade_keeps_data, pods=True),
    Step("rollback", "`helm rollback`", rollback_brings_the_former_back, pods=True),
    Step("moved-uninstall", "`helm uninstall` after both", moved_uninstall_leaves_what_it_says, pods=True),
]
