from io import StringIO
from pathlib import Path

from rich.console import Console

from prep.cli.check_report import render
from prep.stages.check import CheckReport, EntryReport, Finding, FirstSample


def rendered(report: CheckReport, width: int = 80) -> list[str]:
    file = StringIO()
    Console(file=file, width=width, color_system=None).print(render(report))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def entry(name: str, **facts: object) -> EntryReport:
    return EntryReport(name=name, group="default", path=f"/data/{name}.parquet", **facts)  # type: ignore[arg-type]


def test_whole_report_at_80_columns() -> None:
    report = CheckReport(
        Path("t.yaml"),
        steps=10,
        batch=8,
        entries=[
            entry(
                "coyo-700m-recaptioned",
                rows_in_file=746_972_269,
                rows_after_cutoffs=5_123_456,
                rows_after_sampling=5_123_456,
                memory_bytes=412_345_678_901,
                memory_is_estimate=True,
                share=0.9876,
                seen=1.234,
                first=FirstSample(("/images/a.png",), "a [red]dog\x1b[31m\n" + "x" * 200, "SCORE : 5.812"),
            ),
            entry("broken"),
        ],
        findings=[
            Finding("warning", "coyo-700m-recaptioned", "some [bold]thing", "it goes on", "Look."),
            Finding("error", "broken", "json_path '/d/x.parquet' is not there", "the loader stops", "Mend the path."),
        ],
    )
    assert rendered(report) == [
        "                            rows      after      after         each row",
        "entry                    in file    cutoffs   sampling  share      seen   memory",
        "coyo-700m-recaption  746,972,269  5,123,456  5,123,456  98.8%     1.23x  ~412 GB",
        "ed",
        "broken                         -          -          -      -         -        -",
        "memory: of the whole table, in every training process; ~ is estimated from a",
        "sample",
        "",
        "First samples",
        "coyo-700m-recaptioned",
        "  image:  /images/a.png",
        "  text:   a [red]dog [31m",
        "          xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "          xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...",
        "  prompt: SCORE : 5.812",
        "",
        "Errors (1)",
        "broken: json_path '/d/x.parquet' is not there",
        "  in training: the loader stops",
        "  what to do:  Mend the path.",
        "",
        "Warnings (1)",
        "coyo-700m-recaptioned: some [bold]thing",
        "  in training: it goes on",
        "  what to do:  Look.",
        "",
        "Training would stop: 1 error, 1 warning.",
    ]


def test_nothing_found() -> None:
    assert rendered(CheckReport(Path("t.yaml"))) == ["Training would start: nothing found."]
