"""From YAML files, `--set` and options to one checked, typed configuration.

Later sources win: defaults < config files in order < `--set` and options. Every value remembers
where it was written, so that all problems are reported at once, each with its place:
`configs/x.yaml:12  retriever.temprature: unknown key (did you mean temperature?)`.
This module knows nothing of what the configurations mean.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import ErrorDetails

from ragkit.errors import ConfigError

Key = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


@dataclass
class Source:
    """A tree of plain values and where each of them was written.

    values: mappings, lists and scalars
    places: "file:line" or the option, for each path in the tree
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)

    def place(self, key: Key) -> str:
        """Return where `key`, or the nearest thing around it, was written."""
        for end in range(len(key), -1, -1):
            if key[:end] in self.places:
                return self.places[key[:end]]
        return ""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars: `3e-5` is a float, `no` and `12:30:00` are strings."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$"),
    list("-+.0123456789"),
)


def _plain_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)))


def _plain_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    return float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf"))


_Loader.add_constructor("tag:yaml.org,2002:int", _plain_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _plain_float)


def read_yaml(path: Path) -> Source:
    """Read a YAML mapping with the line of each key.

    Raises:
        ConfigError: no such file, bad YAML, duplicate keys, or no mapping.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8") from error


def parse_yaml(text: str, name: str) -> Source:
    """Parse a YAML mapping; `name` is the file's name in the places and errors."""
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {error}") from error
    try:
        node = loader.get_single_node()
        if node is None:
            return Source({}, {(): f"{name}:1"})
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{name}:{node.start_mark.line + 1}: a mapping of keys was expected")
        places: dict[Key, str] = {}
        problems: list[str] = []
        _record(node, (), name, places, problems)
        if problems:
            raise ConfigError(problems)
        return Source(loader.construct_document(node), places)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        raise ConfigError(f"{name}: not YAML that can be read: {error}") from error
    finally:
        loader.dispose()


def parse_set(assignment: str) -> Source:
    """Parse one `--set a.b=value`; the value is YAML, list items are named by number."""
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {assignment}: expected key.of.config=value")
    place = f"--set {assignment}"
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{place}: the value is not YAML") from error
    return _nested([int(k) if k.isdigit() else k for k in keys], value, place)


def option(key: str, value: object, name: str) -> Source:
    """Return the source that a command-line option makes; `name` is the option as typed."""
    return _nested(key.split("."), value, name)


def merge(sources: Iterable[Source]) -> Source:
    """Merge mappings key by key; later sources win, lists are replaced whole.

    A block whose `type` or `method` changes is replaced whole too: the keys of another type do not
    apply to it.
    """
    result = Source()
    for source in sources:
        result.values = _merged(result.values, source.values)
        result.places = {**result.places, **source.places}
    return result


def build(model: type[M], source: Source, context: Mapping[str, Any] | None = None) -> M:
    """Check the merged values against `model`.

    Raises:
        ConfigError: every problem at once, each with its place, key, value and what to do.
    """
    try:
        values = _with_default_types(model, source.values)
        return model.model_validate(values, context=dict(context or {}))
    except ValidationError as error:
        found: dict[str, list[str]] = {}  # a union of scalars has a problem for each member
        for detail in error.errors():
            where, what = _problem(model, source, detail)
            found.setdefault(where, []).append(what)
        lines = [where + " or ".join(dict.fromkeys(what)) for where, what in found.items()]
        raise ConfigError(lines) from error


def _with_default_types(model: type[BaseModel], values: Any) -> Any:
    """Name the type of a block that gives none, where its default has one: `retriever.model=x`.

    A field with a validator before all others sees to that itself.
    """
    if not isinstance(values, dict):
        return values
    filled = dict(values)
    for name, info in model.model_fields.items():
        given, members = filled.get(info.alias or name), _models(info.annotation)
        if not isinstance(given, dict) or not members:
            continue
        if len(members) > 1:
            names_itself = any(isinstance(m, BeforeValidator) for m in info.metadata)
            if info.discriminator is None or names_itself:
                continue
            tag = str(info.discriminator)
            if tag not in given and isinstance(info.default, BaseModel):
                given = {tag: getattr(info.default, tag), **given}
            members = [m for m in members if _has_tag(m, given.get(tag))]
        if members:
            filled[info.alias or name] = _with_default_types(members[0], given)
    return filled


def _nested(keys: Sequence[str | int], value: object, place: str) -> Source:
    tree: Any = value
    for key in reversed(keys):
        tree = {key: tree}
    return Source(tree, {tuple(keys[:end]): place for end in range(1, len(keys) + 1)})


def _record(
    node: yaml.Node, key: Key, name: str, places: dict[Key, str], problems: list[str]
) -> None:
    places.setdefault(key, f"{name}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _record(item, (*key, index), name, places, problems)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        text, line = str(key_node.value), key_node.start_mark.line + 1
        if text in lines and text != "<<":
            dotted = ".".join(map(str, (*key, text)))
            problems.append(f"{name}:{line}  {dotted}: given twice (first in line {lines[text]})")
        lines[text] = line
        places[(*key, text)] = f"{name}:{line}"
        _record(value_node, (*key, text), name, places, problems)


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, list) and isinstance(new, dict) and all(isinstance(k, int) for k in new):
        items = dict(enumerate(old))
        return [_merged(items.get(i), new.get(i, items.get(i))) for i in sorted({*items, *new})]
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    tag = next((t for t in ("type", "method") if t in old or t in new), "")  # `type` comes first
    if tag in new and tag in old and new[tag] != old[tag]:
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _problem(model: type[BaseModel], source: Source, detail: ErrorDetails) -> tuple[str, str]:
    """Return where a problem is, as the beginning of its line, and what it is."""
    key, block = _locate(model, source.values, detail["loc"])
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _where(source, key), f"unknown key{_did_you_mean(str(key[-1]), block)}"
    if kind == "missing":
        return _where(source, key), "missing; it has no default"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        where = _where(source, (*key, _context(detail, "discriminator").strip("'")))
        if kind == "union_tag_not_found":
            return where, "missing; which kind is it?"
        expected = [word.strip(" '") for word in _context(detail, "expected_tags").split(",")]
        tag = _context(detail, "tag")
        return where, f"{tag!r} is not one of {', '.join(expected)}{_closest(tag, expected)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if kind == "value_error":
        return _where(source, key), message
    return f"{_where(source, key)}{_short(detail['input'])}: should be ", message


def _where(source: Source, key: Key) -> str:
    place, dotted = source.place(key), ".".join(map(str, key))
    return f"{place}  {dotted}: ".lstrip() if dotted else f"{place}  ".lstrip()


def _context(detail: ErrorDetails, name: str) -> str:
    return str(detail.get("ctx", {}).get(name, ""))


def _locate(
    model: type[BaseModel], values: Any, location: Sequence[str | int]
) -> tuple[Key, type[BaseModel] | None]:
    """Translate pydantic's location to the YAML's keys; return the innermost block's model too.

    After a field whose type is a union of blocks (or a mapping of them, and the name in it),
    pydantic puts the chosen member's tag into the location, where the YAML has nothing; after a
    union of scalars, the name of the scalar's type.
    """
    key: list[str | int] = []
    members: list[type[BaseModel]] = [model]
    block: type[BaseModel] | None = model
    named = False  # the next part is a name in a mapping of blocks
    for part in location:
        if named:
            key.append(part)
            values, named = _child(values, part), False
            continue
        if isinstance(part, str) and len(members) > 1:
            members = [m for m in members if _has_tag(m, part)]
            block = members[0] if members else None
            continue
        known = members[0].model_fields if members else {}
        inside = isinstance(values, dict) or (isinstance(values, list) and isinstance(part, int))
        if not inside and part not in known and key:
            continue
        key.append(part)
        block = members[0] if members else None
        if isinstance(part, str):
            annotation = known[part].annotation if part in known else None
            members, named = _models(annotation), get_origin(annotation) is dict
        values = _child(values, part)
    return tuple(key), block


def _child(values: Any, part: str | int) -> Any:
    if isinstance(values, dict):
        return values.get(part)
    if isinstance(values, list) and isinstance(part, int) and part < len(values):
        return values[part]
    return None


def _has_tag(model: type[BaseModel], tag: object) -> bool:
    names = [name for name in ("type", "method") if name in model.model_fields]
    return any(tag in get_args(model.model_fields[name].annotation) for name in names)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is None:
        return []
    return [model for part in get_args(annotation) for model in _models(part)]


def _did_you_mean(name: str, block: type[BaseModel] | None) -> str:
    fields = block.model_fields if block else {}
    return _closest(name, [info.alias or key for key, info in fields.items()], or_list=True)


def _closest(name: str, options: Sequence[str], or_list: bool = False) -> str:
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (known are {', '.join(options)})" if or_list and options else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
