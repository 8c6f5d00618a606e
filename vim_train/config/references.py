"""What `checkpoint` and `model.checkpoint` may name: a path, a file on the Hugging Face hub, or weights of timm's."""

import re
from dataclasses import dataclass
from pathlib import Path

from vim_train.config.errors import UserError

HUB, TIMM = "hf:", "timm:"
HUB_FORM = "hf:OWNER/NAME, and where needed @REVISION and :FILE after it"


@dataclass(frozen=True)
class HubFile:
    """A file of weights on the hub; `file` None: the repository has one."""

    repo: str
    file: str | None = None
    revision: str | None = None
    sha256: str | None = None
    """Expected; None: not known, whatever comes is taken and its sum is said."""


PUBLISHED = {
    "vim_tiny": HubFile("hustvl/Vim-tiny-midclstok", "vim_t_midclstok_76p1acc.pth"),
    "vim_tiny_stride8": HubFile("hustvl/Vim-tiny-midclstok", "vim_t_midclstok_ft_78p3acc.pth"),
    "vim_small": HubFile("hustvl/Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth"),
    "vim_small_stride8": HubFile("hustvl/Vim-small-midclstok", "vim_s_midclstok_ft_81p6acc.pth"),
    "vim_base": HubFile("hustvl/Vim-base-midclstok", "vim_b_midclstok_81p9acc.pth"),
}
"""The published weights by short names. Their sums are not known here: nobody has fetched them for this table yet."""

_HUB_REFERENCE = re.compile(r"(?P<repo>[\w-][\w.-]*(/[\w-][\w.-]*)?)(@(?P<revision>[\w./-]+))?(:(?P<file>[^:]+))?")


def is_remote(checkpoint: str) -> bool:
    """Whether it names something other than a path."""
    return checkpoint.startswith((HUB, TIMM))


def parse_hub(key: str, checkpoint: str) -> HubFile:
    """What `hf:...` names; `key` is the configuration's, for the message.

    Raises:
        UserError: not of the form, or a short name that is not known.
    """
    match = _HUB_REFERENCE.fullmatch(checkpoint.removeprefix(HUB))
    if match is None:
        raise UserError(f"{key}={checkpoint}: takes {HUB_FORM}")
    repo, revision, file = match["repo"], match["revision"], match["file"]
    if "/" in repo:
        return HubFile(repo, file, revision)
    if repo not in PUBLISHED or file is not None:
        raise UserError(f"{key}={checkpoint}: takes {HUB_FORM}, or hf: with one of {', '.join(PUBLISHED)}")
    known = PUBLISHED[repo]
    return HubFile(known.repo, known.file, revision, known.sha256 if revision is None else None)


def check_checkpoint(key: str, checkpoint: str) -> None:
    """Refuse what names no weights, as far as that can be told without reading or fetching any.

    Raises:
        UserError: no such path, or a name of another form.
    """
    if checkpoint.startswith(HUB):
        parse_hub(key, checkpoint)
    elif checkpoint.startswith(TIMM):
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)?", checkpoint.removeprefix(TIMM)):
            raise UserError(f"{key}={checkpoint}: takes timm:NAME or timm:NAME.TAG")
    elif not Path(checkpoint).exists():
        name = Path(checkpoint).name
        cure = f"; the published weights are {HUB}{name}" if name in PUBLISHED else ""
        raise UserError(f"{key}={checkpoint}: no such file or folder{cure}")
