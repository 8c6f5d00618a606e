"""What lies there in part: downloads that have not finished, and links that lead nowhere."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from vim_train.config.errors import UserError
from vim_train.data.sources.folder import dead_link, entries
from vim_train.data.sources.listing import some

_UNFINISHED = re.compile(r"\.(?:part|partial|crdownload|download|filepart|tmp|aria2)$", re.IGNORECASE)
"""As wget, curl, browsers and file managers call what they have not finished; aria2's lies beside the file itself."""


def check_downloaded(folders: Iterable[Path], read: Callable[[str], bool]) -> None:
    """Files of which only a part is there would be left out without a word.

    Args:
        read: whether a file of this name would be read.

    Raises:
        UserError: such a name with the suffix of an unfinished download.
    """
    for folder in dict.fromkeys(folders):
        names = sorted(entry.name for entry in entries(folder))
        if found := [name for name in names if _UNFINISHED.search(name) and read(_UNFINISHED.sub("", name))]:
            what = "an unfinished download" if len(found) == 1 else f"{len(found)} unfinished downloads"
            rest = "it" if len(found) == 1 else "them"
            raise UserError(f"{folder} holds {what}: {some(found)}; finish {rest}, or move {rest} away")


def check_folders(paths: Iterable[Path]) -> None:
    """A split that is no folder would be taken as none. Raises UserError: one is a file or a dead link."""
    for path in paths:
        if os.path.lexists(path) and not path.is_dir():
            what = dead_link(path) if not path.exists() else "is a file, not a folder of images"
            raise UserError(f"{path} {what}; mend or remove it")
