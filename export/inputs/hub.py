"""Base models from the hub, at a commit that the bundle records."""

from __future__ import annotations

from pathlib import Path

from edgereason.errors import ExportError
from edgereason.text.tokenizer import TOKENIZER_FILES

# By their beginnings: some repositories have a second copy of the weights, as consolidated.safetensors or in a folder.
FILES = (
    "model*.safetensors",
    "gptq_model*.safetensors",
    "model.safetensors.index.json",
    "quantize_config.json",
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
)


def download(hub_id: str, revision: str | None = None) -> tuple[Path, str]:
    """Download a model into the hub's cache, resuming an interrupted download.

    Args:
        hub_id: Such as `Qwen/Qwen2.5-0.5B`.
        revision: A branch, tag or commit; the main branch when None.

    Returns:
        Its directory, and the commit.

    Raises:
        ExportError: there is no such model or revision, or no network and no copy in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    try:
        path = Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(FILES)))
    except HFValidationError as error:
        raise ExportError(f"{hub_id} is neither a directory nor a hub id.", "Check the path.") from error
    except RevisionNotFoundError as error:
        raise ExportError(f"{hub_id} has no revision {revision}.", "Give a branch, a tag or a commit.") from error
    except Exception as error:  # the hub's client lets many kinds of network error through
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(
            f"{hub_id} is not a directory here and could not be downloaded from the hub: {reason}",
            "Check the spelling, the network, and for a gated model `hf auth login`.",
        ) from error
    return path, path.name  # the cache has a directory for each commit
