"""Helm, found or built, and the chart as it comes out of it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "verbatim"
HELM_MODULE = "helm.sh/helm/v3/cmd/helm@v3.19.2"
OLDEST, NEWEST = "1.29.0", "1.37.0"
SERVICES = ("gateway", "transcriber", "meetings", "insights", "janitor")
STORES = ("postgres", "nats", "redis")

_BUILD_S = 540
_RENDER_S = 60

Object = dict[str, Any]

# Every way to install the chart that we promise: the values are layered over values.yaml.
CASES: Mapping[str, Object] = {
    "default": {},
    "production": yaml.safe_load((CHART / "values-production.yaml").read_text()),
    "openai": {"openai": {"existingSecret": "openai", "baseUrl": "https://speech.example/v1"}},
    "existing-secret": {"secrets": {"existingSecret": "mine"}},
    "external-postgres": {
        "bundled": {"postgres": {"enabled": False}},
        "external": {"postgres": {"existingSecret": "pg", "cidrs": ["10.1.0.0/16"], "port": 6432}},
    },
    "external-nats": {
        "bundled": {"nats": {"enabled": False}},
        "external": {"nats": {"existingSecret": "nats", "replicas": 3}},
    },
    "external-redis": {
        "bundled": {"redis": {"enabled": False}},
        "external": {"redis": {"existingSecret": "redis"}},
    },
    "ingress": {"gateway": {"ingress": {"enabled": True, "host": "v.example", "tlsSecret": "tls", "className": "c"}}},
    "http-route": {
        "gateway": {"httpRoute": {"enabled": True, "hostnames": ["v.example"], "parentRefs": [{"name": "edge"}]}}
    },
    "autoscaling": {"defaults": {"autoscaling": {"enabled": True}}},
    "keda": {"defaults": {"autoscaling": {"enabled": True}}, "keda": {"enabled": True}},
    "monitoring": {"metrics": {"podMonitor": True, "rules": True, "labels": {"release": "kps"}}},
    "alertmanager-config": {
        "metrics": {"alertmanagerConfig": {"enabled": True, "existingSecret": "told", "mailTo": "ops@v.example"}}
    },
    "bundled-monitoring": {"monitoring": {"enabled": True}},
    "trust": {"trust": {"configMap": "authorities"}},
    "tls-issuer": {"tls": {"enabled": True, "issuerRef": {"name": "inside"}}},
    "tls-secrets": {"tls": {"enabled": True, "existingSecretPrefix": "mine"}},
    "no-policies": {"networkPolicy": {"enabled": False}},
    "backup": {"backup": {"enabled": True, "existingClaim": "backups"}},
    "probe": {"probe": {"enabled": True, "existingSecret": "probe"}, "metrics": {"podMonitor": True}},
    "pinned": {
        "image": {"digest": "sha256:" + "a" * 64, "pullSecrets": ["registry"]},
        "fullnameOverride": "a-very-long-name-that-goes-on-and-on-and-on-for-ever",
        "services": {"gateway": {"replicas": 1, "env": {"LOG_LEVEL": "DEBUG"}, "envFromSecrets": ["more"]}},
    },
}


class Refused(Exception):
    """Helm would not render; the message is Helm's."""


@functools.cache
def helm() -> str | None:
    """Return Helm's path: $HELM, from the PATH, or built with Go (once, under .run/); None if it cannot be had."""
    if named := os.environ.get("HELM") or shutil.which("helm"):
        return named
    built = ROOT / ".run" / "bin" / HELM_MODULE.rpartition("@")[2] / "helm"
    if not built.exists():
        go = shutil.which("go")
        if go is None:
            return None
        environment = os.environ | {"GOBIN": str(built.parent), "GOFLAGS": "-trimpath"}
        done = subprocess.run([go, "install", HELM_MODULE], env=environment, timeout=_BUILD_S, check=False)
        if done.returncode:
            return None
    return str(built)


def run(*arguments: str, values: Object | None = None) -> str:
    """Return what Helm prints. Raises Refused."""
    program = helm()
    assert program is not None
    command = [program, *arguments] + (["--values", "-"] if values else [])
    given = yaml.safe_dump(values) if values else None
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=_RENDER_S, check=False)
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def render(values: Object | None = None, *, kube: str = NEWEST, release: str = "v") -> list[Object]:
    """Return the objects of a release. Raises Refused."""
    told = run(
        *("template", release, str(CHART), "--namespace", "there", "--kube-version", kube),
        *("--api-versions", "monitoring.coreos.com/v1", "--api-versions", "gateway.networking.k8s.io/v1"),
        values=values,
    )
    # The same as `safe_load_all`, ten times faster: hundreds of files are read.
    return [found for found in yaml.load_all(told, yaml.CSafeLoader) if found]


@dataclass(frozen=True)
class Release:
    """The objects of one case, and questions about them."""

    name: str
    objects: list[Object]

    def of(self, *kinds: str) -> list[Object]:
        """Return the objects of some kinds."""
        return [found for found in self.objects if found["kind"] in kinds]

    def pods(self) -> list[tuple[str, Object]]:
        """Return (name of the owner, pod template) of everything that runs pods."""
        templates = {
            "Deployment": lambda owner: owner["spec"]["template"],
            "StatefulSet": lambda owner: owner["spec"]["template"],
            "Job": lambda owner: owner["spec"]["template"],
            "CronJob": lambda owner: owner["spec"]["jobTemplate"]["spec"]["template"],
            "Pod": lambda owner: owner,
        }
        return [(owner["metadata"]["name"], templates[owner["kind"]](owner)) for owner in self.of(*templates)]

    def services(self) -> dict[str, Object]:
        """Return the container of each of our five services by name."""
        found = {}
        for owner in self.of("Deployment"):
            component = owner["metadata"]["labels"]["app.kubernetes.io/component"]
            if component in SERVICES:
                found[component] = owner["spec"]["template"]["spec"]["containers"][0]
        return found


@functools.cache
def release(case: str) -> Release:
    """Return the release of a case, rendered once."""
    return Release(case, render(CASES[case]))
