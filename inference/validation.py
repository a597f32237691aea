"""What pydantic found wrong, said in one line: where, which key, what value, what is legal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pkpd.errors import InputError, nearest


# pydantic's words for the types of Python, in those of TOML
TYPES = {
    "dict_type": "a table",
    "model_type": "a table",
    "tuple_type": "a list",
    "list_type": "a list",
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "too_short": "at least one entry",
}


def input_error(error: ValidationError, model: type[BaseModel], where: str) -> InputError:
    """One finding of a ValidationError as an InputError; an unknown key comes first, with the nearest legal name."""
    found = error.errors(include_url=False)
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    loc = [part for part in first["loc"] if not (isinstance(part, str) and part in ("bool", "float", "int", "str"))]
    key = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if first["type"] == "extra_forbidden":
        owner = _model_at(model, loc[:-1])
        table = key.rpartition(".")[0]
        place = f"{where}: [{table}]" if table else where
        return InputError(f"{place}: unknown key {loc[-1]!r}{nearest(str(loc[-1]), owner.model_fields)}")
    if first["type"] == "missing":
        return InputError(f"{where}: missing key {key!r}")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = TYPES.get(first["type"], message)
    value = repr(list(first["input"]) if isinstance(first["input"], tuple) else first["input"])
    if len(value) > 60:
        value = value[:57] + "..."
    return InputError(f"{where}: {key} = {value}: not legal; legal: {message}")


def _model_at(model: type[BaseModel], loc: list[Any]) -> type[BaseModel]:
    """The model that a path of keys and indices leads to."""
    annotation: Any = model
    for part in loc:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = annotation.model_fields[part].annotation
        elif isinstance(part, int) or issubclass(getattr(annotation, "__origin__", object), Mapping):
            annotation = get_args(annotation)[-1 if not isinstance(part, int) else 0]
    return annotation
