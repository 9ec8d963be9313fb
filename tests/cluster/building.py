"""Kubernetes' own servers, built once with Go from the module proxy, with pinned versions.

`k8s.io/kubernetes` requires its parts at v0.0.0 and replaces them with folders beside it, so nobody can `go install`
it: a module of our own names the parts' real versions. It takes many minutes of processor time; the result is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

KUBERNETES = "v1.33.5"
PARTS = KUBERNETES.replace("v1.", "v0.", 1)
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kubectl")
BUILD_WITHIN_S = 4 * 3600

_STAGED = (
    *("api", "apiextensions-apiserver", "apimachinery", "apiserver", "cli-runtime", "client-go", "cloud-provider"),
    *("cluster-bootstrap", "code-generator", "component-base", "component-helpers", "controller-manager", "cri-api"),
    *("cri-client", "csi-translation-lib", "dynamic-resource-allocation", "endpointslice", "externaljwt", "kms"),
    *("kube-aggregator", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet", "metrics"),
    *("mount-utils", "pod-security-admission", "sample-apiserver", "sample-cli-plugin", "sample-controller"),
)
_IMPORTED = (
    "k8s.io/component-base/cli",
    "k8s.io/kubectl/pkg/cmd",
    "k8s.io/kubernetes/cmd/kube-apiserver/app",
    "k8s.io/kubernetes/cmd/kube-controller-manager/app",
)


class CannotBuildError(Exception):
    """The control plane cannot be had here. The message says why."""


def programs(folder: Path, say: Callable[[str], None], system_folders: str = "/usr/sbin") -> dict[str, Path]:
    """Return etcd, the servers and kubectl by name, built below `folder` if they are not there yet.

    kubectl from the PATH is taken if there is one. `system_folders` are searched besides the PATH. Raises
    CannotBuildError.
    """
    etcd = shutil.which("etcd", path=os.pathsep.join([os.environ.get("PATH", os.defpath), system_folders]))
    if etcd is None:
        raise CannotBuildError("etcd is not on the PATH (Debian: apt-get install etcd-server)")
    found = {"etcd": Path(etcd)}
    if installed := shutil.which("kubectl"):
        found["kubectl"] = Path(installed)
    built = folder / KUBERNETES
    for name in PROGRAMS:
        if name not in found:
            if not (built / name).exists():
                _build(name, built, say)
            found[name] = built / name
    return found


def _build(name: str, built: Path, say: Callable[[str], None]) -> None:
    go = shutil.which("go")
    if go is None:
        raise CannotBuildError(f"{name} is not built yet, and there is no Go to build it with")
    module = built / "module"
    if not (module / "go.sum").exists():
        module.mkdir(parents=True, exist_ok=True)
        (module / "go.mod").write_text(_go_mod())
        (module / "main.go").write_text(_main_go())
        say(f"resolving Kubernetes {KUBERNETES} at the module proxy (once)")
        # -e: tests of some parts import what their published modules leave out.
        _run([go, "mod", "tidy", "-e"], module)
    say(f"building {name} {KUBERNETES} with Go (once; this takes long)")
    aside = built / f"{name}.new"
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    stamps = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    flags = ["-s", "-w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items())]
    # Not optimised: that halves the build, and a test of admission needs no speed.
    slow_is_fine = ["-gcflags=all=-N -l", "-ldflags", " ".join(flags)]
    _run([go, "build", *slow_is_fine, "-o", str(aside), f"k8s.io/kubernetes/cmd/{name}"], module)
    aside.replace(built / name)


def _go_mod() -> str:
    replaced = [f"\tk8s.io/{part} => k8s.io/{part} {PARTS}" for part in _STAGED]
    head = ["module verbatim.example/controlplane", "", "go 1.24.0", "", f"require k8s.io/kubernetes {KUBERNETES}", ""]
    return "\n".join([*head, "replace (", *replaced, ")", ""])


def _main_go() -> str:
    # Imported so that `go mod tidy` keeps what the programs need.
    return "\n".join(
        ["package main", "", "import (", *(f'\t_ "{path}"' for path in _IMPORTED), ")", "", "func main() {}"]
    )


def _run(command: list[str], module: Path) -> None:
    flags = f"{os.environ.get('GOFLAGS', '')} -mod=mod -trimpath -buildvcs=false".strip()
    # The compiler collects its garbage less often than it would: memory for time.
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": flags, "GOTOOLCHAIN": "local", "GOGC": "800"}
    done = subprocess.run(
        command, cwd=module, env=environment, capture_output=True, text=True, timeout=BUILD_WITHIN_S, check=False
    )
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-3:])
        raise CannotBuildError(f"{' '.join(command[1:3])} failed: {last}")
