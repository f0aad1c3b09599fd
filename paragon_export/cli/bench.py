"""``bench``: images a second of every backend."""

from __future__ import annotations

from paragon_export.cli.options import (
    Artifacts,
    Backends,
    BenchBatches,
    BenchSizes,
    Json,
    ReportFile,
    TimeVideo,
    backends_of,
    existing,
    exit_on_failure,
    replaced,
    size_of,
    takes_options,
)
from paragon_export.reports.files import ReportFiles
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import check_suffix


@takes_options
def bench(
    artifacts: Artifacts,
    size: BenchSizes = None,
    batch: BenchBatches = None,
    video: TimeVideo = False,
    backend: Backends = None,
    report: ReportFile = None,
    *,
    reports: ReportFiles,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Time every backend, in turns. Exit code 1 if nothing was measured."""
    from paragon_export.bench.doubts import doubt, load_average
    from paragon_export.bench.measure import benchmark, is_report
    from paragon_export.cli.show.bench import bench_markdown, bench_table
    from paragon_export.cli.show.console import note, show
    from paragon_export.reports.measured import of_bench
    from paragon_export.system.atomic_write import check_writable, to_json, write_texts

    if report:
        check_suffix(report, (".md",))
    files = [report, report.with_suffix(".json")] if report else []
    for file in files:
        check_writable(file, *artifacts, options.config, named=file == report, is_ours=is_report)
    reports.check(*artifacts, options.config, *files)
    there, load = existing(*files, *reports.paths), load_average()
    result = benchmark(
        artifacts, sizes=[size_of(text, "--size") for text in size or ()], batches=batch or (),
        backends=backends_of(backend), video=video, options=options,
    )  # fmt: skip
    if files:
        texts = (bench_markdown(result), to_json(result.to_json()))
        write_texts(dict(zip(files, texts, strict=True)))
    doubts = doubt(result, load)
    reports.write(lambda: of_bench(result, artifacts, doubts))
    for text in [*doubts, *replaced(there)]:
        note(text)
    show(json, result.to_json(), bench_table, result)
    exit_on_failure(any(row.samples_ms for row in result.rows))
