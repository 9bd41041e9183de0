"""What each option is called, and what its help says: read from the fields of a config."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["option_help", "option_name"]


def option_help(config_class: type[BaseModel]) -> dict[str, str]:
    """Help text of each option, by the name it has in a config file; a default other than None ends the text."""
    texts = {}
    for attribute, field in config_class.model_fields.items():
        text = field.description or ""
        if field.default is not None and not field.is_required():
            text += f" Default: {field.default}."
        texts[field.alias or attribute] = text
    return texts


def option_name(config_class: type[BaseModel], key: str) -> str:
    """The name that a field has in a config file; the key itself where there is no such field."""
    field = config_class.model_fields.get(key)
    return field.alias or key if field else key
