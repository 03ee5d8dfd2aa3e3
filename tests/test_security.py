"""What docs/security.md promises: nothing that a model, a checkpoint or a data file holds is run or logged.

Some tests read the package's own source, because a promise about every call is best kept by looking at them.
"""

import ast
import json
import os
import pickle
import re
import shutil
import stat
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

import distillctl
from distillctl.config.schema import Config
from distillctl.errors import ConfigError, RunFailed
from distillctl.grading import latex
from distillctl.grading.custom import load_reward
from distillctl.host import packages, shared_memory
from distillctl.host.isolation import child_environment, dropped_parts
from distillctl.launch import processes
from distillctl.launch.plan import resolve
from distillctl.models import locate
from distillctl.rollout.start import engine_environment, engine_settings, start_engine
from distillctl.teacher.refusals import server_message
from distillctl.teacher.server import start_server
from distillctl.train.custom_loss import CustomLoss

PACKAGE = Path(distillctl.__file__).parent
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
SECRET = "xyzzy-my-private-prompt"


def calls():
    """Every call of the package: its file, what is called as it is written, the node."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield file, ast.unparse(node.func), node


def keywords(call):
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


@pytest.fixture
def train(folder, distillctl):
    """Runs `train` on the tiny pair, which has to be refused without writing anything: its message."""

    def run(*overrides):
        before = set(folder.rglob("*"))
        tiny = ["train", "--preset", "tiny-from-small-arith", "train.device=cpu", "data.train_batch_size=4"]
        code, out, err = distillctl(*tiny, *overrides)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        assert set(folder.rglob("*")) == before
        return err

    return run


@pytest.fixture
def scratch(tmp_path):
    """A private directory."""
    path = tmp_path / "scratch"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def model(folder):
    """A copy of the tiny student."""
    return Path(shutil.copytree(locate.find_model("builtin:tiny-student", "test").path, folder / "model"))


# --- weights: safetensors only ---------------------------------------------------------------------


@pytest.mark.parametrize("key", ["student.model", "teacher.model"])
def test_a_model_with_pickled_weights_only_is_refused(train, model, key):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    err = train(f"{key}={model}")
    assert f"error: {key}: {model} has no .safetensors weights" in err
    assert "pickled weights are not loaded" in err


@pytest.mark.parametrize("patterns", [locate._WEIGHTS, locate._DESCRIPTION])
def test_nothing_that_can_hold_code_is_fetched_from_the_hub(patterns):
    from huggingface_hub.utils import filter_repo_objects

    harmful = ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "training_args.bin", "model.pt",
               "a.pth", "consolidated.00.pth", "model.ckpt", "x.pkl", "x.pickle", "x.npy", "x.npz",
               "x.joblib", "tf.h5", "modeling_mine.py", "sub/modeling.py", "setup.sh", "x.so"]  # fmt: skip
    assert list(filter_repo_objects(harmful, allow_patterns=patterns)) == []
    assert "config.json" in list(filter_repo_objects(["config.json"], allow_patterns=patterns))


def test_weights_are_loaded_as_safetensors_and_nothing_else():
    loads = [(file, keywords(call)) for file, name, call in calls() if "ForCausalLM.from_pretrained" in name]
    assert loads
    for file, given in loads:
        assert given["use_safetensors"] == "True", file
    formats = [keywords(call).get("load_format") for _, name, call in calls() if name == "LLM"]
    assert formats == ["'safetensors'"]
    server = ast.unparse(TREES["teacher/server.py"])
    assert "'--load-format': 'safetensors'" in server


# --- code of a model's repository ------------------------------------------------------------------


def test_no_call_trusts_remote_code():
    """Where transformers looks for a class, the answer is said: unsaid, it would ask on a terminal."""
    for file, name, call in calls():
        given = keywords(call)
        assert given.get("trust_remote_code", "False") == "False", f"{file}: {name}"
        if name.startswith("Auto") and name.endswith(".from_pretrained"):
            assert "trust_remote_code" in given, f"{file}: {name}"


def test_nothing_else_speaks_of_trusting_code():
    """No option under another spelling: a dictionary of arguments, a switch of vLLM's server."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"trust.remote|remote.code", node.value), file


def test_no_key_allows_it():
    schema = json.dumps(Config.model_json_schema())
    assert '"trust' not in schema
    assert "remote_code" not in schema


@pytest.mark.parametrize("key", ["student.model", "teacher.model"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_needs_code_of_its_repository_is_refused(train, model, key, name):
    tree = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps({**tree, "auto_map": {"AutoModel": "modeling.Mine"}}))
    (model / "modeling.py").write_text("raise SystemExit('this was run')")
    assert "needs code from its repository (auto_map), which is never run" in train(f"{key}={model}")


# --- no pickle -------------------------------------------------------------------------------------


def test_nothing_is_pickled_or_evaluated():
    """By imports and by names. `UnpicklingError` is what torch raises for a file that it refuses."""
    modules = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & modules, file
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in modules:
                assert [alias.name for alias in node.names] == ["UnpicklingError"], file
    for file, name, _ in calls():
        assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"), file
        assert name.split(".")[-1] not in ("full_load", "unsafe_load", "load_all"), f"{file}: {name}"


def test_everything_that_loads_a_file_loads_data_only():
    for file, name, call in calls():
        given = keywords(call)
        if name == "torch.load":
            assert file == "train/checkpoint.py", f"{file}: only checkpoints are read by torch"
            assert given["weights_only"] == "True", file
        if name in ("np.load", "numpy.load"):
            assert given["allow_pickle"] == "False", file
        if name == "yaml.load":
            assert given["Loader"] in safe_loaders(TREES[file]), file


def safe_loaders(tree):
    """Names of YAML loaders that make plain values only: PyYAML's, and this file's own derived from them."""
    safe = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    derived = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return safe | {node.name for node in derived if {ast.unparse(base) for base in node.bases} & safe}


def test_ranks_exchange_no_objects():
    """torch.distributed pickles what `broadcast_object_list`, `all_gather_object` and the like are given."""
    for file, name, _ in calls():
        called = name.split(".")[-1]
        assert not ("_object" in called and name.startswith(("dist.", "torch.", "deepspeed."))), (
            f"{file}: {name}"
        )
        assert called not in ("send_object_list", "recv_object_list", "rpc_sync", "rpc_async"), (
            f"{file}: {name}"
        )


def test_no_shell_is_started():
    for file, name, call in calls():
        assert "shell" not in keywords(call), f"{file}: {name}"


OWN_MODULES = {
    "data/sets/__init__.py": "f'{__name__}.{name}'",
    "grading/answer_types.py": "f'{types.__name__}.{name}'",
    "objective/divergences/__init__.py": "f'{__name__}.{name}'",
}
"""Where modules are imported by name, and their names: of the package's own folders."""


def test_only_what_loads_the_users_files_runs_a_file():
    for file, name, call in calls():
        if name.split(".")[-1] in ("exec_module", "spec_from_file_location", "run_path"):
            assert file == "files/python_file.py", f"{file}: {name}"
        if name.split(".")[-1] == "import_module":
            assert ast.unparse(call.args[0]) == OWN_MODULES[file], f"{file}: {name}"
        if name.split(".")[-1] == "load_dataset":
            assert ast.unparse(call.args[0]) == "HUB_ID", f"{file}: a data set that is not GSM8K"


def test_the_callers_environment_cannot_allow_pickled_requests(monkeypatch, tmp_path):
    names = ["VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_SERVER_DEV_MODE"]
    for name in names:
        monkeypatch.setenv(name, "1")
    environment = engine_environment(0, None, tmp_path)
    assert [environment[name] for name in names] == ["0", "0"]
    assert environment["VLLM_RPC_BASE_PATH"] == str(tmp_path)


# --- code in the directory where the command is typed ----------------------------------------------


def test_every_child_is_given_an_environment_and_a_directory():
    starts = [
        (file, keywords(call))
        for file, name, call in calls()
        if name.split(".")[0] == "subprocess" or name in ("Popen", "os.execv", "os.execve")
    ]
    assert {file for file, _ in starts} >= {"launch/processes.py", "rollout/start.py", "teacher/server.py"}
    for file, given in starts:
        becomes_another = file == "teacher/server.py" and not given  # `os.execv`: it keeps its own of both
        assert becomes_another or {"env", "cwd"} <= set(given), file


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Starts children for real, but of a program that only notes how it was started: what it noted."""
    program, noted = tmp_path / "python", tmp_path / "noted.json"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"open({str(noted)!r}, 'w').write(json.dumps([sys.argv, dict(os.environ), os.getcwd()]))\n"
    )
    program.chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name, value in HOSTILE_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "executable", str(program))

    def run(start):
        process = start()
        if process is not None:
            process.communicate()
        arguments, environment, cwd = json.loads(noted.read_text())
        return arguments, environment, Path(cwd)

    return run


HOSTILE_ENVIRONMENT = {
    "PYTHONPATH": ":.:/opt/mine::lib", "LD_LIBRARY_PATH": "/opt/lib;", "PATH": f"{os.environ['PATH']}:",
    "OMPI_COMM_WORLD_LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8",
}  # fmt: skip


def start_an_engine(scratch):
    settings = engine_settings(
        locate.find_model("builtin:tiny-student", "test"), dtype="float32", socket=scratch / "rollout.sock",
        max_model_len=64, max_num_seqs=2,
    )  # fmt: skip
    return start_engine(settings, Path("engine.json"), scratch / "rollout.log")


def start_a_server(scratch):
    environment = engine_environment(0, None, scratch)
    return start_server([], environment, scratch / "teacher.log")


def start_a_rank(scratch):
    tree = {"student": {"model": "builtin:tiny-student"}, "teacher": {"model": "builtin:tiny-teacher"},
            "data": {"train_files": ["x.parquet"], "max_prompt_length": 9, "max_response_length": 9},
            "train": {"steps": 1, "device": "cpu"}}  # fmt: skip
    plan = resolve(Config.model_validate(tree))
    return processes.start_rank(plan, 0, Path("job.json"), scratch).process


CHILDREN = {
    "engine": start_an_engine,
    "teacher's server": start_a_server,
    "rank": start_a_rank,
    "look at a package": lambda scratch: packages._imports("torchvision") and None,
    "math-verify": lambda scratch: latex._start(),
}


@pytest.mark.parametrize("name", CHILDREN)
def test_no_child_takes_code_from_the_working_directory(child, scratch, name):
    _, environment, cwd = child(lambda: CHILDREN[name](scratch))
    assert cwd in (scratch, Path("/"))
    assert environment["PYTHONSAFEPATH"] == "1"
    for variable in ("PYTHONPATH", "PATH", "LD_PRELOAD"):
        if variable in environment:
            assert all(map(os.path.isabs, environment[variable].split(":"))), variable
    assert environment["PYTHONPATH"] == "/opt/mine"
    assert environment["LD_LIBRARY_PATH"] == "/opt/lib"


@pytest.mark.parametrize("name", ["engine", "rank"])
def test_children_get_absolute_paths(child, scratch, name):
    arguments, _, _ = child(lambda: CHILDREN[name](scratch))
    assert arguments[-1] == str(Path.cwd() / Path(arguments[-1]).name)


def test_an_engine_keeps_its_temporary_files_in_the_private_directory(child, scratch):
    for name in ("engine", "teacher's server"):
        _, environment, cwd = child(lambda name=name: CHILDREN[name](scratch))
        assert environment["TMPDIR"] == str(cwd) == str(scratch)


def test_a_rank_is_not_told_the_rank_that_another_launcher_gave_us(child, scratch):
    _, environment, _ = child(lambda: start_a_rank(scratch))
    assert (environment["RANK"], environment["LOCAL_RANK"]) == ("0", "0")
    assert {"OMPI_COMM_WORLD_LOCAL_RANK", "LOCAL_WORLD_SIZE"}.isdisjoint(environment)


def test_an_empty_list_of_libraries_does_not_stay_empty(tmp_path):
    """cv2 puts its own before it with a colon, and an empty part would be left to the children of a child."""
    for given in ({}, {"LD_LIBRARY_PATH": ""}, {"LD_LIBRARY_PATH": "lib:."}):
        assert child_environment(given, tmp_path)["LD_LIBRARY_PATH"] == str(tmp_path)


def test_a_library_by_its_name_is_the_systems_and_stays():
    given = {"LD_PRELOAD": "libjemalloc.so.2 ./mine.so:/opt/a.so"}
    assert child_environment(given, "/")["LD_PRELOAD"] == "libjemalloc.so.2:/opt/a.so"


def test_parts_that_somebody_wrote_and_children_do_not_get_are_named(monkeypatch):
    for name in ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", "src::/opt/mine")
    assert dropped_parts() == ["PYTHONPATH=src"]


def test_a_module_in_the_working_directory_is_not_imported(tmp_path, monkeypatch):
    """A real child: without its guard `python -c` looks there first."""
    (tmp_path / "colorsys.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    assert packages._imports("colorsys")
    assert not packages._imports("no_such_module_at_all")


# --- checkpoints -----------------------------------------------------------------------------------


class Hostile:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def scan(tmp_path):
    """Has the loader's scan look at the file that `write` makes."""
    pytest.importorskip("deepspeed")
    from distillctl.train.checkpoint import _scan

    def run(write):
        write(tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
        _scan(tmp_path, SimpleNamespace(rank=0, world_size=1))

    return run


def torch_file(value, **options):
    import torch

    return lambda path: torch.save(value, path, **options)


def as_tar(value):
    """torch's first format, which its loader still takes."""

    def write(path):
        inside = path.with_suffix(".inside")
        inside.write_bytes(pickle.dumps(value))
        with tarfile.open(path, "w") as archive:
            for name in ("storages", "tensors", "pickle"):
                archive.add(inside, name)

    return write


FORMATS = {
    "torch": torch_file,
    "torch before 1.6": lambda value: torch_file(value, _use_new_zipfile_serialization=False),
    "plain pickle": lambda value: lambda path: path.write_bytes(pickle.dumps(value)),
    "tar": as_tar,
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_checkpoint_that_would_run_code_is_refused(scan, tmp_path, name):
    marker = tmp_path / "marker"
    hostile = FORMATS[name]({"module": {}, "client_state": Hostile(marker)})
    with pytest.raises(RunFailed, match=r"optim_states\.pt is refused: it holds more than tensors"):
        scan(hostile)
    assert not marker.exists()


def test_the_hostile_file_would_have_run_code(tmp_path):
    """Otherwise the tests above proved nothing: DeepSpeed reads a checkpoint like this."""
    import torch

    FORMATS["torch"](Hostile(tmp_path / "marker"))(tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "marker").is_dir()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint" * 100], ids=["empty", "garbage"])
def test_a_checkpoint_that_is_no_torch_file_is_refused(scan, content):
    with pytest.raises(RunFailed, match="is refused"):
        scan(lambda path: path.write_bytes(content))


def test_what_deepspeed_writes_is_accepted(scan):
    import torch
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    state = {"fp32_flat_groups": [torch.ones(3)], "zero_stage": ZeroStageEnum.weights, "step": 3,
             "none": None, "loss_scaler": LossScaler(1.0),
             "run": {"cursor": [1, 2.0, "a", True]}}  # fmt: skip
    scan(torch_file(state))


def test_every_rank_scans_its_share(tmp_path):
    pytest.importorskip("deepspeed")
    from distillctl.train.checkpoint import _scan

    for name in ("a.pt", "b.pt"):
        torch_file({"x": 1})(tmp_path / name)
    torch_file(Hostile(tmp_path / "marker"))(tmp_path / "c.pt")
    _scan(tmp_path, SimpleNamespace(rank=1, world_size=2))
    with pytest.raises(RunFailed, match=r"c\.pt is refused"):
        _scan(tmp_path, SimpleNamespace(rank=0, world_size=2))


# --- the code of reward and loss -------------------------------------------------------------------

REWARD = "import os\nos.mkdir({marker!r})\ndef compute_score(**kwargs):\n    return 0.0\n"


def test_the_reward_is_not_looked_for_beside_models_or_data(train, model, folder):
    for place in (model, folder / "data" / "arith"):
        (place / "reward.py").write_text(REWARD.format(marker=str(folder / "marker")))
    err = train(f"student.model={model}", "reward.path=reward.py", "rollout.n=2")
    assert "reward.path: reward.py: no such file" in err
    assert not (folder / "marker").exists()


def test_the_reward_is_run_from_the_path_that_is_named(folder):
    (folder / "reward.py").write_text(REWARD.format(marker=str(folder / "marker")))
    load_reward("reward.py", "compute_score")
    assert (folder / "marker").is_dir()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "fifo"])
def test_the_reward_is_a_regular_file(folder, make):
    make("reward.py")
    with pytest.raises(ConfigError, match=r"reward\.path: reward\.py: no such file"):
        load_reward("reward.py", "compute_score")


LOSS = "import os\nos.mkdir({marker!r})\ndef loss(s, t):\n    return (s.exp() * (s - t)).sum(-1)\n"


def test_the_loss_is_not_looked_for_beside_models_or_data(train, model, folder):
    for place in (model, folder / "data" / "arith"):
        (place / "loss.py").write_text(LOSS.format(marker=str(folder / "marker")))
    err = train(f"student.model={model}", "loss.path=loss.py")
    assert "loss.path: loss.py: no such file" in err
    assert not (folder / "marker").exists()


def test_the_loss_is_run_from_the_path_that_is_named(folder):
    (folder / "loss.py").write_text(LOSS.format(marker=str(folder / "marker")))
    CustomLoss.load("loss.py", folder)
    assert (folder / "marker").is_dir()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "fifo"])
def test_the_loss_is_a_regular_file(folder, make):
    make("loss.py")
    with pytest.raises(ConfigError, match=r"loss\.path: loss\.py: no such file"):
        CustomLoss.load("loss.py", folder)


def test_the_path_of_code_comes_from_the_configuration_or_the_command_line():
    found = [
        (file, ast.unparse(call.args[0])) for file, name, call in calls() if name.endswith("load_reward")
    ]
    configured = {argument for file, argument in found if file != "evaluate/rescore.py"}
    assert configured
    assert all(
        argument.removeprefix("plan.") in ("config.reward.path", "reward.path") for argument in configured
    )
    assert ("evaluate/rescore.py", "path") in found  # of `eval --score`
    losses = {
        (file, ast.unparse(call.args[0])) for file, name, call in calls() if name.endswith("CustomLoss.load")
    }
    assert losses == {("train/objectives.py", "loss.path"), ("train/custom_loss.py", "settings['path']")}
    assert "path = plan.config.loss.path" in ast.unparse(TREES["launch/loss_trial.py"])


# --- logs ------------------------------------------------------------------------------------------


def test_vllm_logs_no_requests():
    """`LLM` of the rollout worker has no request log at all; the server's is off, and its access log."""
    source = ast.unparse(TREES["teacher/server.py"])
    for switch in ("--no-enable-log-requests", "--disable-uvicorn-access-log"):
        assert repr(switch) in source
    for tree in TREES.values():
        assert "--enable-log-outputs" not in ast.unparse(tree)


MALFORMED = {
    "not JSON": ("x.jsonl", f'{{"prompt": "{SECRET}", '),
    "a control character": ("x.jsonl", f'{{"prompt": "{SECRET}\x01"}}'),
    "text instead of an object": ("x.jsonl", f'"{SECRET}"'),
    "another column": ("x.jsonl", f'{{"question": "{SECRET}"}}'),
    "a message that is text": ("x.jsonl", f'{{"prompt": ["{SECRET}"]}}'),
    "no user message": ("x.jsonl", f'{{"prompt": [{{"role": "system", "content": "{SECRET}"}}]}}'),
    "half a surrogate pair": ("x.jsonl", f'{{"prompt": "{SECRET} \\ud800"}}'),
    "not UTF-8": ("x.jsonl", f'{{"prompt": "{SECRET} \xff"}}'.encode("latin-1")),
    "text as a struct": ("x.jsonl", f'{{"prompt": "hello", "extra_info": "{SECRET}"}}'),
    "an array that stops": ("x.json", f'[{{"prompt": "{SECRET}"}},'),
    "a huge number": ("x.jsonl", f'{{"prompt": "{SECRET}", "n": {"1" * 5000}}}'),
    "no parquet": ("x.parquet", SECRET * 100),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_an_error_in_the_data_names_the_line_and_not_its_content(train, folder, name):
    file, content = MALFORMED[name]
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    err = train(f'data.train_files=["{file}"]')
    assert f"error: {file}:" in err
    assert SECRET not in err


@pytest.mark.parametrize(
    "detail",
    [
        "1 validation error:\n  {'type': 'missing', 'loc': ('body',), 'input': {'prompt': [31337, 1, 2]}}",
        "1 validation error for Request\n  Field required [type=missing, input_value={'prompt': [31337, 5]}]",
        "invalid prompt [31337, 4, 5, 6]",
        "invalid prompt [4, 5, 31337",
        '{"input": [31337]}',
    ],
)
def test_a_servers_message_is_cut_where_it_repeats_token_ids(detail):
    bodies = [{"error": {"message": detail}}, {"detail": detail}, {"message": detail}]
    for response in (*(httpx.Response(400, json=body) for body in bodies), httpx.Response(400, text=detail)):
        assert "31337" not in server_message(response)


def test_a_servers_message_without_input_is_kept():
    told = "This model's maximum context length is 512 tokens [max_tokens=1], one of [1, 2]"
    assert server_message(httpx.Response(400, json={"error": {"message": told}})) == told


TEXTS = {"text", "texts", "question", "content", "messages", "ground_truth", "reference", "solution_str",
         "response_ids", "prompt_ids", "token_ids", "reference_ids"}  # fmt: skip


def test_no_event_carries_text_or_tokens():
    found = [(file, call) for file, name, call in calls() if name.endswith(".emit")]
    assert found
    for file, call in found:
        assert not names(call) & TEXTS, f"{file}: {ast.unparse(call)}"


def test_no_message_is_put_together_from_text_or_tokens():
    """`inspection.catalogue` shows data on request; others may say how many tokens there are."""
    for file, tree in TREES.items():
        if file == "inspection/catalogue.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise):
                parts = [p for p in ast.walk(node) if isinstance(p, ast.FormattedValue)]
                for part in parts:
                    assert not names(part) & TEXTS, f"{file}: {ast.unparse(node)}"


def names(node):
    """Identifiers inside a node, but not those of which only the length is taken."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "len":
        return set()
    own = {getattr(node, "id", None), getattr(node, "attr", None)} - {None}
    return own.union(*map(names, ast.iter_child_nodes(node)))


# --- files of a run --------------------------------------------------------------------------------


def test_the_scratch_directory_is_private():
    """Whatever the umask. Its sockets: rollout/test_engine.py, teacher/test_served.py."""
    before = os.umask(0)
    try:
        with shared_memory.scratch_directory() as scratch:
            assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
            assert scratch.stat().st_uid == os.getuid()
    finally:
        os.umask(before)
