"""From what a user, or adapters, call a model to its folder here; a hub model is fetched."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from ragkit.errors import ModelError
from ragkit.models.resolve import local_model, resolve_model

# weights of other libraries
_FOREIGN = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "onnx/*", "openvino/*", "*.gguf"]


def located(reference: str, revision: str | None = None) -> Path:
    """Return the folder or file that a reference means.

    revision: of a hub model
    Raises:
        ModelError: neither here nor on the hub.
    """
    local = local_model(reference)
    if local is not None or Path(reference).exists():
        return local or Path(reference)
    name = resolve_model(reference)
    if Path(name).exists():
        return Path(name)
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=_FOREIGN))
    except (OSError, ValueError, HFValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{reference}: no such folder, and not from the hub: {reason}") from error
