"""`penstock bench`: the group of verbs that measure servers, engines and machines.

Knows nothing about how. Invariant: importing it imports nothing that measures.
"""

from __future__ import annotations

import typer

from penstock.cli import bench_load, bench_machine

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Measure servers, engines and this machine.",
)
for verb in (
    bench_load.serve,
    bench_load.sweep,
    bench_load.compare,
    bench_machine.machine,
    bench_machine.engine,
    bench_machine.report,
):
    app.command()(verb)
