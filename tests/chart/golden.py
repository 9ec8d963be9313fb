"""What the chart renders, committed to be read in reviews. `python -m tests.chart.golden` writes it anew."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.chart.rendering import ROOT, Object, release

CASES = ("default", "production")


def path(case: str) -> Path:
    """Return where a case's rendering is kept."""
    return ROOT / "deploy" / "helm" / "golden" / f"{case}.yaml"


def text(objects: list[Object]) -> str:
    """Return the objects in a fixed order. What is shipped as a file of its own is left to that file."""
    kept = []
    for found in sorted(objects, key=lambda o: (o["kind"], o["metadata"]["name"])):
        if found["kind"] == "PrometheusRule" or "-dashboard-" in found["metadata"]["name"]:
            continue
        shown = dict(found)
        if found["kind"] == "ConfigMap":
            shown["data"] = sorted(found["data"])
        kept.append(shown)
    return "---\n".join(yaml.safe_dump(found, sort_keys=True, width=120) for found in kept)


def main() -> None:
    """Write the renderings."""
    for case in CASES:
        path(case).parent.mkdir(exist_ok=True)
        path(case).write_text(text(release(case).objects))


if __name__ == "__main__":
    main()
