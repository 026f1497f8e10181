"""Forgetting: five two-class tasks in sequence (Split MNIST, Zenke et al. 2017), without images of earlier tasks."""

from statistics import fmean
from typing import Any

from intff_lightning.reproduce.characteristics.networks import TASKS, Trained, Training, classes_of, of_task
from intff_lightning.reproduce.characteristics.reading import scores, share_right

SEQUENCE = tuple(Training(tasks=count) for count in range(1, TASKS + 1))
ALL = f"after all {TASKS} tasks"
_MEASURES = {"accuracy, ten classes": "forgetting, ten classes", "accuracy, task known": "forgetting, task known"}


def measure(trained: Trained, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return the test accuracy of each task that the network has seen, among ten classes and among its own two."""
    seen = trained.training.tasks
    rows = []
    for task in range(1, seen + 1):
        data, own = of_task(trained.test, task), list(classes_of(task))
        found = scores(trained.module, data)
        known = share_right(found[:, own], data.target - own[0])
        for name, value in zip(_MEASURES, (share_right(found, data.target), known), strict=True):
            rows.append({"what": f"task {task} after task {seen}", "measure": name, "value": value, "better": "higher"})
    return rows


def summarize(own: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    r"""Return the mean accuracy of all tasks after the last one, and what the earlier ones have lost.

    Forgetting is that of Chaudhry et al. (2018), with :math:`a_{k,j}` the accuracy of task j after task k of T:

    .. math:: \frac{1}{T - 1} \sum_{j < T} \Bigl(\max_{j \le k < T} a_{k,j} - a_{T,j}\Bigr)
    """
    rows = []
    for name, forgetting in _MEASURES.items():
        found = {row["what"]: row["value"] for row in own if row["measure"] == name}

        def at(task: int, after: int, found: dict[str, float] = found) -> float:
            return found[f"task {task} after task {after}"]

        mean = fmean(at(task, TASKS) for task in range(1, TASKS + 1))
        lost = fmean(max(at(task, after) for after in range(task, TASKS)) - at(task, TASKS) for task in range(1, TASKS))
        rows.append({"what": ALL, "measure": name, "value": mean, "better": "higher"})
        rows.append({"what": ALL, "measure": forgetting, "value": lost, "better": "lower"})
    return rows
