"""Where the shipped configuration lies, and what it offers."""

from pathlib import Path


def conf_dir() -> Path:
    """Folder of the shipped configuration: inside the installed package, or beside it in the source tree."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def options(group: str) -> list[str]:
    """Shipped options of a group, such as `recipe`."""
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def groups() -> list[str]:
    """Shipped groups."""
    return sorted(folder.name for folder in conf_dir().iterdir() if folder.is_dir() and options(folder.name))


def summary(group: str, option: str) -> str:
    """First sentence of the comment that opens an option's file, or nothing."""
    lines = (conf_dir() / group / f"{option}.yaml").read_text().splitlines()
    for line in lines:
        text = line.removeprefix("#").strip()
        if not line.startswith("#"):
            return ""
        if text and not text.startswith("@package"):
            return text
    return ""
