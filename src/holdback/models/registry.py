"""From a checkpoint in a plan to a model that answers, and to the digest that names it."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from holdback.errors import CheckpointError, ConfigError, UnknownNameError
from holdback.extensions import (
    MODELS,
    digest_source,
    find_extension,
    is_in_file,
    list_extensions,
    offered,
)
from holdback.ids import (
    BEGINNINGS,
    FILE,
    FOLDER,
    HUB,
    OPENAI,
    SHIPPED,
    UCI,
    VLLM,
    ModelId,
    parse_id,
)
from holdback.lineage import Checkpoint
from holdback.models.files import (
    check_files,
    digest_checkpoint,
    find_repo,
    find_repos,
    has_chat_template,
    remark_files,
)
from holdback.models.hub import OFFLINE, check_repo, pin_repo
from holdback.models.loading import check_weights, find_device, load_tokenizer, remark_tokenizer
from holdback.models.protocol import LoaderOffers, Model
from holdback.models.templates import remark_template
from holdback.plan import AccessName

_LOOPBACK = re.compile(r"localhost|127(\.[0-9]+){3}|::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Provider:
    """Who loads checkpoints of one scheme, and what may be touched of them."""

    scheme: str
    load: Callable[[], Callable[[Checkpoint], Model]]
    """Imports the loader, which may need an extra."""
    access: AccessName
    takes: frozenset[str]
    """Fields of a checkpoint that mean something to it."""
    is_endpoint: bool = False


_TAKES = {
    "openai": frozenset({"base_url"}),
    "openai-api": frozenset({"base_url"}),
    "uci": frozenset[str](),
    "vllm": frozenset({"revision", "adapter", "dtype"}),
}
_OPTIONAL = ("adapter", "revision", "dtype", "device", "base_url")


def load_checkpoint(checkpoint: Checkpoint) -> Model:
    """Load a checkpoint under its ordinary protocol.

    Folders, `builtin:` and `hf/` are local weights. `openai/`, `openai-api/`, `vllm/` and `uci/`
    are loaded by modules of their own, and a reference such as `mine:<model>` by the entry point
    `mine` of the group `holdback.models`; each is called with the checkpoint.

    Raises:
        CheckpointError: if its files are missing or unsafe.
        UnknownNameError: for an id that nothing answers to.
    """
    provider = _find_provider(checkpoint)
    if provider is not None:
        return provider.load()(checkpoint)
    from holdback.models.local import load_model

    # The protocol's fields are variables; this model's are frozen, and nobody sets them.
    return load_model(checkpoint)


def load_prompter(checkpoint: Checkpoint) -> Model:
    """Load what renders and tokenises prompts as a checkpoint does, without its weights.

    Raises:
        CheckpointError: if files are missing or unsafe.
        UnknownNameError: for an id that nothing answers to.
    """
    provider = _find_provider(checkpoint)
    if provider is not None:
        return provider.load()(checkpoint)
    from holdback.models.local import LocalModel
    from holdback.models.protocol import Format, Presentation

    nothing: Any = None
    return LocalModel(
        name=checkpoint.name,
        weights=nothing,
        tokenizer=load_tokenizer(checkpoint),
        presentation=Presentation(format=Format.CHAT if checkpoint.chat else Format.COMPLETION),
    )


def pin_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Replace branches of repositories by the commits that they stand at; the rest is unchanged.

    Raises:
        CheckpointError: if the hub, or offline its cache, does not know them.
    """
    local = _refer_locally(checkpoint)
    if local is None:
        return checkpoint
    if local != checkpoint:
        pinned_weights = pin_checkpoint(local)
        model = f"{VLLM}/{pinned_weights.model.removeprefix(f'{HUB}/')}"
        return replace(pinned_weights, model=model)
    changes: dict[str, str | None] = {}
    if (repo := find_repo(checkpoint.model, revision=checkpoint.revision)) is not None:
        pinned = pin_repo(repo)
        changes = {"model": f"{HUB}/{pinned.name}", "revision": pinned.revision}
    if checkpoint.adapter and (repo := find_repo(checkpoint.adapter)) is not None:
        changes["adapter"] = f"{HUB}/{pin_repo(repo)}"
    return replace(checkpoint, **changes)  # type: ignore[arg-type]


def identify_checkpoint(checkpoint: Checkpoint) -> str:
    """Digest of what a checkpoint is: its files or commit, or a remote model's immutable id.

    Raises:
        CheckpointError: if its files are missing or unsafe, or its device is not here.
        UnknownNameError: for an id that nothing answers to.
        ConfigError: for a field that means nothing to its kind of model.
    """
    provider = _find_provider(checkpoint)
    if provider is None:
        # What is missing is found before hours of other checkpoints' runs, not after.
        _check_local(checkpoint)
        return digest_checkpoint(checkpoint)
    _check_fields(checkpoint, provider)
    identity = asdict(checkpoint)
    # Its name and place in the lineage are the plan's, not the model's.
    for name in ("name", "parent", "stage", "truth"):
        del identity[name]
    for name in ("dtype", "device", "base_url"):
        if identity[name] is None:
            del identity[name]
    if provider.is_endpoint:
        identity["base_url"] = find_base_url(checkpoint)
        _check_reachable(checkpoint, identity["base_url"])
    load = provider.load()
    identity["code"] = digest_source(load)
    identify = offered(LoaderOffers, load, "identify")
    if identify is not None:
        # What only its loader knows, such as the digest of an engine's binary: it says what the
        # model is, wherever that lies.
        identity["loader"] = identify(checkpoint)
    if identify is not None or is_in_file(checkpoint.model):
        # A file's contents are in `code`.
        identity["model"] = _forget_folders(checkpoint.model)
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def try_checkpoint(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Refuse weights that are not what they seem, or cannot be asked, before anything runs.

    Returns:
        What may be meant otherwise, though it can run.

    Raises:
        CheckpointError: for tensors that are missing or left over, or for a checkpoint that is to
            be asked in chat and has no chat template.
    """
    provider = _find_provider(checkpoint)
    if provider is not None and provider.scheme == "live":
        from holdback.models.live import take_tokenizer

        return remark_template(checkpoint, take_tokenizer(checkpoint))
    local = _refer_locally(checkpoint)
    if local is None:
        return ()
    remarks = (*remark_files(local), *remark_tokenizer(local))
    if not any(find_repos(local).values()):
        # Those of a repository are looked at once they are here.
        remarks += check_weights(local)
    if local.chat and not has_chat_template(local):
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} has no chat template; write chat = false to ask it in"
            " completion format, or add a template to its tokenizer_config.json"
        )
    return (*remarks, *remark_template(local, load_tokenizer(local)))


def fetch_checkpoint(checkpoint: Checkpoint) -> None:
    """Have the files of local weights on this machine, all of them, before anything runs.

    Raises:
        CheckpointError: if they cannot be fetched, are unsafe, or are not those of their
            configuration.
    """
    local = _refer_locally(checkpoint)
    if local is not None:
        check_files(local)
        check_weights(local)


def _refer_locally(checkpoint: Checkpoint) -> Checkpoint | None:
    """Name the files that a checkpoint's weights are read from; None where there are none."""
    provider = _find_provider(checkpoint)
    if provider is None:
        return checkpoint
    if provider.scheme != VLLM:
        return None
    from holdback.models.vllm import refer_locally

    return refer_locally(checkpoint)


def find_access(checkpoint: Checkpoint) -> AccessName:
    """Say what may be touched of a checkpoint: the most that a technique may need.

    A chat endpoint and an engine give samples, a completions endpoint and vLLM log-probabilities
    too, local weights everything. A third party's loader may say so in an attribute `access`, a
    name or a function of the checkpoint.
    """
    provider = _find_provider(checkpoint)
    return "weights" if provider is None else provider.access


def is_local(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint is transformers weights that are loaded here."""
    return _find_provider(checkpoint) is None


def is_endpoint(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint is behind an OpenAI-compatible server, which may have its price."""
    return parse_id(checkpoint.model).is_endpoint


def reads_text(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint is asked in words: an engine is given positions."""
    return parse_id(checkpoint.model).scheme != UCI


def find_base_url(checkpoint: Checkpoint) -> str:
    """Where an endpoint's requests go: the checkpoint's own address, its environment's, or OpenAI.

    `openai/…` reads OPENAI_BASE_URL, and `openai-api/<service>/…` <SERVICE>_BASE_URL.

    Raises:
        ConfigError: for a service that no address is known of.
    """
    parsed = parse_id(checkpoint.model)
    variable = f"{name_variables(parsed)}_BASE_URL"
    default = "https://api.openai.com/v1" if parsed.scheme == OPENAI else None
    address = checkpoint.base_url or os.environ.get(variable) or default
    if address is None:
        raise ConfigError(
            f"checkpoint {checkpoint.name!r}: no address is known for {checkpoint.model!r}; give"
            f" `base_url` in the audit file, or set {variable}"
        )
    return address


def name_variables(endpoint: ModelId) -> str:
    """How the environment variables of an endpoint's service begin: `OPENAI`, `TOGETHER_AI`."""
    return re.sub(r"[^A-Z0-9]", "_", endpoint.service.upper())


def _find_provider(checkpoint: Checkpoint) -> _Provider | None:
    """Find who loads a checkpoint; None for local weights.

    Raises:
        UnknownNameError: for a scheme that nothing provides.
    """
    parsed = _parse(checkpoint)
    if parsed.scheme == FOLDER:
        _check_folder(checkpoint, parsed)
    if parsed.scheme in (FOLDER, HUB, SHIPPED):
        return None
    if parsed.scheme in _TAKES:
        return _builtin_provider(checkpoint, parsed)
    if parsed.scheme == FILE:
        return _foreign_provider(checkpoint, parsed.code)
    offered = list_extensions(MODELS)
    if parsed.scheme not in offered:
        kind = f"model scheme (of checkpoint {checkpoint.name!r})"
        raise UnknownNameError.among(kind, parsed.scheme, {*offered, SHIPPED, HUB})
    return _foreign_provider(checkpoint, parsed.scheme)


def _parse(checkpoint: Checkpoint) -> ModelId:
    try:
        return parse_id(checkpoint.model)
    except ConfigError as error:
        raise ConfigError(f"checkpoint {checkpoint.name!r}: {error}") from error


def _foreign_provider(checkpoint: Checkpoint, name: str) -> _Provider:
    """Describe a loader that somebody else wrote: an entry point, or `file.py:Name`."""
    load = find_extension(MODELS, name, kind="model backend")
    # What it does not claim is not touched.
    access: Any = offered(LoaderOffers, load, "access")
    access = access(checkpoint) if callable(access) else access
    if access not in get_args(AccessName):
        raise UnknownNameError.among(f"access (of scheme {name!r})", access, get_args(AccessName))
    return _Provider(
        scheme=name,
        load=lambda: load,
        access=access,
        takes=frozenset(_OPTIONAL),
    )


def _builtin_provider(checkpoint: Checkpoint, parsed: ModelId) -> _Provider:
    scheme, endpoint = parsed.scheme, parsed.is_endpoint
    gives_logprobs = scheme == VLLM or (endpoint and not checkpoint.chat)
    return _Provider(
        scheme=scheme,
        load=partial(_import_loader, scheme),
        access="logprobs" if gives_logprobs else "samples",
        takes=_TAKES[scheme],
        is_endpoint=endpoint,
    )


def _import_loader(scheme: str) -> Callable[[Checkpoint], Model]:
    loader: Callable[[Checkpoint], Model] = find_extension(MODELS, scheme, kind="model backend")
    return loader


def _forget_folders(model: str) -> str:
    """Leave of each path in an id its last part."""
    return re.sub(r"(?<![^/\s])/?[^\s?]*/(?=[^/\s?]+)", "", model)


def _check_folder(checkpoint: Checkpoint, parsed: ModelId) -> None:
    """Refuse a folder that is not there, with the id that may have been meant."""
    model = checkpoint.model
    # What was written as hf/<path> is looked for where its files are read.
    if model != parsed.name or Path(model).expanduser().is_dir():
        return
    # An audit file's paths are absolute by now; a scheme is one of the last parts.
    near = [
        close
        for part in Path(model).parts[-4:-1]
        for close in difflib.get_close_matches(f"{part}/", BEGINNINGS, n=1, cutoff=0.75)
    ]
    hint = f" Did you mean {near[0]}…?" if near else ""
    raise CheckpointError(
        f"checkpoint {checkpoint.name!r}: expected a model id or a folder in Hugging Face format,"
        f" found neither at {model}.{hint} Ids begin with {', '.join(BEGINNINGS)}"
    )


def _check_local(checkpoint: Checkpoint) -> None:
    if checkpoint.base_url is not None:
        raise _refuse_field(checkpoint, "base_url", "it is loaded here")
    repos = find_repos(checkpoint)
    if repos[checkpoint.model] is None and checkpoint.revision is not None:
        raise _refuse_field(checkpoint, "revision", "a folder's identity is its files")
    for repo in filter(None, repos.values()):
        check_repo(repo)
    check_files(checkpoint, weights=False)
    if checkpoint.device not in (None, "auto", "cpu"):
        find_device(str(checkpoint.device), checkpoint.name)


def _check_fields(checkpoint: Checkpoint, provider: _Provider) -> None:
    for field in _OPTIONAL:
        if getattr(checkpoint, field) is not None and field not in provider.takes:
            raise _refuse_field(checkpoint, field, f"{provider.scheme}/ takes none")


def _refuse_field(checkpoint: Checkpoint, field: str, why: str) -> ConfigError:
    return ConfigError(
        f"checkpoint {checkpoint.name!r}: expected no `{field}` with {checkpoint.model!r}, got"
        f" {getattr(checkpoint, field)!r}: {why}; leave it out"
    )


def _check_reachable(checkpoint: Checkpoint, address: str) -> None:
    host = urlsplit(address).hostname or ""
    if os.environ.get(OFFLINE) and not _LOOPBACK.fullmatch(host):
        raise ConfigError(
            f"checkpoint {checkpoint.name!r}: --offline touches no network, and {address} is not on"
            " this machine; leave --offline out, or serve the model here"
        )
