"""Fetch a dataset from the Hugging Face hub: the only place of this room that uses the network.

The hub's address is ``HF_ENDPOINT`` where that is set; ``HF_TOKEN`` opens gated datasets.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedmed.data.read_files import Located
from fedmed.errors import HubError
from fedmed.utils.extras import require

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS = 1000
_PATIENCE = 20.0  # seconds for the hub's first reply
_UNREACHABLE = "go online, or use --set training.dataset.name=hpo or a file"


def fetch(name: str, hub_split: str) -> Dataset:
    """Download one split of ``org/name``, or of ``org/name:configuration`` where a dataset has several.

    Raises:
        HubError: no network, no such dataset, gated, no such split or configuration, or files it cannot read.
    """
    datasets = require("datasets", "train")
    hub_errors = require("huggingface_hub.errors", "train")
    builder_errors = require("datasets.exceptions", "train")
    constants = require("huggingface_hub.constants", "train")
    repo, _, configuration = name.partition(":")
    if not constants.HF_HUB_OFFLINE and not _answers(constants.ENDPOINT):
        raise HubError(f"the hub at {constants.ENDPOINT} cannot be reached for '{name}'", _UNREACHABLE)
    try:
        dataset: Dataset = datasets.load_dataset(repo, configuration or None, split=hub_split)
    except (
        hub_errors.GatedRepoError,
        hub_errors.RepositoryNotFoundError,
        builder_errors.DatasetNotFoundError,
    ) as error:
        if "gated" in str(error).lower():
            raise HubError(
                f"the dataset '{name}' is gated", "accept its terms on the hub and set HF_TOKEN to your token"
            ) from error
        raise HubError(
            f"the hub has no dataset '{repo}', or it is private", "check the id, and set HF_TOKEN for a private one"
        ) from error
    except (hub_errors.OfflineModeIsEnabled, ConnectionError) as error:
        raise HubError(f"the hub cannot be reached for '{name}'", _UNREACHABLE) from error
    except (hub_errors.HfHubHTTPError, builder_errors.DatasetsError, ValueError, OSError) as error:
        raise HubError(
            f"the dataset '{name}' cannot be loaded ({_first_line(error)})",
            "check hub_split; write org/name:configuration where it has several",
        ) from error
    return dataset


def rows(dataset: Dataset) -> Iterator[Located]:
    """Every row as a plain record, some at a time, so that a large dataset is not copied at once."""
    for start in range(0, len(dataset), _ROWS):
        batch = dataset[start : start + _ROWS]
        names = list(batch)
        for offset, values in enumerate(zip(*batch.values(), strict=True)):
            yield Located(start + offset + 1, dict(zip(names, values, strict=True)))


def _answers(endpoint: str) -> bool:
    """Whether anything answers there; asked first, because ``load_dataset`` retries a dead network for half a minute.

    A refused certificate is no dead network: the hub's own client may know other authorities, so it gets its try.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_PATIENCE):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False


def _first_line(error: BaseException) -> str:
    """The first line of a foreign message, without a full stop; such messages name files and settings, not records."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
