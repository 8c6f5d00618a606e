"""Which backend runs, how it is forced, and what is said when it cannot."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vim_train import ops
from vim_train.ops import backends, native

Forced = Callable[[str], None]


def _scan(backend: str | None = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    u, B = torch.randn(1, 33, 40, dtype=dtype), torch.randn(1, 33, 16, dtype=dtype)
    return ops.selective_scan(u, u, -torch.rand(40, 16), B, B, delta_softplus=True, backend=backend)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the native functions called."""
    names: list[str] = []
    call = native._call
    monkeypatch.setattr(native, "_call", lambda name, args: (names.append(name), call(name, args))[1])
    return names


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library, detail = native.load_library([str(tmp_path)])
    monkeypatch.setattr(native, "library", library)
    monkeypatch.setattr(native, "detail", detail)
    monkeypatch.setattr(backends, "_warned", set())


def test_the_library_is_built_where_a_compiler_is() -> None:
    if shutil.which("c++"):
        assert native.library is not None, native.detail


def test_the_cpu_backend_is_chosen_for_cpu_tensors(library: None, calls: list[str]) -> None:
    assert ops.active_backend("cpu") == "cpu"
    _scan()
    assert calls == ["vt_scan_forward"]


@pytest.mark.parametrize("how", ["argument", "environment", "set_backend"])
def test_the_reference_can_be_forced(
    library: None, calls: list[str], forced: Forced, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "environment":
        monkeypatch.setenv("VIM_TRAIN_SCAN", "reference")
    if how == "set_backend":
        forced("reference")
    assert ops.active_backend("cpu") == ("cpu" if how == "argument" else "reference")
    _scan("reference" if how == "argument" else None)
    assert calls == []


def test_the_argument_goes_before_set_backend_before_the_environment(
    library: None, calls: list[str], forced: Forced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIM_TRAIN_SCAN", "cuda")
    forced("reference")
    _scan()
    assert calls == []
    _scan("cpu")
    assert calls == ["vt_scan_forward"]
    forced("auto")
    with pytest.raises(RuntimeError, match="VIM_TRAIN_SCAN: the cuda scan backend is not available"):
        _scan()


def test_float64_goes_to_the_reference(library: None, calls: list[str]) -> None:
    assert _scan("cpu", torch.float64).dtype == torch.float64
    assert calls == []


def test_an_unknown_backend_is_named(forced: Forced, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "unknown scan backend 'gpu'; accepted are reference, cpu, cuda, auto"
    with pytest.raises(ValueError, match=f"set_backend: {message}"):
        forced("gpu")
    with pytest.raises(ValueError, match=f"backend=: {message}"):
        _scan("gpu")
    monkeypatch.setenv("VIM_TRAIN_SCAN", "gpu")
    with pytest.raises(ValueError, match=f"VIM_TRAIN_SCAN: {message}"):
        ops.active_backend("cpu")


def test_cuda_cannot_be_forced_where_there_is_none(forced: Forced) -> None:
    with pytest.raises(RuntimeError, match="the cuda scan backend is not available: "):
        forced("cuda")
    with pytest.raises(RuntimeError, match="the cuda scan backend is not available: "):
        _scan("cuda")


def test_the_cpu_backend_refuses_other_devices(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIM_TRAIN_SCAN", "cpu")
    with pytest.raises(RuntimeError, match="the cpu scan backend cannot work on cuda tensors"):
        ops.active_backend("cuda")


def test_cuda_tensors_run_the_reference_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_warned", set())
    with pytest.warns(RuntimeWarning, match="selective scan on cuda runs the slow PyTorch reference") as record:
        names = [backends.resolve(None, "cuda", torch.float32) for _ in range(2)]
    assert names == ["reference", "reference"]
    assert len(record) == 1


def test_without_a_library_the_reference_runs_and_says_why(no_library: None, forced: Forced) -> None:
    with pytest.warns(RuntimeWarning, match=r"native library was not built .*apt install g\+\+") as record:
        first = _scan()
    assert len(record) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        torch.testing.assert_close(_scan(), first, rtol=0, atol=0)
    assert ops.active_backend("cpu") == "reference"
    report = {info.name: info for info in ops.backend_report()}
    assert not report["cpu"].available
    assert "was not built" in report["cpu"].detail
    with pytest.raises(RuntimeError, match=r"set_backend: the cpu scan backend is not available: .*not built"):
        forced("cpu")


def test_a_broken_library_is_named(tmp_path: Path) -> None:
    path = tmp_path / native.LIBRARY_NAME
    path.write_bytes(b"no library")
    library, detail = native.load_library([str(tmp_path)])
    assert library is None
    assert f"{path} cannot be loaded" in detail
    assert "\n" not in detail


def test_a_library_of_another_abi_is_refused(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.abi, "ABI_VERSION", 0)
    loaded, detail = native.load_library(native.package_folders())
    assert loaded is None
    assert "has ABI version 1, not 0" in detail


def test_the_report_names_every_backend(library: None) -> None:
    report = {info.name: info for info in ops.backend_report()}
    assert list(report) == ["reference", "cpu", "cuda"]
    assert report["cpu"].detail.startswith("instruction set ")
    assert not report["cuda"].available


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_a_lower_instruction_set_can_be_forced(
    library: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, isa: str
) -> None:
    if isa not in {"avx512": ("baseline", "avx2"), "avx2": ("baseline",)}.get(native.detail, ()):
        pytest.skip(f"{native.detail} is the instruction set here")
    want = _scan("cpu")
    found = native.find_library(native.package_folders())
    assert found is not None
    shutil.copy(found, tmp_path)  # a second copy chooses anew when it is loaded
    monkeypatch.setenv("VIM_TRAIN_ISA", isa)
    other, detail = native.load_library([str(tmp_path)])
    assert detail == isa
    monkeypatch.setattr(native, "library", other)
    torch.testing.assert_close(_scan("cpu"), want, rtol=1e-5, atol=1e-5)
