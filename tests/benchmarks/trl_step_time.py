"""Step times of TRL's DistillationTrainer on a CPU, for `step_time.py`, which starts it and makes its input.

    python tests/benchmarks/trl_step_time.py STUDENT TEACHER PROMPTS [--tokens 128] [--batch 8]
        [--accumulate 2] [--steps 4] [--natural]

PROMPTS holds a chat (`{"prompt": [message, …]}`) a line, one for each sample of all steps. Needs trl 1.16
(the extra `trl`). Prints one line of JSON: `step_s`, the seconds of every optimizer step with generation,
both forward passes, backward pass, clipping and AdamW; `lengths`, the mean tokens of its responses; and
`peak_rss_bytes`. Every response has exactly --tokens tokens; with --natural it may end before.
"""

import argparse
import json
import resource
import tempfile
import time

from datasets import load_dataset
from transformers import TrainerCallback
from trl import DistillationConfig, DistillationTrainer


class StepClock(TrainerCallback):
    """Notes how long each optimizer step takes."""

    def __init__(self):
        self.step_s = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.step_s.append(time.perf_counter() - self.began)


def settings(args, folder):
    """The settings of distillctl's own run in `step_time.py`: exact reverse KL (beta 1), AdamW, clipping."""
    generation = {} if args.natural else {"min_new_tokens": args.tokens}
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_completion_length": args.tokens}
    optimizer = {"optim": "adamw_torch", "learning_rate": 1e-5, "lr_scheduler_type": "constant",
                 "warmup_steps": 0, "max_grad_norm": 1.0}  # fmt: skip
    sizes = {"per_device_train_batch_size": args.batch, "gradient_accumulation_steps": args.accumulate,
             "max_steps": args.steps}  # fmt: skip
    machine = {"use_cpu": True, "bf16": False, "use_vllm": False, "gradient_checkpointing": False}
    models = {name: {"dtype": "float32"} for name in ("model_init_kwargs", "teacher_model_init_kwargs")}
    quiet = {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    return DistillationConfig(
        output_dir=folder, seed=0, beta=1.0, shuffle_dataset=False, disable_dropout=True,
        generation_kwargs=generation, **sampling, **optimizer, **sizes, **machine, **models, **quiet,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("student", "teacher", "prompts"):
        parser.add_argument(name)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8, help="sequences of a micro-batch")
    parser.add_argument("--accumulate", type=int, default=2, help="micro-batches of a step")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--natural", action="store_true")
    args = parser.parse_args()
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        prompts = load_dataset("json", data_files=args.prompts, split="train", cache_dir=folder)
        trainer = DistillationTrainer(
            model=args.student, teacher_model=args.teacher, args=settings(args, folder),
            train_dataset=prompts, callbacks=[clock],
        )  # fmt: skip
        trainer.train()
    lengths = [log["completions/mean_length"] for log in trainer.state.log_history if "loss" in log]
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps({"step_s": clock.step_s, "lengths": lengths, "peak_rss_bytes": peak_bytes}))


if __name__ == "__main__":
    main()
