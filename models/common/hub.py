"""Whether the Hub can be asked now."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from .errors import InputError


def hub_answers(
    repo: str, kind: Literal["model", "dataset"], option: str, revision: str | None = None
) -> bool:
    """Ask the Hub, once and for seconds at most, for a repository; False if no answer comes or none is allowed.

    The libraries would try again for half a minute, or for minutes where a firewall drops packets.

    Raises:
        InputError: the Hub answers that it has no such repository or revision, or that access is not granted.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=5)
    except GatedRepoError as error:
        raise InputError(
            f"{option} {repo}: the Hub grants access to this {kind} on request only; ask for it on its page "
            "and log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{option} {repo} has no revision {revision!r} on the Hub.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"{option} {repo} is neither a folder on this machine nor a public {kind} on the Hub; "
            "check the name, or log in with `hf auth login` if it is private."
        ) from error
    except HfHubHTTPError:
        return True  # an answer, if a strange one: the library that asked for the files knows more
    except (
        Exception
    ):  # no connection; its type depends on the HTTP client and so on huggingface_hub's version
        return False
    return True


def stored_file(name: str, file: str, revision: str | None = None, **source: Any) -> Path | None:
    """Return where a file of a model lies on this machine, downloaded if need be; None if the model has none.

    Args:
        name: folder or Hub id.
        file: in it.
        revision: of a Hub model.
        source: ``local_files_only``, and what else says how the library reads the model.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    try:
        return Path(
            hf_hub_download(
                name, file, revision=revision, local_files_only=source.get("local_files_only", False)
            )
        )
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
