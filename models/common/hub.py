"""The Hub: whether it can be asked now, and what is published there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from .errors import InputError, one_line
from .outputs import LOCK, MARKER
from .progress import part


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


def check_repository(repo: str, option: str) -> None:
    """Refuse what cannot be published to, before any work is done.

    Raises:
        InputError: `repo` is no name of a repository, the Hub does not answer, or nobody is logged in there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"{option}: give the name of a repository on the Hub, ORG/NAME.")
    try:
        HfApi().whoami()
    except LocalTokenNotFoundError as error:
        raise InputError(
            f"{option} {repo}: nobody is logged in to the Hub; `hf auth login` does it."
        ) from error
    except Exception as error:  # its type depends on the HTTP client
        raise InputError(f"{option} {repo}: {_refusal(error)}; nothing was done.") from error


def publish(
    folder: Path, repo: str, kind: Literal["model", "dataset"], option: str, private: bool | None = None
) -> str:
    """Put the files of a folder into a repository of the Hub, which is made if it is not there.

    Files of the same names are replaced, in one commit; others stay.

    Args:
        folder: what is published, without headscope's own marker.
        repo: ORG/NAME.
        kind: of the repository.
        option: what an error calls it.
        private: whether a new repository is; None: as the organisation has it.

    Returns:
        The address of the commit.

    Raises:
        InputError: the Hub does not take it; the folder is as it was.
    """
    from huggingface_hub import HfApi

    try:
        with part(f"published to {repo}"):
            api = HfApi()
            made = api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
            done = api.upload_folder(
                folder_path=folder,
                repo_id=made.repo_id,
                repo_type=kind,
                commit_message="headscope",
                ignore_patterns=[MARKER, LOCK, f"**/{MARKER}", f"**/{LOCK}"],
            )
    except Exception as error:
        raise InputError(
            f"{option} {repo}: {_refusal(error)}. What was to be published lies in {folder}; "
            f"`hf upload {repo} {folder} --repo-type {kind}` tries again."
        ) from error
    return str(done.commit_url)


def _refusal(error: Exception) -> str:
    """Say in a line why the Hub did not do something: of its server's answer the status and its words, no more."""
    answer = getattr(error, "response", None)
    if answer is None:
        return f"the Hub cannot be reached ({type(error).__name__})"
    said = getattr(error, "server_message", None) or ""
    why = {401: "it does not know the token", 403: "the token may not write there"}.get(
        answer.status_code, ""
    )
    return f"the Hub refuses it: {', '.join(filter(None, [str(answer.status_code), why, one_line(said)]))}"
