"""Named: run a network whose ports have other names than ``input`` and ``output``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from paragon_export.runtimes.base import Arrays, Runner, prepared
from paragon_export.specs.ports import PortNames


class NamedRunner:
    """A runner that takes ``input`` and gives ``output`` for a network with other names."""

    def __init__(self, runner: Runner, names: PortNames) -> None:
        self.name = runner.name
        self._runner, self._names = runner, names

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once (see ``Runner.infer``)."""
        found = self._runner.infer(self._renamed(feeds))
        return {"output" if name == self._names.result else name: a for name, a in found.items()}

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """Copy the inputs to the device (see ``DeviceRunner.prepare``)."""
        return prepared(self._runner, self._renamed(feeds))

    def _renamed(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {self._names.image if name == "input" else name: a for name, a in feeds.items()}


def with_standard_names(runner: Runner, names: PortNames) -> Runner:
    """Return a runner that takes ``input`` and gives ``output``."""
    return runner if names == PortNames() else NamedRunner(runner, names)
