from __future__ import annotations
import typer

data = typer.Typer()


@data.command("show")
def lst() -> None:
    """Doctor."""
