"""What one sampled token knows: expected gradient and variance of every objective, enumerated exactly.

    python tests/benchmarks/gradient_variance.py [--prompts 8]

The tiny student answers arithmetic prompts; at each of its tokens the gradient with respect to the logits is
computed for every token that could have been sampled there. Columns: cosine of the expected gradient with the
gradients of the reverse and of the forward KL, its length over that of the reverse KL's gradient, and the
noise of one sample, E|g - E g|^2 / |E g|^2.
"""

import argparse
from dataclasses import replace

import torch

from distillctl.data.sets import arith
from distillctl.data.sets.gsm8k import INSTRUCTION
from distillctl.models.locate import find_model
from distillctl.objective.chunked import token_losses
from distillctl.objective.inputs import Objective, Tokens
from distillctl.objective.log_probs import log_probs
from distillctl.objective.teacher_scores import TeacherChunk

OBJECTIVES = {
    "reverse_kl": Objective(vocab_size=0),
    "forward_kl": Objective(vocab_size=0, kind="forward_kl"),
    "jsd, beta 0.5": Objective(vocab_size=0, kind="jsd"),
    "topk, K=1, forward": Objective(vocab_size=0, kind="topk", topk=1),
    "topk, K=8, forward": Objective(vocab_size=0, kind="topk", topk=8),
    "topk, K=8, reverse": Objective(vocab_size=0, kind="topk", topk=8, topk_divergence="reverse_kl"),
    "student_topk, K=1": Objective(vocab_size=0, kind="student_topk", topk=1),
    "student_topk, K=8": Objective(vocab_size=0, kind="student_topk", topk=8),
    **{
        f"sampled, {name}": Objective(vocab_size=0, kind="sampled", estimator=name)
        for name in ("k1", "k2", "k3", "k3+", "abs")
    },
    "sampled, policy gradient": Objective(vocab_size=0, kind="sampled", policy_gradient=True),
}


def log_probabilities(num_prompts, max_new_tokens=48):
    """log q, log p [N, V]: both models at every token of one sampled answer to each prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    paths = [find_model(f"builtin:{name}", "").path for name in ("tiny-student", "tiny-teacher")]
    tokenizer = AutoTokenizer.from_pretrained(paths[0])
    student, teacher = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in paths)
    torch.manual_seed(0)
    parts = []
    for problem in arith.generate(num_prompts, 1):
        chat = [{"role": "user", "content": f"{problem.question} {INSTRUCTION}"}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        prompt = torch.tensor([ids])
        with torch.no_grad():
            out = student.generate(
                prompt, do_sample=True, top_k=0, max_new_tokens=max_new_tokens, pad_token_id=0
            )
            hidden = [m.base_model(out).last_hidden_state[0, len(ids) - 1 : -1] for m in (student, teacher)]
        heads = [m.get_output_embeddings().weight[: len(tokenizer)] for m in (student, teacher)]
        parts.append([log_probs(h, w.detach(), 1.0) for h, w in zip(hidden, heads, strict=True)])
    return [torch.cat(rows).double().log_softmax(-1) for rows in zip(*parts, strict=True)]


def moments(log_q_NV, log_p_NV, objective):
    """E g [N, V] and E|g|^2 summed over the tokens, over all samples y of each token."""
    q_NV = log_q_NV.exp()
    mean_NV, square = torch.zeros_like(q_NV), 0.0
    num_tokens, vocab_size = q_NV.shape
    objective = replace(objective, vocab_size=vocab_size)
    samples = range(vocab_size) if objective.kind in ("sampled", "student_topk") else [None]
    for y in samples:
        share_N = torch.ones(num_tokens, dtype=q_NV.dtype) if y is None else q_NV[:, y]
        y = y or 0  # the others do not depend on it
        target_N = torch.full((num_tokens,), y)
        rollout_logp_N = log_q_NV[:, y]
        inputs = Tokens(target_N, torch.ones(num_tokens, dtype=torch.float64), rollout_logp_N)
        teacher = TeacherChunk(log_p_NV[:, y], log_p_CV=log_p_NV)
        _, gradient_NV = token_losses(log_q_NV, teacher, inputs, objective)
        mean_NV += share_N[:, None] * gradient_NV
        square += float(share_N @ gradient_NV.square().sum(-1))
    return mean_NV, square


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    log_q_NV, log_p_NV = log_probabilities(parser.parse_args().prompts)
    found = {name: moments(log_q_NV, log_p_NV, objective) for name, objective in OBJECTIVES.items()}
    reverse, forward = found["reverse_kl"][0], found["forward_kl"][0]
    print(f"{log_q_NV.shape[0]} tokens, vocabulary {log_q_NV.shape[1]}")
    print(f"{'objective':28}{'cos reverse':>12}{'cos forward':>12}{'length':>9}{'noise':>10}")
    for name, (mean, square) in found.items():
        norm = float(mean.norm())
        if norm < 1e-9 * square**0.5:
            print(f"{name:28}{'-':>12}{'-':>12}{0.0:9.2f}{'infinite':>10}")
            continue
        cosines = [float((mean * other).sum() / (norm * other.norm())) for other in (reverse, forward)]
        noise = max(0.0, square / norm**2 - 1.0)
        print(
            f"{name:28}{cosines[0]:12.3f}{cosines[1]:12.3f}{norm / float(reverse.norm()):9.2f}{noise:10.2f}"
        )


if __name__ == "__main__":
    main()
