"""Judge and time an engine on a GPU, if there is one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from paragon_export.bench.contenders import state_of
from paragon_export.bench.measure import bench_runners
from paragon_export.engines.manifest import EngineFile
from paragon_export.engines.open import open_engine
from paragon_export.errors import RunError
from paragon_export.parity.check import judge
from paragon_export.parity.reference import TorchReference
from paragon_export.pipeline.results import Proof
from paragon_export.runtimes.base import Runner
from paragon_export.specs.profiles import BatchProfile, Profile
from paragon_export.system.environment import cuda_gpu


def prove_on_gpu(
    engine: EngineFile, reference: TorchReference | None, profile: Profile | BatchProfile
) -> Proof:
    """Judge an engine against its network, and time both at the optimal size of its profile.

    Args:
        engine: The engine and its manifest.
        reference: The network that it was built from; None if unknown.
        profile: The sizes or batches that it accepts.

    Returns:
        The verdict and the latencies. If the engine did not run, a note says why.
    """
    gpu = cuda_gpu()
    if gpu is None:
        judged = "the ONNX file was judged, " if reference else ""
        return Proof(notes=(f"no GPU here: {judged}the engine has not run",))
    if reference is None:
        return Proof(notes=("the engine has not run: no checkpoint to judge it against",))
    try:
        parity = judge(reference, [engine])
        runner, _, _ = open_engine(engine)
    except RunError as error:
        return Proof(notes=(f"the engine does not run on the GPU here, {gpu}: {error}",))
    contenders: dict[str, Callable[[], Runner]] = {
        "PyTorch eager (cuda float16)": partial(reference.runner, "float16", "cuda"),
        "TensorRT": lambda: runner,
    }
    port = reference.inputs[0] if reference.spec.task.is_classifier else None
    bench = bench_runners(
        engine.path.name, contenders, profile.optimal, port, state_of(reference.inputs)
    )
    return Proof(parity=parity, bench=bench)
