"""Which backend runs, how it is forced, and what is said when it cannot."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vim_train import ops
from vim_train.ops import backends, checks, loading, native

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
    monkeypatch.setattr(native, "_call", lambda _, name, *args: (names.append(name), call(_, name, *args))[1])
    return names


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(native.libraries, "cpu", loading.load("cpu", [str(tmp_path)]))
    monkeypatch.setattr(backends, "_warned", set())


def test_the_library_is_built_where_a_compiler_is() -> None:
    if shutil.which("c++"):
        assert native.libraries["cpu"].loaded, native.libraries["cpu"].detail


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
    with pytest.raises(RuntimeError, match="cuda scan backend"):
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


def test_cuda_cannot_be_forced_where_there_is_none(
    forced: Forced, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(native.libraries, "cuda", loading.load("cuda", [str(tmp_path)]))
    with pytest.raises(RuntimeError, match="the cuda scan backend is not available: "):
        forced("cuda")
    with pytest.raises(RuntimeError, match="the cuda scan backend is not available: "):
        _scan("cuda")


def test_the_cpu_backend_refuses_other_devices(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIM_TRAIN_SCAN", "cpu")
    with pytest.raises(RuntimeError, match="the cpu scan backend cannot work on cuda tensors"):
        ops.active_backend("cuda")


def test_cuda_tensors_without_a_library_run_the_reference_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(native.libraries, "cuda", loading.load("cuda", [str(tmp_path)]))
    monkeypatch.setattr(backends, "_warned", set())
    with pytest.warns(RuntimeWarning, match="selective scan on cuda runs the slow PyTorch reference") as record:
        names = [backends.resolve(None, "cuda", torch.float32) for _ in range(2)]
    assert names == ["reference", "reference"]
    assert len(record) == 1


def test_without_a_library_the_reference_runs_and_says_why(no_library: None, forced: Forced) -> None:
    with pytest.warns(RuntimeWarning, match=r"native cpu library was not built .*apt install g\+\+") as record:
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
    path = tmp_path / f"vim_train_cpu.{loading.SUFFIX}"
    path.write_bytes(b"no library")
    library = loading.load("cpu", [str(tmp_path)])
    assert not library.loaded
    assert f"{path} cannot be loaded" in library.detail
    assert "\n" not in library.detail


@pytest.mark.parametrize("missing", [1, 700, 100_000])
def test_a_library_cut_short_is_named_and_not_loaded(library: None, tmp_path: Path, missing: int) -> None:
    """Loading one can end in SIGBUS."""
    found = loading.find("cpu", loading.package_folders())
    assert found is not None
    path = tmp_path / found.name
    path.write_bytes(found.read_bytes()[:-missing])
    assert loading.load("cpu", [str(tmp_path)]).detail.startswith(f"{path} is damaged, its end is missing: run `pip")


def test_another_library_in_its_place_is_refused(library: None, tmp_path: Path) -> None:
    found = loading.find("cpu", loading.package_folders())
    assert found is not None
    path = tmp_path / f"vim_train_cuda.{loading.SUFFIX}"
    shutil.copy(found, path)
    assert loading.load("cuda", [str(tmp_path)]).detail.startswith(f"{path} is not the cuda library: run `pip")


def test_a_library_that_was_built_and_is_gone_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / loading.RECORD).write_text("cpu: built by c++\ncuda: built by nvcc 13.0.88\n")
    detail = loading.load("cuda", [str(tmp_path)]).detail
    assert detail.startswith(f"the native cuda library was built by nvcc 13.0.88, but is not in {tmp_path}: run `pip")


def test_a_library_that_was_not_built_is_missing_for_the_reason_recorded_then(tmp_path: Path) -> None:
    (tmp_path / loading.RECORD).write_text("cpu: built by c++\ncuda: not built: VIM_TRAIN_CUDA=off\n")
    assert loading.load("cuda", [str(tmp_path)]).detail == "the native cuda library was not built: VIM_TRAIN_CUDA=off"


def test_a_library_of_another_abi_is_refused(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.abi, "ABI_VERSION", 0)
    other = loading.load("cpu", loading.package_folders())
    assert not other.loaded
    assert "has ABI version 2, not 0" in other.detail


def test_the_report_names_every_backend(library: None) -> None:
    report = {info.name: info for info in ops.backend_report()}
    assert list(report) == ["reference", "cpu", "cuda"]
    assert report["cpu"].detail.startswith("instruction set ")
    assert report["cuda"].available == (native.libraries["cuda"].loaded and torch.cuda.is_available())


def test_a_cuda_library_without_a_gpu_is_not_available_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    built = loading.NativeLibrary(object(), "sm_80, sm_90; CUDA 13.0", 13000)  # type: ignore[arg-type]
    monkeypatch.setitem(native.libraries, "cuda", built)
    (line,) = (info for info in ops.backend_report() if info.name == "cuda")
    assert not line.available
    assert line.detail == "the library is built (sm_80, sm_90; CUDA 13.0), but torch sees no GPU here"


@pytest.mark.parametrize(
    ("torch_cuda", "said"),
    [
        ("13.2", None),
        ("12.8", "but this torch is for CUDA 12.8: put an nvcc of CUDA 12 on PATH"),
        (None, "is without CUDA: install a CUDA build of torch"),
    ],
)
def test_the_cuda_library_serves_a_torch_of_its_major_version(torch_cuda: str | None, said: str | None) -> None:
    problem = loading.cuda_mismatch(13000, torch_cuda)
    assert problem is None if said is None else said in str(problem)


def test_a_deep_state_is_refused_on_cuda() -> None:
    message = 'A has 33 states, the cuda backend takes up to 32; backend="reference" takes any number'
    with pytest.raises(ValueError, match=message):
        checks.check_states("selective_scan", torch.zeros(4, 33), "cuda")


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_a_lower_instruction_set_can_be_forced(
    library: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, isa: str
) -> None:
    detail = native.libraries["cpu"].detail
    lower = {"instruction set avx512": ("baseline", "avx2"), "instruction set avx2": ("baseline",)}
    if isa not in lower.get(detail, ()):
        pytest.skip(f"{detail} here")
    want = _scan("cpu")
    found = loading.find("cpu", loading.package_folders())
    assert found is not None
    shutil.copy(found, tmp_path)  # a second copy chooses anew when it is loaded
    monkeypatch.setenv("VIM_TRAIN_ISA", isa)
    other = loading.load("cpu", [str(tmp_path)])
    assert other.detail == f"instruction set {isa}"
    monkeypatch.setitem(native.libraries, "cpu", other)
    torch.testing.assert_close(_scan("cpu"), want, rtol=1e-5, atol=1e-5)
