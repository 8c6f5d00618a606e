"""How an installation chooses what to compile: build_backend, without compiling anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import vim_train_build as backend
import vim_train_toolchain as toolchain

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the CUDA library is for Linux")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a C++ compiler and nothing of CUDA; `machine(path, script)` puts a program on it."""
    for name in ("CXX", "CUDACXX", "CUDAHOSTCXX", "CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "VIM_TRAIN_CUDA"):
        monkeypatch.delenv(name, raising=False)

    def program(path, script):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return str(file)

    program("bin/c++", "while read -r line; do :; done")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(toolchain, "USUAL_CUDA_HOME", str(tmp_path / "usual"))
    monkeypatch.chdir(tmp_path)
    return program


WORKING_NVCC = "echo Cuda compilation tools, release 13.0, V13.0.88"
FAILING_NVCC = "echo 'x.h(3): warning: odd'; echo 'nvcc fatal   : no such target' >&2; echo done; exit 1"


@pytest.mark.parametrize("value", [None, "", "auto", "on", "off", "pip"])
def test_every_mode_is_accepted_and_auto_is_the_default(value, machine, monkeypatch):
    if value is not None:
        monkeypatch.setenv("VIM_TRAIN_CUDA", value)
    assert toolchain.cuda_mode() == (value or "auto")


def test_another_value_is_refused_in_one_line_before_anything_is_installed(machine, monkeypatch):
    monkeypatch.setenv("VIM_TRAIN_CUDA", "yes")
    with pytest.raises(SystemExit, match=r"^vim-train: VIM_TRAIN_CUDA=yes: accepted are auto, on, off, pip$"):
        backend.get_requires_for_build_wheel()


def test_nvcc_is_looked_for_where_it_usually_is(machine, monkeypatch, tmp_path):
    with pytest.raises(toolchain.Unusable, match="no nvcc on PATH"):
        toolchain.find_nvcc()
    assert machine("usual/bin/nvcc", WORKING_NVCC) == toolchain.find_nvcc()
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "path"))
    assert machine("path/bin/nvcc", WORKING_NVCC) == toolchain.find_nvcc()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert machine("home/bin/nvcc", WORKING_NVCC) == toolchain.find_nvcc()
    assert machine("bin/nvcc", WORKING_NVCC) == toolchain.find_nvcc()
    monkeypatch.setenv("CUDACXX", machine("named/my-nvcc", WORKING_NVCC))
    assert toolchain.find_nvcc() == os.environ["CUDACXX"]


def test_a_named_nvcc_that_does_not_exist_is_not_replaced_by_another(machine, monkeypatch):
    machine("bin/nvcc", WORKING_NVCC)
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    tools = toolchain.find_toolchain()
    assert tools.nvcc is None
    assert "CUDACXX=/nowhere/nvcc is no program" in tools.record["cuda"]


def test_a_working_nvcc_is_used_with_the_c_plus_plus_compiler(machine, tmp_path):
    nvcc = machine("bin/nvcc", WORKING_NVCC)
    tools = toolchain.find_toolchain()
    assert (tools.cxx, tools.nvcc) == ("c++", nvcc)
    assert tools.environment == {"CUDAHOSTCXX": str(tmp_path / "bin/c++")}
    assert tools.record_text() == "cpu: built by c++\ncuda: built by nvcc 13.0.88\n"


def test_off_does_not_even_look(machine, monkeypatch):
    machine("bin/nvcc", "echo looked > looked")
    monkeypatch.setenv("VIM_TRAIN_CUDA", "off")
    assert toolchain.find_toolchain().record["cuda"] == "not built: VIM_TRAIN_CUDA=off"
    assert not Path("looked").exists()


@pytest.mark.parametrize(
    ("nvcc", "why"),
    [
        (None, "no nvcc on PATH"),
        (FAILING_NVCC, "does not work (nvcc fatal : no such target)"),
        ("echo hello", "names no version of nvcc"),
        ("echo Cuda compilation tools, release 11.8, V11.8.89", "is of CUDA 11.8.89, older than 12"),
    ],
)
def test_no_usable_nvcc_leaves_the_cpu_library_and_a_line_or_fails_where_it_is_demanded(
    nvcc, why, machine, monkeypatch
):
    if nvcc:
        machine("bin/nvcc", nvcc)
    tools = toolchain.find_toolchain()
    assert (tools.cxx, tools.nvcc, tools.environment) == ("c++", None, {})
    assert tools.record["cuda"].startswith("not built: ")
    assert why in tools.record["cuda"]
    assert "CUDACXX" in tools.record["cuda"]
    assert "\n" not in tools.record["cuda"]

    monkeypatch.setenv("VIM_TRAIN_CUDA", "on")
    with pytest.raises(SystemExit) as exit:
        toolchain.find_toolchain()
    assert str(exit.value).startswith("vim-train: VIM_TRAIN_CUDA=on: ")
    assert why in str(exit.value)
    assert "\n" not in str(exit.value)


def test_without_a_c_plus_plus_compiler_there_is_neither_library(machine, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    tools = toolchain.find_toolchain()
    assert (tools.cxx, tools.nvcc) == (None, None)
    assert tools.record["cpu"].startswith("not built: no working C++ compiler (/nowhere/c++)")
    monkeypatch.setenv("VIM_TRAIN_CUDA", "on")
    with pytest.raises(SystemExit, match=r"^vim-train: VIM_TRAIN_CUDA=on: no working C"):
        toolchain.find_toolchain()


def test_pip_mode_adds_the_packages_of_an_nvcc_to_the_build_environment(machine, monkeypatch):
    names = [requirement.partition("==")[0] for requirement in toolchain.pip_requirements([])]
    assert names == ["nvidia-cuda-nvcc", "nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-nvvm"]
    monkeypatch.chdir(ROOT)  # where a front end calls the hooks
    for hook in (backend.get_requires_for_build_wheel, backend.get_requires_for_build_editable):
        monkeypatch.setenv("VIM_TRAIN_CUDA", "pip")
        monkeypatch.setattr(toolchain, "site_folders", lambda: [])
        assert set(toolchain.pip_requirements()) <= set(hook())
        monkeypatch.setenv("VIM_TRAIN_CUDA", "auto")
        assert not any("nvidia" in requirement for requirement in hook())


@pytest.mark.parametrize(
    ("cuda", "wanted"), [("'13.0'", "13.0"), ("'13.2'", "13.2"), ("'14.1.3'", "14.1"), ("None", "13.0")]
)
def test_pip_mode_matches_the_installed_torch_without_importing_it(cuda, wanted, tmp_path):
    _install_torch(tmp_path, cuda)
    requirements = toolchain.pip_requirements(["/nowhere", str(tmp_path)])
    assert {requirement.partition("==")[2] for requirement in requirements} == {f"{wanted}.*"}


def test_pip_mode_refuses_a_torch_for_cuda_12_whose_packages_have_no_nvcc(tmp_path):
    _install_torch(tmp_path, "'12.8'")
    with pytest.raises(SystemExit, match=r"^vim-train: VIM_TRAIN_CUDA=pip: .*CUDA 12\.8.*$"):
        toolchain.pip_requirements([str(tmp_path)])


def test_pip_mode_finds_that_nvcc_and_its_libraries(machine, monkeypatch, tmp_path):
    nvcc = machine("site/nvidia/cu13/bin/nvcc", WORKING_NVCC)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.setenv("VIM_TRAIN_CUDA", "pip")
    tools = toolchain.find_toolchain()
    assert tools.nvcc == nvcc
    assert tools.environment["LIBRARY_PATH"].split(os.pathsep)[0] == str(tmp_path / "site/nvidia/cu13/lib")


def test_kernels_that_do_not_compile_leave_the_cpu_library_and_say_why(machine, capfd):
    machine("bin/nvcc", WORKING_NVCC)
    tried = []

    def build(settings):
        tried.append(settings["cmake.define.VIM_TRAIN_CUDA"])
        if tried[-1] == "ON":
            subprocess.run(["/bin/sh", "-c", "echo 'scan.cu(7): error: no such $thing'; echo stopped"], check=True)
            raise SystemExit(1)
        return "a.whl"

    assert backend._build_what_can_be(build, {}) == "a.whl"
    assert tried == ["ON", "OFF"]
    out, err = capfd.readouterr()
    assert "scan.cu(7): error" in out  # what the compiler prints is shown as ever
    assert err.count("\n") == 1
    assert "failed (scan.cu(7): error: no such $thing)" in err
    assert backend.RECORD.read_text().replace("$$", "$").splitlines()[1] == err.strip().replace(
        "vim-train: cuda library", "cuda:"
    )


def test_kernels_that_do_not_compile_fail_the_build_where_they_are_demanded(machine, monkeypatch):
    machine("bin/nvcc", WORKING_NVCC)
    monkeypatch.setenv("VIM_TRAIN_CUDA", "on")

    def build(settings):
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        backend._build_what_can_be(build, {})


def _install_torch(folder, cuda):
    (folder / "torch").mkdir()
    text = f"__all__ = ['cuda']\n__version__ = '2.15.0'\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n"
    (folder / "torch" / "version.py").write_text(text)
