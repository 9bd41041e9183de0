from __future__ import annotations
import typer

models = typer.Typer()


@models.command("list")
def lst() -> None:
    """Doctor."""
