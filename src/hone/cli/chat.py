from __future__ import annotations
def chat() -> None: 
    """Chat."""
