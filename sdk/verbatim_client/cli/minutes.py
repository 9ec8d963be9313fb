"""Minutes and tasks as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verbatim_client.cli.printing import plain

Json = dict[str, Any]


def minutes_lines(insights: Json) -> list[str]:
    """Give the minutes of a meeting as lines."""
    lines: list[str] = []
    if summary := insights.get("summary"):
        made = ", ".join(plain(insights[name]) for name in ("quality", "engine") if insights.get(name))
        lines += [f"summary ({made})", f"  {plain(summary)}"]
    for name in ("key_points", "decisions", "action_items"):
        if items := insights.get(name):
            lines += ["", name.replace("_", " "), *[f"  - {sentence(item)}" for item in items]]
    return lines


def task_lines(tasks: Sequence[Json]) -> list[str]:
    """Give tasks as lines with boxes to tick."""
    return [f"  [{'x' if task.get('status') == 'done' else ' '}] {sentence(task)}" for task in tasks]


def sentence(item: Json) -> str:
    """Give a point or a task as one line, with who and until when where that is known."""
    who_and_when = [f"{name}: {plain(item[name])}" for name in ("assignee", "due") if item.get(name)]
    text = plain(item.get("text") or item.get("title"))
    return f"{text} ({', '.join(who_and_when)})" if who_and_when else text
