"""Configurations told to people: option tables and commented starter files, from the models."""

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@dataclass(frozen=True)
class Option:
    """One key of a configuration.

    key: dotted; "of" names the variant of a block that has it, as in `retriever (dense)`
    """

    key: str
    of: str
    type: str
    default: str
    description: str


def options(
    model: type[BaseModel], prefix: str = "", of: str = "", chosen: BaseModel | None = None
) -> Iterator[Option]:
    """Yield every key of a configuration, blocks unfolded, and variants the first time.

    chosen: a block with the defaults of its place, where they are not those of its class
    """
    told: dict[str, set[type[BaseModel]]] = {}
    for name, info in model.model_fields.items():
        key, blocks = f"{prefix}{name}", _blocks(info.annotation)
        value = getattr(chosen, name) if chosen else _plain_default(info)
        if name in ("type", "method") and prefix and len(get_args(info.annotation)) == 1:
            continue  # the name of the variant, told with its keys
        if not blocks or _is_collection(info.annotation):
            yield Option(
                key, of, _type_name(info.annotation), _default(value), info.description or ""
            )
        elif len(blocks) == 1:
            if value is None:
                yield Option(key, of, blocks[0].__name__, "unset", info.description or "")
            default = value if isinstance(value, blocks[0]) else None
            yield from options(blocks[0], f"{key}.", of, default)
        else:
            names, default_tag = [_tag(block) for block in blocks], _default_tag(value)
            earlier = next((k for k, known in told.items() if known.issuperset(blocks)), None)
            same = f"; the keys of each are those of `{earlier}`" if earlier else ""
            described = (info.description or "") + same
            yield Option(f"{key}.type", of, " | ".join(names), default_tag, described)
            told[key] = set(blocks)
            for block, tag in zip(blocks, names, strict=True):
                if not earlier:
                    yield from options(block, f"{key}.", tag)


def option_table(model: type[BaseModel]) -> str:
    """Return the options of a configuration as a Markdown table."""
    rows = ["| key | type | default | what it does |", "|---|---|---|---|"]
    for option in options(model):
        key = f"`{option.key}`" + (f" ({option.of})" if option.of else "")
        kind, described = (t.replace("|", "\\|") for t in (option.type, option.description))
        rows.append(f"| {key} | {kind} | {option.default} | {described} |")
    return "\n".join(rows) + "\n"


def starter(model: type[BaseModel], command: str) -> str:
    """Return a YAML file with every key of a command, its default and what it does."""
    lines = [f"# ragkit {command}: every key with its default. What you do not change can go."]
    lines += _starter_lines(model, 0)
    return "\n".join(lines) + "\n"


def _starter_lines(model: type[BaseModel], depth: int, chosen: Any = None) -> Iterator[str]:
    indent = "  " * depth
    for name, info in model.model_fields.items():
        default = getattr(chosen, name) if chosen is not None else _plain_default(info)
        note = f"  # {info.description}" if info.description else ""
        blocks = [] if _is_collection(info.annotation) else _blocks(info.annotation)
        if len(blocks) > 1:
            note += f" (types: {', '.join(_tag(b) for b in blocks)})"
        if isinstance(default, BaseModel):
            yield f"{indent}{name}:{note}"
            yield from _starter_lines(type(default), depth + 1, default)
        elif default is PydanticUndefined:
            yield f"{indent}{name}: {_placeholder(info)}{note or '  #'} (required)"
        else:
            text = json.dumps(str(default) if isinstance(default, Path) else default)
            yield f"{indent}{name}: {text}{note}"


def _placeholder(info: FieldInfo) -> str:
    return "[]" if get_origin(info.annotation) is list else '""'


def _plain_default(info: FieldInfo) -> Any:
    return info.default_factory() if info.default_factory else info.default  # type: ignore[call-arg]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    return "unset" if value is None else f"`{json.dumps(value, default=str)}`"


def _default_tag(value: Any) -> str:
    if value is None:
        return "unset"
    return "required" if value is PydanticUndefined else f"`{_tag(type(value))}`"


def _tag(block: type[BaseModel]) -> str:
    for name in ("type", "method"):
        if name in block.model_fields:
            return str(get_args(block.model_fields[name].annotation)[0])
    return block.__name__


def _is_collection(annotation: Any) -> bool:
    return get_origin(annotation) in (list, dict)


def _blocks(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [b for part in get_args(annotation) if part is not None for b in _blocks(part)]


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " | ".join(str(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(_type_name(a) for a in arguments if a is not types.NoneType)
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"mapping of names to {_type_name(arguments[1])}"
    names = {
        Any: "anything",
        str: "text",
        int: "integer",
        float: "number",
        bool: "true | false",
        Path: "path",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
