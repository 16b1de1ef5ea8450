"""Fetch a model from the Hugging Face hub: the one place in this room that may use the network."""

from __future__ import annotations

from pathlib import Path

from fedmed.errors import FedMedError, HubError, ModelNotFoundError
from fedmed.utils.extras import require
from fedmed.utils.logger import get_logger

log = get_logger(__name__)

# No pickled weights, no code.
_WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
_UNWANTED = ["original/*", "onnx/*", "consolidated*.safetensors"]  # the same weights in other formats


def hub_folder(name: str) -> Path:
    """The folder of a hub model, downloaded if the hub's cache lacks it; without network the cached one.

    Args:
        name: "owner/model" or "model".

    Raises:
        ModelNotFoundError: the hub has no such model. HubError: it cannot be reached, or asks for a login.
    """
    hub = require("huggingface_hub", "train")
    errors = require("huggingface_hub.errors", "train")
    log.info("looking for %s on the hub", name)
    try:
        return Path(hub.snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except (OSError, ValueError, errors.HTTPError) as error:
        raise _explain(name, error) from error


def _explain(name: str, error: Exception) -> FedMedError:
    errors = require("huggingface_hub.errors", "train")
    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"the hub asks for a login to give '{name}'", "accept its terms there, then run 'hf auth login'"
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return ModelNotFoundError(
            f"there is no model '{name}', neither as a folder here nor on the hub", "check model.name"
        )
    text = str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    return HubError(
        f"the hub did not give '{name}' ({reason})", "check the network, or use a local folder or builtin:gemma-3-270m"
    )
