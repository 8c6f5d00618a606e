"""Training Vision Mamba on images.

After `import vim_train`, `timm.create_model("vim_tiny_patch16_224")` works, whichever of the two was imported first.
Neither torch nor timm is imported here, so that command-line help answers at once.
"""

import sys

if "timm" in sys.modules:
    import vim_train.models  # noqa: F401
else:
    from vim_train import _timm_hook

    _timm_hook.install()


def __getattr__(name: str) -> str:
    if name == "__version__":  # on demand: importlib.metadata is slow to import
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("vim-train")
        except PackageNotFoundError:  # a source tree that was never installed
            return "0+unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
