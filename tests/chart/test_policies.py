"""House rules over what the chart renders, in every way to install it that we promise."""

from __future__ import annotations

import importlib
import ipaddress
import re
from collections.abc import Iterator
from typing import Any

import pytest

from chassis.settings import ServiceSettings
from tests.chart.rendering import CASES, SERVICES, STORES, Object, Release, release

pytestmark = [pytest.mark.req("R-RUN-2"), pytest.mark.timeout(600)]

# Read by libraries, not by our settings.
FOREIGN = {"PYTHONPATH", "SSL_CERT_FILE", "TMPDIR"}
CLUSTER_API = {"make-secrets"}


@pytest.fixture(params=CASES)
def rendered(request: pytest.FixtureRequest) -> Release:
    return release(request.param)


def containers(rendered: Release) -> Iterator[tuple[str, Object, Object]]:
    for owner, template in rendered.pods():
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            yield f"{owner}/{container['name']}", template["spec"], container


def labels_match(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def settings_of(service: str) -> type[ServiceSettings]:
    module = importlib.import_module(f"services.{service}.settings")
    found: type[ServiceSettings] = module.Settings
    return found


def test_every_service_and_budget_finds_its_pods(rendered: Release) -> None:
    pods = [template["metadata"]["labels"] for _, template in rendered.pods()]
    for found in rendered.of("Service"):
        assert any(labels_match(found["spec"]["selector"], labels) for labels in pods), found["metadata"]["name"]
    for found in rendered.of("PodDisruptionBudget", "Deployment", "StatefulSet"):
        selector = found["spec"]["selector"]["matchLabels"]
        assert any(labels_match(selector, labels) for labels in pods), found["metadata"]["name"]


def test_selectors_tell_all_owners_apart(rendered: Release) -> None:
    owners = rendered.of("Deployment", "StatefulSet")
    for one in owners:
        selector = one["spec"]["selector"]["matchLabels"]
        others = [o for o in owners if o is not one]
        assert not any(labels_match(selector, o["spec"]["template"]["metadata"]["labels"]) for o in others)


def test_every_port_of_a_service_is_a_port_of_its_pods(rendered: Release) -> None:
    for found in rendered.of("Service"):
        ports = {
            port["name"]
            for _, template in rendered.pods()
            if labels_match(found["spec"]["selector"], template["metadata"]["labels"])
            for container in template["spec"]["containers"]
            for port in container.get("ports", [])
        }
        assert {port["targetPort"] for port in found["spec"]["ports"]} <= ports, found["metadata"]["name"]


def test_pods_meet_the_restricted_standard(rendered: Release) -> None:
    for owner, template in rendered.pods():
        spec = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), owner
        assert spec["securityContext"]["runAsNonRoot"] is True, owner
        assert spec["securityContext"]["runAsUser"] > 0, owner
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "configMap", "persistentVolumeClaim", "projected", "secret"}, owner
    for name, _, container in containers(rendered):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name


def test_only_who_speaks_to_the_cluster_has_a_token(rendered: Release) -> None:
    for owner, template in rendered.pods():
        wanted = any(owner.endswith(name) for name in CLUSTER_API)
        assert template["spec"]["automountServiceAccountToken"] is wanted, owner


def test_every_container_has_its_bounds(rendered: Release) -> None:
    for name, spec, container in containers(rendered):
        assert {"memory", "ephemeral-storage"} <= container["resources"]["limits"].keys(), name
        assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["requests"].keys(), name
        for volume in spec.get("volumes", []):
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], name


def test_every_image_is_pinned(rendered: Release) -> None:
    for name, _, container in containers(rendered):
        assert re.search(r"(@sha256:[0-9a-f]{64}|:v?\d[\w.-]*)$", container["image"]), f"{name}: {container['image']}"


def test_all_that_is_mounted_is_there(rendered: Release) -> None:
    theirs = {"authorities"}  # whoever installs the chart has made it
    maps = {found["metadata"]["name"] for found in rendered.of("ConfigMap")} | theirs
    claims = {c["metadata"]["name"] for s in rendered.of("StatefulSet") for c in s["spec"]["volumeClaimTemplates"]}
    for name, spec, container in containers(rendered):
        volumes = {volume["name"] for volume in spec.get("volumes", [])} | claims
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, name


def test_every_variable_is_a_setting_and_every_required_setting_is_given(rendered: Release) -> None:
    for service, container in rendered.services().items():
        fields = settings_of(service).model_fields
        given = {variable["name"] for variable in container["env"]}
        assert given - FOREIGN <= {name.upper() for name in fields}, service
        required = {name.upper() for name, field in fields.items() if field.is_required()}
        assert required <= given, service


def test_every_plain_value_is_one_that_the_service_takes(rendered: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {
        "AUTH_PUBLIC_KEY": PUBLIC_KEY,
        "AUTH_PRIVATE_KEY": PRIVATE_KEY,
        "SERVICE_AUTH_KEY": "k" * 32,
        "WEBHOOK_SIGNING_KEY": "k" * 32,
    }
    for service, container in rendered.services().items():
        with monkeypatch.context() as patch:
            for variable in container["env"]:
                name = variable["name"]
                stand_in = secret.get(name, "postgresql+psycopg://u:p@h/d" if name.startswith("DATABASE") else "x")
                patch.setenv(name, variable.get("value", stand_in))
            settings_of(service)()


def test_probes_ask_ports_that_the_container_has(rendered: Release) -> None:
    for name, _, container in containers(rendered):
        ports = container.get("ports", [])
        names, numbers = {port["name"] for port in ports}, {port["containerPort"] for port in ports}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container.get(probe, {})
            for way in ("httpGet", "tcpSocket", "grpc"):
                if way in asked:
                    assert asked[way]["port"] in names | numbers, f"{name} {probe}"
    for service, container in rendered.services().items():
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), service
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert container["livenessProbe"].get("httpGet", {}).get("path", "/healthz") == "/healthz"


def test_nobody_is_killed_before_the_drain_is_over(rendered: Release) -> None:
    for owner in rendered.of("Deployment"):
        spec = owner["spec"]["template"]["spec"]
        for variable in spec["containers"][0].get("env", []):
            if variable["name"] == "DRAIN_S":
                waited = float(re.findall(r"sleep\((\d+)\)", str(spec["containers"][0]["lifecycle"]))[0])
                assert spec["terminationGracePeriodSeconds"] > float(variable["value"]) + waited


def test_replicas_are_left_to_whoever_scales(rendered: Release) -> None:
    scaled = {
        target["name"]
        for found in rendered.of("HorizontalPodAutoscaler", "ScaledObject")
        for target in [found["spec"]["scaleTargetRef"]]
    }
    for owner in rendered.of("Deployment"):
        assert ("replicas" in owner["spec"]) is (owner["metadata"]["name"] not in scaled)


def test_transcribers_can_be_seen_one_by_one(rendered: Release) -> None:
    headless = [s for s in rendered.of("Service") if s["metadata"]["name"].endswith("-transcriber")]
    assert [found["spec"]["clusterIP"] for found in headless] == ["None"]


def test_names_fit(rendered: Release) -> None:
    for found in rendered.objects:
        assert len(found["metadata"]["name"]) <= 63, found["metadata"]["name"]


# -- the network ---------------------------------------------------------------------------------------------------


def edges(rendered: Release) -> set[tuple[str, str, int]]:
    """Return (from, to, port) that both sides' policies allow between pods of the release."""
    component = "app.kubernetes.io/component"
    out: set[tuple[str, str, int]] = set()
    into: set[tuple[str, str, int]] = set()
    for found in rendered.of("NetworkPolicy"):
        here = found["spec"]["podSelector"]["matchLabels"].get(component)
        for rule, others, seen in (("egress", "to", out), ("ingress", "from", into)):
            for allowed in found["spec"].get(rule) or []:
                for peer in allowed.get(others, []):
                    there = peer.get("podSelector", {}).get("matchLabels", {}).get(component)
                    for port in allowed.get("ports", []):
                        if there:
                            pair = (here, there) if rule == "egress" else (there, here)
                            seen.add((*pair, port["port"]))
    return out & into


def test_network_allows_what_the_code_calls_and_nothing_else() -> None:
    rendered = release("default")
    needed = set()
    for service, container in rendered.services().items():
        names = {variable["name"] for variable in container["env"]}
        for name in names:
            if found := re.fullmatch(r"(\w+)_TARGETS?", name):
                needed.add((service, found[1].lower(), 9200))
        needed |= {(service, "nats", 4222)}
        needed |= {(service, "redis", 6379)} if "REDIS_URL" in names else set()
        needed |= {(service, "postgres", 5432)} if any(n.startswith("DATABASE_URL") for n in names) else set()
    needed.add(("migrate", "postgres", 5432))
    assert edges(rendered) == needed


def test_everything_is_denied_by_default() -> None:
    denied = [p for p in release("default").of("NetworkPolicy") if p["metadata"]["name"].endswith("default-deny")]
    assert [p["spec"]["policyTypes"] for p in denied] == [["Ingress", "Egress"]]
    assert not denied[0]["spec"].get("ingress") and not denied[0]["spec"].get("egress")
    for policy in release("default").of("NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.req("R-API-7")
def test_webhooks_reach_the_internet_and_nothing_inside() -> None:
    [policy] = [p for p in release("default").of("NetworkPolicy") if p["metadata"]["name"].endswith("-meetings")]
    outside = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule.get("to", []) if "ipBlock" in peer]
    [block] = outside
    inside = [ipaddress.ip_network(one) for one in block["except"]]
    for address in ("10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "127.0.0.1"):
        assert any(ipaddress.ip_address(address) in network for network in inside), address
    assert block["cidr"] == "0.0.0.0/0"
    assert not any(ipaddress.ip_address("1.1.1.1") in network for network in inside)


@pytest.mark.parametrize("store", STORES)
def test_an_external_store_is_reached_by_its_network_alone(store: str) -> None:
    rendered = release(f"external-{store}")
    assert not any(found["metadata"]["name"].endswith(f"-{store}") for found in rendered.of("Service"))
    blocks: list[Any] = [
        peer["ipBlock"]["cidr"]
        for policy in rendered.of("NetworkPolicy")
        for rule in policy["spec"].get("egress") or []
        for peer in rule.get("to", [])
        if "ipBlock" in peer and rule["ports"][0]["port"] != 443
    ]
    assert blocks
    assert not any(there == store for _, there, _ in edges(rendered))


def test_only_the_gateway_is_open_to_all() -> None:
    open_to_all = {
        policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for policy in release("default").of("NetworkPolicy")
        for rule in policy["spec"].get("ingress") or []
        if "from" not in rule
    }
    assert open_to_all == {"gateway"}


def test_live_audio_has_no_timeout_at_the_edge() -> None:
    route = release("http-route").of("HTTPRoute")[0]
    live = route["spec"]["rules"][0]
    assert live["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert {match["path"]["value"] for match in live["matches"]} == {"/transcribe", "/api/meetings/[^/]+/live"}


@pytest.mark.parametrize("service", SERVICES)
def test_secrets_come_from_secrets(service: str) -> None:
    container = release("production").services()[service]
    for variable in container["env"]:
        if re.search(r"KEY|PASSWORD|DATABASE_URL|NATS_URL|REDIS_URL|SECRET|DSN", variable["name"]):
            assert "value" not in variable, variable["name"]


PRIVATE_KEY = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
"""
PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=
-----END PUBLIC KEY-----
"""
