"""Named: run a network whose ports have other names than ``input`` and ``output``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.ports import PortNames


class NamedRunner:
    """A runner that takes ``input`` and gives ``output`` for a network with other names."""

    def __init__(self, runner: Runner, names: PortNames) -> None:
        self.name = runner.name
        self._runner, self._names = runner, names

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once (see ``Runner.infer``)."""
        fed = {self._names.image if name == "input" else name: a for name, a in feeds.items()}
        found = self._runner.infer(fed)
        return {"output" if name == self._names.result else name: a for name, a in found.items()}


def with_standard_names(runner: Runner, names: PortNames) -> Runner:
    """Return a runner that takes ``input`` and gives ``output``."""
    return runner if names == PortNames() else NamedRunner(runner, names)
