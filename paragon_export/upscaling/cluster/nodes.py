"""Nodes: whether the machines of a cluster can do what is asked, before anything is computed.

What runs on a node here is sent by its code and uses the standard library alone, because a node may have another
version of this package, or none.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paragon_export.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILES = 64
"""Inputs that every node looks for. A file that is missed later fails alone."""

SHOWN = "put it on storage that all nodes see under one path, or start Ray on the nodes that see it"


def look(paths: Sequence[str]) -> dict[str, Any]:
    """Return the version of this package on a node, and the size of each path there; None: not there."""
    import os

    sizes: dict[str, int | None] = {}
    for path in paths:
        try:
            status = os.stat(path)
            sizes[path] = 0 if os.path.isdir(path) else status.st_size
        except OSError:
            sizes[path] = None
    try:
        import paragon_export

        version = paragon_export.__version__
    except ImportError:
        version = None
    return {"version": version, "sizes": sizes}


def problem_of(name: str, seen: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Return why a node cannot do the work, in one line; None if it can.

    Args:
        name: Address of the node.
        seen: What ``look`` returned on it.
        here: What it returned in this process.
    """
    if seen["version"] is None:
        return f"node {name} has no paragon-export; install {here['version']} in its Python"
    if seen["version"] != here["version"]:
        return (
            f"node {name} has paragon-export {seen['version']}, this one {here['version']}; install "
            "one version on all nodes"
        )
    for path, size in here["sizes"].items():
        if seen["sizes"].get(path) is None:
            return f"node {name} does not see {path}; {SHOWN}"
        if seen["sizes"][path] != size:
            return f"node {name} sees another file at {path}; {SHOWN}"
    return None


def check_nodes(ray: Any, nodes: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> None:
    """Check that nodes have this version of the package and see the paths.

    Args:
        ray: The module, connected.
        nodes: Of ``ray.nodes()``.
        paths: Files and folders that are there in this process.

    Raises:
        PlanError: If a node does not.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    texts = [str(path) for path in paths]
    with _by_value(ray):
        remote = ray.remote(num_cpus=0, max_retries=0)(look)
        asked = {
            node["NodeManagerAddress"] + f" ({node['NodeID'][:8]})": remote.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(texts)
            for node in nodes
        }
        here = look(texts)
        for name, reference in asked.items():
            try:
                seen = ray.get(reference)
            except ray.exceptions.RayError as error:
                reason = str(error).strip().partition("\n")[0]
                raise PlanError(f"node {name} cannot be asked: {reason}") from error
            if problem := problem_of(name, seen, here):
                raise PlanError(problem)


@contextmanager
def _by_value(ray: Any) -> Iterator[None]:
    """Send functions of this module by their code in the block."""
    module = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        ray.cloudpickle.unregister_pickle_by_value(module)
