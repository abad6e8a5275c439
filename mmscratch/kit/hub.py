"""Published weights when the Hugging Face hub or its cache has them; otherwise None and one printed line."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

PATIENCE = 3.0  # seconds to find out whether the hub can be reached


def pretrained(
    name: str | Path,
    *,
    cls: str = "AutoModel",
    loader: Callable[[Path], Any] | None = None,
    files: Sequence[str] = ("config.json", "model.safetensors"),
    revision: str = "main",
    allow_missing: Sequence[str] = (),
) -> Any | None:
    """A model with its published weights, in float32 and eval mode, or None with one printed line.

    `name` is a model on the Hugging Face hub (its cache is looked at first) or a local folder in the hub's
    format. `cls` names the transformers class; `loader(folder)` replaces it for other libraries, whose
    `files` differ. Only safetensors are read. None means: no network, or the hub does not hand out this
    model. A checkpoint that is there and damaged raises, and so do weights the model needs and the
    checkpoint lacks (ValueError), except those whose names begin with one of `allow_missing`.
    """
    name = str(name)
    if os.path.sep in name and Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
    elif name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no folder {name}")
    else:
        folder, reason = _hub_folder(name, files, revision)
        if folder is None:
            print(f"{name}: {reason}, so no published weights this time.")
            return None
    if loader is not None:
        model = loader(folder)
    else:
        model = _from_folder(folder, cls, allow_missing)
    return model.float().eval()


def _from_folder(folder: Path, cls: str, allow_missing: Sequence[str]) -> nn.Module:
    from mmscratch.kit.reference import require

    transformers = require("transformers")
    logging = transformers.utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # missing weights are an error here, not a warning
    try:
        model, info = getattr(transformers, cls).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(tuple(allow_missing)))
    if missing:
        raise ValueError(
            f"the checkpoint in {folder} lacks {len(missing)} tensors of {cls}, first {missing[0]}"
        )
    return model


def _hub_folder(name: str, files: Sequence[str], revision: str) -> tuple[Path | None, str]:
    """The snapshot folder in the hub's cache, downloaded when possible; else None and the reason."""
    from mmscratch.kit.reference import require

    hub = require("huggingface_hub")

    def cached(file):
        found = hub.try_to_load_from_cache(
            name, file, revision=revision, cache_dir=hub.constants.HF_HUB_CACHE
        )
        return found if isinstance(found, str) else None

    found = [cached(file) for file in files]
    if all(found):
        return Path(found[0]).parent, ""
    if hub.constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "") not in ("", "0"):
        return None, "working offline"
    reason = _unreachable(hub.hf_hub_url(name, files[0], revision=revision))
    if reason:
        return None, reason
    if os.environ.get("MMSCRATCH_PROGRESS") == "off":
        hub.utils.disable_progress_bars()
    try:
        paths = [hub.hf_hub_download(name, file, revision=revision, etag_timeout=PATIENCE) for file in files]
    except Exception as error:  # whatever the network does, the lesson goes on
        return None, f"the download failed ({type(error).__name__})"
    return Path(paths[0]).parent, ""


def _unreachable(url: str) -> str:
    """Why `url` cannot be had, or "". Asked from a thread, since a name look-up heeds no timeout."""
    import urllib.error
    import urllib.request

    answer = ["the hub is out of reach"]

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
            answer[0] = ""
        except urllib.error.HTTPError as error:
            answer[0] = f"the hub refuses it (HTTP {error.code})"
        except Exception:  # no route, no name, sockets blocked: all the same to the reader
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answer[0]
