"""Encoders on disk: which parts a folder or a hub model has, where they are and what they say.

Sentence-transformers folders with one chain of modules or with a Router (two towers), and plain
Hugging Face models. Weights are loaded by `ragkit.models.loading`; what the parts compute is
`ragkit.models.encoder`'s business.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ragkit.data.files import read_json, write_json
from ragkit.errors import ModelError
from ragkit.log import logger

Module = tuple[str, str]  # its class and its subfolder

# what broken or foreign files make libraries raise
DAMAGED = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)

_POOLINGS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_PASSAGE_NAMES = ("document", "passage", "corpus")  # sentence-transformers' own order
_ROUTERS = ("Router", "Asym")  # Asym: the Router's name before version 5
_TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json", "sentence_roberta_config.json",
    "sentence_distilbert_config.json", "sentence_camembert_config.json",
    "sentence_albert_config.json", "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What turns a transformer into an encoder; part of every saved model.

    include_prompt: whether the prefix's tokens are pooled (mean) or may be the first (cls)
    """

    pooling: str = "mean"
    normalize: bool = True
    query_prefix: str = ""
    passage_prefix: str = ""
    max_length: int = 512
    include_prompt: bool = True
    lower_case: bool = False


@dataclass(frozen=True, slots=True)
class TowerLayout:
    """One tower of a saved encoder.

    source: folder or hub name
    transformer, dense: subfolders of it
    said: what its files say of EncoderSettings; what they do not say, the architecture gives
    """

    source: str
    transformer: str = ""
    dense: tuple[str, ...] = ()
    said: Mapping[str, Any] = field(default_factory=dict)


def read_layout(source: str) -> list[TowerLayout]:
    """Return the tower of a folder or hub model, or two: the queries' and the passages'.

    Raises:
        ModelError: modules, poolings or an order of them that ragkit does not know.
    """
    listed = _read(source, "modules.json")
    if listed is None:
        return [TowerLayout(source)]
    chains: tuple[list[Module], list[Module]] = ([], [])
    for module in listed:
        kind, path = module["type"].rsplit(".", 1)[-1], module["path"]
        routes = _routes(source, path) if kind in _ROUTERS else ([(kind, path)], [(kind, path)])
        for chain, route in zip(chains, routes, strict=True):
            chain.extend(route)
    said = _prompts(source)
    towers = [_tower(source, chain, said) for chain in chains]
    return towers[:1] if chains[0] == chains[1] else towers


def model_file(source: str, name: str) -> Path | None:
    """Return a file of a local folder or of a hub model (fetched once, then cached), or None."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    from transformers.utils.hub import cached_file

    found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def write_layout(folder: Path, settings: EncoderSettings, towers: Sequence[list[Module]]) -> None:
    """Write the files that make one chain of modules, or two, a sentence-transformers folder.

    settings: those of the queries' tower, with the passages' prefix
    towers: the chain of the only tower, or the queries' and the passages'
    """
    chain = towers[0] if len(towers) == 1 else [("Router", "")]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": _full_name(kind)}
            for i, (kind, path) in enumerate(chain)
        ],
    )
    if len(towers) > 1:
        named = dict(zip(("query", "document"), towers, strict=True))
        write_json(
            folder / "router_config.json",
            {
                "types": {path: _full_name(kind) for chain in towers for kind, path in chain},
                "structure": {name: [path for _, path in chain] for name, chain in named.items()},
                "parameters": {"default_route": "document", "allow_empty_key": True},
            },
        )
    prompts = {"query": settings.query_prefix, "document": settings.passage_prefix}
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if settings.normalize else "dot",
        },
    )


def write_tower(folder: Path, settings: EncoderSettings, dimensions: int, route: str) -> None:
    """Write the configurations of a tower's transformer, pooling and normalisation.

    dimensions: those of the transformer's states
    route: "" for an only tower, else query or document
    """
    places = dict(tower_modules(settings, 0, route))
    write_json(
        folder / places["Transformer"] / "sentence_bert_config.json",
        {"max_seq_length": settings.max_length, "do_lower_case": settings.lower_case},
    )
    names = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
    flags = {f"pooling_mode_{n}": k == settings.pooling for k, n in names.items()}
    pooling = {"word_embedding_dimension": dimensions, **flags}
    if not settings.include_prompt:
        pooling["include_prompt"] = False
    write_json(folder / places["Pooling"] / "config.json", pooling)


def tower_modules(settings: EncoderSettings, n_dense: int, route: str) -> list[Module]:
    """Return the chain of modules that a tower is saved as, with their subfolders."""
    kinds = ["Transformer", "Pooling", *["Dense"] * n_dense]
    kinds += ["Normalize"] if settings.normalize else []
    if route:
        return [(kind, f"{route}_{i}_{kind}") for i, kind in enumerate(kinds)]
    return [(kind, f"{i}_{kind}" if i else "") for i, kind in enumerate(kinds)]


def _full_name(kind: str) -> str:
    return f"sentence_transformers.models.{kind}"  # of every version, old and new


def _read(source: str, name: str) -> Any:
    path = model_file(source, name)
    return None if path is None else read_json(path)


def _routes(source: str, path: str) -> tuple[list[Module], list[Module]]:
    """Return the modules that a Router sends queries and passages through."""
    prefix = f"{path}/" if path else ""
    config = _read(source, f"{prefix}router_config.json") or _read(source, f"{prefix}config.json")
    structure = (config or {}).get("structure", {})
    passages = next((name for name in _PASSAGE_NAMES if name in structure), None)
    if "query" not in structure or passages is None or config["parameters"].get("route_mappings"):
        raise ModelError(
            f"{source}: its Router has the routes {', '.join(structure) or 'none'}; ragkit knows "
            "query and document, without route_mappings"
        )
    kinds = {name: kind.rsplit(".", 1)[-1] for name, kind in config["types"].items()}
    query, passage = (
        [(kinds[name], f"{prefix}{name}") for name in structure[route]]
        for route in ("query", passages)
    )
    return query, passage


def _prompts(source: str) -> dict[str, str]:
    """Return the prefixes that a folder's prompts give to queries and passages."""
    prompts = (_read(source, "config_sentence_transformers.json") or {}).get("prompts") or {}
    passage = next((prompts[name] for name in _PASSAGE_NAMES if prompts.get(name)), "")
    found = {"query_prefix": prompts.get("query") or "", "passage_prefix": passage}
    if not any(found.values()) and (others := [name for name, text in prompts.items() if text]):
        logger.warning(
            "%s has prompts named %s, none of them query or passage: none is used; set "
            "encoder.query_prefix",
            source, ", ".join(others),
        )  # fmt: skip
    return found


def _tower(source: str, chain: Sequence[Module], prompts: Mapping[str, str]) -> TowerLayout:
    kinds = [kind for kind, _ in chain]
    if unknown := set(kinds) - {"Transformer", "Pooling", "Dense", "Normalize"}:
        raise ModelError(
            f"{source}: modules.json has {', '.join(sorted(unknown))}, unknown to ragkit"
        )
    n_dense = kinds.count("Dense")
    normalize = kinds[-1:] == ["Normalize"]
    if kinds != ["Transformer", "Pooling", *["Dense"] * n_dense, *["Normalize"] * normalize]:
        raise ModelError(
            f"{source}: its modules are {', '.join(kinds)}; ragkit knows Transformer, Pooling, "
            "then any Dense, then Normalize or not"
        )
    transformer, pooling_path = chain[0][1], chain[1][1]
    said = _transformer_settings(source, transformer)
    pooling = _read(source, f"{pooling_path}/config.json")
    if pooling is None:
        raise ModelError(
            f"{source}: modules.json names a pooling without {pooling_path}/config.json"
        )
    said |= {
        **prompts,
        "pooling": _pooling(source, pooling),
        "normalize": normalize,
        "include_prompt": bool(pooling.get("include_prompt", True)),
    }
    dense = tuple(path for kind, path in chain if kind == "Dense")
    return TowerLayout(source, transformer, dense, said)


def _transformer_settings(source: str, path: str) -> dict[str, Any]:
    prefix = f"{path}/" if path else ""
    found = (_read(source, f"{prefix}{name}") for name in _TRANSFORMER_CONFIGS)
    config: dict[str, Any] = next((c for c in found if c), {})
    task = config.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ModelError(f"{source}: its transformer is for {task}, not for vectors")
    said: dict[str, Any] = {"lower_case": bool(config.get("do_lower_case"))}
    if config.get("max_seq_length"):
        said["max_length"] = int(config["max_seq_length"])
    return said


def _pooling(source: str, config: Mapping[str, Any]) -> str:
    """Return mean, cls or last from a Pooling module's config, of old or new form."""
    mode = config.get("pooling_mode")
    if mode is None:
        flags = [k for k, v in config.items() if k.startswith("pooling_mode_") and v is True]
        modes = [f.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
                 for f in flags]  # fmt: skip
        mode = modes[0] if len(modes) == 1 else ",".join(modes)
    if isinstance(mode, list) and len(mode) == 1:
        mode = mode[0]
    if not isinstance(mode, str) or mode not in _POOLINGS:
        raise ModelError(f"{source}: pooling {json.dumps(mode)} is unknown to ragkit")
    return _POOLINGS[mode]
